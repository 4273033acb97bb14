"""Ask a model the prompts of edits, unedited and edited, and judge its answers.

The report, `patch check` and the served page use this module. `responses` asks a model queries: how it continues a
prompt, and how probable the candidates are after it. `read` asks the probes of an edit (the rewrite, its paraphrases,
its portability questions and its locality prompts) and judges the responses. `kg_edit.reports.report.before_and_after`
does so on the unedited and on the edited model, and shows the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import not_
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.edits.edit import Edit
from kg_edit.errors import KgEditError
from kg_edit.models.first_token import readable_edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import CUT, continuations, room_for
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.questions import generated_from, query_of, right_answers, scored_after
from kg_edit.text.matching import begins_with, first_sentence, mentions
from wikidata_cache.progress import Bar

Kind = Literal["rewrite", "paraphrase", "portability", "locality"]
_TOKENS = 10  # to generate after a probe, or more for a longer target
_CHAT_TOKENS = 24  # in chat form: a sentence
LINE_BREAK = "↵"  # in a prompt that is shown
_ROWS = 32  # queries in a batch; all prompts of a long file at once would fill the memory


@dataclass(frozen=True, kw_only=True)
class Query:
    """``ask`` is the text that the model continues; ``candidates`` are scored after the prompt ``score``.

    With ``chat``, both texts are a user's turn. With ``several_lines``, the continuation does not end with a line.
    """

    ask: str
    score: str
    candidates: tuple[str, ...]
    chat: bool = False
    several_lines: bool = False


@dataclass(frozen=True, kw_only=True)
class CandidateCost:
    """-log p of a candidate after a prompt, in nats: ``mean`` is the mean over its ``tokens`` tokens."""

    mean: float
    tokens: int

    @property
    def total(self) -> float:
        """Return -log p of the whole candidate."""
        return self.tokens * self.mean

    @property
    def probability(self) -> float:
        """Return p of the whole candidate, exp(-total)."""
        return math.exp(-self.total)


@dataclass(frozen=True, kw_only=True)
class Response:
    """A model's response to a query: its greedy continuation, and the cost of each candidate."""

    text: str
    costs: tuple[CandidateCost, ...]


def check_queries(model: LanguageModel, queries: Sequence[Query], *, tokens: int) -> None:
    """Encode every query, to find a query that can't be asked before an edit is computed.

    Args:
        model: the unedited model.
        queries: the queries to encode.
        tokens: length of the continuation, as in `responses`.

    Raises:
        PromptError: a prompt's end and a candidate can't be separated.
        ModelError: a prompt with a candidate, or with the text after it, does not fit into the model's positions.
        ChatTemplateError: a query is in chat form, and the tokenizer has no chat template.
    """
    for query in queries:
        reader = _reader(model, query)
        for name in query.candidates:
            reader.encode(query.score, target=name)
        model.check_length(reader.encode(query.ask), new_tokens=_limit(reader, query, tokens))


def responses(
    model: LanguageModel, queries: Sequence[Query], *, tokens: int, progress: str | None = None
) -> tuple[Response, ...]:
    """Ask the model, in its present state, each query.

    Args:
        model: the model, edited or not.
        queries: the queries, in any mixture of forms.
        tokens: length of a continuation. It may be longer where a candidate has more tokens, and in chat form: a
            sentence, which contains the answer somewhere.
        progress: title of a progress bar; None: no bar.

    Returns:
        One response per query, in order.

    Raises:
        PromptError: a prompt's end and a candidate can't be separated.
        ModelError: the model's output is not finite, or a query does not fit into its positions.
    """
    by_index: dict[int, Response] = {}
    # A batch has queries of one form (the model reads a chat with a template) and of one end
    forms: dict[tuple[bool, bool], list[int]] = {}
    for index, query in enumerate(queries):
        forms.setdefault((query.chat, query.several_lines), []).append(index)
    batches = [form[start : start + _ROWS] for form in forms.values() for start in range(0, len(form), _ROWS)]
    with Bar(title=progress or "", unit="prompt", total=len(queries), shown=bool(progress), leave=False) as bar:
        for batch in batches:
            chunk = [queries[index] for index in batch]
            reader = _reader(model, chunk[0])
            limits = [_limit(reader, query, tokens) for query in chunk]
            lines = chunk[0].several_lines
            texts = continuations(reader, [query.ask for query in chunk], limits=limits, several_lines=lines)
            pairs = [[Pair(query.score, name) for name in query.candidates] for query in chunk]
            scores = score(reader, [pair for query_pairs in pairs for pair in query_pairs])
            for index, text, query_pairs in zip(batch, texts, pairs, strict=True):
                lengths = [len(reader.encode(pair.prompt, target=pair.candidate).target_ids) for pair in query_pairs]
                costs = (
                    CandidateCost(mean=scores[pair].nll, tokens=length)
                    for pair, length in zip(query_pairs, lengths, strict=True)
                )
                by_index[index] = Response(text=text.rstrip(CUT).strip(), costs=tuple(costs))
            bar.update(len(batch))
    return tuple(by_index[index] for index in range(len(queries)))


