"""The retention rates of GRACE (Hartvigsen et al., NeurIPS 2023): what a model retains after a sequence of edits.

At a point of a run's curve, after t edits, the model is asked the prompts of a test file, which are unrelated to the
edits, and the prompts of all t edits.

- TRR, test retention rate: the share of the test prompts that are answered correctly.
- ERR, edit retention rate: the share of the edits 1 ... t whose target the model still generates.
- average: the mean of TRR and ERR, the column "Avg." of the paper's table.
- ARR, accurate retention rate: TRR over only the test prompts that the unedited model answers correctly.

All except the average also have a perplexity: exp of the mean over prompts of -log p(answer | prompt) per token, which
the paper uses for sentences (there as the mean of each sentence's own perplexity). If a test file has sentences that
are known to be accurate (WikiBio), ARR is measured on these, as a perplexity only. A greedy answer is right if it
contains a name of the answer as whole words. An edit is retained if the continuation of its prompt begins with the
target; in chat form, if the first sentence of the answer contains it. A model that can't be asked, because its edits
broke it, has rates of 0 and no perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from kg_common.json_text import digest
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Query
from kg_edit.errors import EditFileError
from kg_edit.evaluation.case import is_asked_in_chat
from kg_edit.evaluation.datasets import readable_records
from kg_edit.evaluation.metrics.metric import mean
from kg_edit.evaluation.statistics import LARGEST_NLL
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.asking import ask_each
from kg_edit.scoring.judging import says_in_first_sentence
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.questions import generation_prompt, pair_of
from kg_edit.scoring.requests import ANSWER_TOKENS, Continued, Requests
from kg_edit.text.matching import begins_with, mentions

PREFIX = "retention."
TRR = "retention.TRR"
ERR = "retention.ERR"
AVERAGE = "retention.average"
ARR = "retention.ARR"
PERPLEXITY = ".perplexity"
TESTED = 1000  # the number of first prompts to use of a test file, as in the paper
_NQ = "nq question: "  # zsRE's prefix of a Natural Questions prompt


class RetentionAnswer(NamedTuple):
    """A model's answer to one prompt: whether it is right, and -log p of the right answer per token, in nats."""

    right: bool
    nll: float


@dataclass(frozen=True)
class RetentionTest:
    """The prompts of a test file, each with its right answers."""

    queries: tuple[Query, ...]
    accurate: tuple[Query, ...] = ()  # sentences that are known to be right; ARR is their perplexity

    @classmethod
    def of(cls, records: Iterable[BenchmarkRecord]) -> RetentionTest:
        """Return the first `TESTED` unrelated prompts and accurate sentences of ``records``, each query once."""
        queries = dict[Query, None]()
        accurate = list[Query]()
        for record in records:
            for query in (*record.queries("locality"), *record.queries("recall")):
                if query.answers:
                    queries[_remove_prefix(query)] = None
            accurate += record.queries("accurate")
        return cls(tuple(queries)[:TESTED], tuple(accurate[:TESTED]))

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the prompts and answers: part of a run's settings."""
        queries = [query.model_dump(mode="json") for query in self.queries]
        accurate = [query.model_dump(mode="json") for query in self.accurate]
        return digest([queries, accurate])

    def check(self, model: LanguageModel) -> None:
        """Check that every prompt can be asked in ``model``'s form, before any other work."""
        for query in self.queries:
            pair = pair_of(query)
            model.encode(pair.prompt, target=pair.candidate)
            model.check_length(model.encode(generation_prompt(query)), new_tokens=ANSWER_TOKENS)
        for pair in map(pair_of, self.accurate):
            model.encode(pair.prompt, target=pair.candidate)

    def replies(self, model: LanguageModel) -> list[RetentionAnswer]:
        """Return the model's answers to the prompts in its form, plain or chat, in order."""
        return _ask(model, self.queries, is_right=mentions)

    def scores(
        self,
        model: LanguageModel,
        edits: Sequence[Edit],
        *,
        before: Sequence[RetentionAnswer],
        chat: bool | None = None,
    ) -> dict[str, float | None]:
        """Return all rates and perplexities of a model.

        Args:
            model: the model with the edits, in its plain form.
            edits: those in it.
            before: the unedited model's `replies`.
            chat: ask everything in chat form, or in plain text; None: each edit in the form in which it is made, the
                test prompts in plain text.
        """
        model = model.in_chat(chat=bool(chat))
        tested = self.replies(model)
        edited = edit_replies(model, edits, chat=chat)
        trr = mean(reply.right for reply in tested)
        err = mean(reply.right for reply in edited)
        average = None
        if trr is not None and err is not None:
            average = (trr + err) / 2
        if self.accurate:  # sentences; no greedy answers are generated for them
            losses = score(model, map(pair_of, self.accurate))
            accurate = [RetentionAnswer(False, losses[pair_of(query)].nll) for query in self.accurate]
            arr = None
        else:
            accurate = [now for now, then in zip(tested, before, strict=True) if then.right]
            arr = mean(reply.right for reply in accurate)
        return {
            TRR: trr,
            ERR: err,
            AVERAGE: average,
            ARR: arr,
            f"{TRR}{PERPLEXITY}": _compute_perplexity(tested),
            f"{ERR}{PERPLEXITY}": _compute_perplexity(edited),
            f"{ARR}{PERPLEXITY}": _compute_perplexity(accurate),
        }