def _reader(model: LanguageModel, query: Query) -> LanguageModel:
    return model.in_chat() if query.chat else model


def _limit(model: LanguageModel, query: Query, tokens: int) -> int:
    """Return the largest number of tokens of a text; a candidate that does not fit could not be generated."""
    rooms = (room_for(model.tokenizer, name) for name in query.candidates)
    return max(tokens, _CHAT_TOKENS if query.chat else 0, *rooms)


class ReportProbe(BaseModel):
    """A prompt to check: the wanted answer, and optionally an unwanted one to compare with.

    The model continues ``ask`` (a question in its few-shot form); the answers are scored after ``score``. After a
    prompt whose target is a paragraph it reads on over line breaks (``several_lines``), as `kg-edit evaluate` does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    prompt: str
    ask: str
    score: str
    wanted: str
    unwanted: str | None = None
    aliases: tuple[str, ...] = ()
    chat: bool = False
    several_lines: bool = Field(False, exclude_if=not_)  # 0.1.0 has no such field

    @property
    def query(self) -> Query:
        """Return the query of the probe: the wanted candidate first, then the unwanted one if there is one."""
        candidates = tuple(filter(None, (self.wanted, self.unwanted)))
        return Query(
            ask=self.ask,
            score=self.score,
            candidates=candidates,
            chat=self.chat,
            several_lines=self.several_lines,
        )

    def is_answered(self, text: str) -> bool:
        """Return whether a continuation has the wanted answer, as in `Reading`."""
        names = self.aliases or (self.wanted,)
        if self.kind == "portability":
            return any(mentions(text, name) for name in names)
        sentence = self.chat and not self.several_lines  # no sentence has a whole paragraph
        return any(generates(text, name, chat=sentence) for name in names)


class Reading(BaseModel):
    """The judged response to a probe: the greedy continuation, and the wanted answer's ``nats`` per token.

    ``success``: the continuation begins with the wanted answer. In chat form, its first sentence has to mention the
    answer, unless that is a paragraph; for a portability question, the text has to mention it. ``right``: the whole
    wanted answer is more probable than the whole unwanted one, whether it is generated or not; the log-probabilities
    are summed over the tokens, where CounterFact's metrics take their mean. If there is no unwanted answer, ``right``
    equals ``success``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    nats: float
    success: bool
    right: bool


class ReportRow(BaseModel):
    """A probe of an edit with its readings on the unedited and on the edited model; a line of ``records.jsonl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    edit: str
    probe: ReportProbe
    unedited: Reading
    edited: Reading


def probes(model: LanguageModel | None, edit: Edit, *, chat: bool | None = None) -> tuple[ReportProbe, ...]:
    """Return all probes of an edit; a prompt gets a line break in front if ``model`` would not read its subject.

    Args:
        model: the model to ask; None: that of a server, whose prompts are as they are in the edit.
        edit: the edit, with its paraphrases, portability questions and locality prompts.
        chat: in chat form, or in plain text; None: in the form in which the edit is made. An edit that is made in both
            forms is asked in plain text; its own prompt is also asked in chat form.
    """
    in_chat = [probe.model_copy(update={"chat": True}) for probe in _probes(edit, (edit.text, *edit.paraphrases))]
    if edit.forms[0] if chat is None else chat:
        return tuple(in_chat)
    # The first token of a text is an attention sink for some models: a subject there needs a line break before it
    led = readable_edit(model, edit) if model else edit
    first, *others = _probes(edit, (led.text, *led.paraphrases))
    both = chat is None and len(edit.forms) > 1
    return (first, *(in_chat[:1] if both else ()), *others)


def _probes(edit: Edit, prompts: Sequence[str]) -> tuple[ReportProbe, ...]:
    """Return the probes of an edit in plain text; ``prompts`` are its prompt and its paraphrases."""
    new, old = edit.target_new, edit.target_true
    stated = partial(_statement, wanted=new, unwanted=old, several_lines=edit.target_text is not None)
    return (
        stated("rewrite", prompts[0]),
        *(stated("paraphrase", prompt) for prompt in prompts[1:]),
        *(
            ReportProbe(
                kind="portability",
                prompt=question.question,
                ask=generated_from(query_of(question)),
                score=scored_after(query_of(question)),
                wanted=question.answer,
                aliases=right_answers(question),
            )
            for question in edit.portability
        ),
        # A locality prompt is about another subject with the old object, which must not change
        *(_statement("locality", prompt, old, new) for prompt in edit.neighborhood if old),
    )


def locality_probes(edit: Edit, *, chat: bool | None = None) -> tuple[ReportProbe, ...]:
    """Return a probe for each prompt of the edit's field ``locality`` that has an answer; `probes` leaves them out.

    `kg_edit.reports.differences` compares these prompts before and after an edit. Where only the edited model is at
    hand, as in `kg-edit patch check`, it is asked for the answer. ``chat`` is as in `probes`.
    """
    in_chat = edit.forms[0] if chat is None else chat
    return tuple(
        _statement("locality", prompt.prompt, prompt.answer, None).model_copy(
            update={"aliases": prompt.names, "chat": in_chat}
        )
        for prompt in edit.locality
        if prompt.answer
    )


def _statement(
    kind: Kind, prompt: str, wanted: str, unwanted: str | None, *, several_lines: bool = False
) -> ReportProbe:
    text = prompt.rstrip()  # a space at the end would change the target's tokens
    shown = text.replace("\n", f"{LINE_BREAK} ")  # a table cell has one line
    return ReportProbe(
        kind=kind, prompt=shown, ask=text, score=text, wanted=wanted, unwanted=unwanted, several_lines=several_lines
    )


def check_probes(
    model: LanguageModel, edits: Sequence[Edit], *, chat: bool | None = None, progress: bool = False
) -> None:
    """Encode every probe once, to find a prompt that can't be scored before an edit is computed or a prompt is asked.

    Args:
        model: the unedited model.
        edits: the edits whose probes are checked, with their locality prompts that have an answer.
        chat: as in `probes`.
        progress: whether to show a progress bar.

    Raises:
        PromptError: a prompt's end and the text after it can't be separated; a note names the edit.
        ModelError: a prompt and the text after it do not fit into the model's positions; a note names the edit.
    """
    for edit in Bar(edits, title="checking", unit="edit", shown=progress, leave=False, delay=1.0):
        try:
            asked = (*probes(model, edit, chat=chat), *locality_probes(edit, chat=chat))
            check_queries(model, [probe.query for probe in asked], tokens=_TOKENS)
        except KgEditError as error:
            error.add_note(f"in a prompt of the edit {edit.id!r}")
            raise


def read(
    model: LanguageModel, report_probes: Sequence[ReportProbe], *, progress: str | None = None
) -> tuple[Reading, ...]:
    """Read each probe on the model in its present state.

    Args:
        model: the model, edited or not.
        report_probes: the probes.
        progress: title of a progress bar.

    Raises:
        PromptError, ModelError: as in `responses`.
    """
    outputs = responses(model, [probe.query for probe in report_probes], tokens=_TOKENS, progress=progress)
    readings = []
    for probe, response in zip(report_probes, outputs, strict=True):
        cost, *other = response.costs
        success = probe.is_answered(response.text)
        right = cost.total < other[0].total if other else success
        readings.append(Reading(text=response.text, nats=round(cost.mean, 4), success=success, right=right))
    return tuple(readings)


def generates(text: str, target: str, *, chat: bool) -> bool:
    """Return whether a text begins with the target; in chat form, whether its first sentence mentions it."""
    return mentions(first_sentence(text), target) if chat else begins_with(text, target)