def _compute_perplexity(answers: Iterable[RetentionAnswer]) -> float | None:
    """Return exp of the mean NLL over prompts; None if there is no prompt."""
    nll = mean(answer.nll for answer in answers)
    if nll is None:
        return None
    return math.exp(min(nll, LARGEST_NLL))


def query_of_edit(edit: Edit) -> Query:
    """Return a query with an edit's prompt and its target."""
    return Query(prompt=edit.text, answers=((edit.target_new,),), form="sentence")


def edit_replies(model: LanguageModel, edits: Sequence[Edit], *, chat: bool | None = None) -> list[RetentionAnswer]:
    """Return the model's answers to the prompts of edits, those in plain text first.

    ``chat`` as in `RetentionTest.scores`.
    """
    plain = list[Query]()
    in_chat = list[Query]()
    for edit in edits:
        if is_asked_in_chat(edit, chat=chat):
            in_chat.append(query_of_edit(edit))
        else:
            plain.append(query_of_edit(edit))
    replies = list[RetentionAnswer]()
    if plain:
        replies += _ask(model.in_chat(chat=False), plain, is_right=begins_with)
    if in_chat:  # a chat model answers in a sentence, which may not begin with the target
        replies += _ask(model.in_chat(), in_chat, is_right=says_in_first_sentence)
    return replies


def _ask(
    model: LanguageModel, queries: Sequence[Query], *, is_right: Callable[[str, str], bool]
) -> list[RetentionAnswer]:
    """Return the model's answers; a greedy answer is right if ``is_right(text, name)`` for a name of an answer."""
    pairs = [pair_of(query) for query in queries]
    texts = [Continued(prompt=generation_prompt(query), answers=query.answers[0][:1]) for query in queries]
    (evidence,) = ask_each(model, [Requests(continued=tuple(texts), pairs=tuple(pairs))])
    replies = []
    for query, pair in zip(queries, pairs, strict=True):
        text = evidence.texts[generation_prompt(query)]
        right = any(is_right(text, name) for name in query.right_names)
        replies.append(RetentionAnswer(right, evidence.scores[pair].nll))
    return replies


def average_rates(points: Iterable[Mapping[str, float | None] | None], names: Iterable[str]) -> dict[str, float | None]:
    """Return the mean over sequences of each rate at one point.

    A point is None if the model of its sequence could not be asked. Such a sequence counts with a rate of 0. It has no
    perplexity, and then the mean perplexity is None too.
    """
    measured = list(points)
    means = dict[str, float | None]()
    for name in names:
        if name.endswith(PERPLEXITY) and None in measured:
            means[name] = None
        else:
            rates: list[float | None] = []
            for point in measured:
                if point is None:
                    rates.append(0.0)
                else:
                    rates.append(point.get(name))
            means[name] = mean(rates)
    return means


def read_retention_test(path: str | Path) -> RetentionTest:
    """Read the first `TESTED` unrelated prompts of a benchmark's file.

    These are its locality and recall prompts: the Natural Questions of zsRE, the neighbours of CounterFact in
    EasyEdit's form, PopQA's questions. Your own rows are read in PopQA's form: ``question`` and ``possible_answers``. A
    WikiBio file gives its first accurate sentences, for ARR as a perplexity.
    """
    test = RetentionTest.of(readable_records(path))
    if not test.queries and not test.accurate:
        raise EditFileError(
            f"{path}: no record has a locality or recall prompt, on which retention is measured; expected a file "
            "such as zsRE's, whose rows have loc and loc_ans, or PopQA's, with question and possible_answers"
        )
    return test


def _remove_prefix(query: Query) -> Query:
    """Remove zsRE's prefix from a Natural Questions prompt: with the prefix, no model continues with an answer."""
    if not query.prompt.startswith(_NQ):
        return query
    prompt = query.prompt.removeprefix(_NQ)
    return query.model_copy(update={"prompt": prompt[:1].upper() + prompt[1:], "form": "question"})
