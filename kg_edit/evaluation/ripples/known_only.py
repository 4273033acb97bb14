"""The filter ``--known-only``: select the questions whose further hops the unedited model knows.

RippleEdits (Cohen et al. 2024) counts a test only if the model answers its condition queries. The same rule is used
here, with the hops that each data set gives:

- RippleEdits: a test's condition queries.
- MQuAKE, AKEW: the single hops of the new chain, except those that an edit makes.
- CounterFactPlus: the recalled relation, in the three forms in which the builder of Ripples asks; two must be right.
- Ripples: its known questions are built this way; the unknown ones are left out.

A hop is known if the model's greedy answer has its object (names are compared as everywhere). A record without
any such question left is dropped, and so is every record of a data set without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kg_edit.edits.edit import Question
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.evaluation.ripples.replies import stored_replies
from kg_edit.evaluation.ripples.words import RippleWords
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.questions import generated_from
from kg_edit.text.matching import mentions

_TOKENS = 16  # of an answer, at most
_FEWEST = 16  # records that are asked about at once, so that a pass is not small
# Examples for CounterFactPlus, whose relations are free text. A prompt that began with the thing itself would be no
# test: many models do not read the first token.
_SHOWN = (
    ("Mount Kenya", "located in", "Kenya"),
    ("The Night Watch", "painted by", "Rembrandt"),
    ("Denmark", "currency", "Danish krone"),
)
_FOLLOWS = ("multihop", "ripple", "ripples-known", "ripples-unknown")  # families of questions with hops


@dataclass(frozen=True)
class KnownOnly:
    """The remaining records, the number of their questions, and the number of questions before."""

    records: tuple[BenchmarkRecord, ...]
    questions: int
    total: int

    def __str__(self) -> str:
        return f"{self.questions} of {self.total} questions are left, in {len(self.records)} records"


def known_only(
    model: LanguageModel, records: Sequence[BenchmarkRecord], *, folder: Path, most: int | None = None
) -> KnownOnly:
    """Return the questions for which the unedited ``model`` knows every further hop, and the records that have one.

    Args:
        model: the unedited model.
        records: the records, asked in their order.
        folder: stores the model's answers.
        most: stop when at least so many records are left; None: ask about all.
    """
    questions = partial(_questions, forms=_forms())
    kept = KnownOnly((), 0, 0)
    start = 0
    while start < len(records) and (most is None or len(kept.records) < most):
        size = len(records) if most is None else max(_FEWEST, 2 * (most - len(kept.records)))
        more = _known(model, records[start : start + size], questions, folder=folder)
        kept = KnownOnly((*kept.records, *more.records), kept.questions + more.questions, kept.total + more.total)
        start += size
    return kept


def _known(
    model: LanguageModel,
    records: Sequence[BenchmarkRecord],
    questions: Callable[[BenchmarkRecord], Iterator[tuple[Question | Probe, list[tuple[Query, ...]]]]],
    *,
    folder: Path,
) -> KnownOnly:
    """Ask about all ``records``, whose ``questions`` have the hops that the model must know."""
    hops = [query for record in records for _, needed in questions(record) for hop in needed for query in hop]

    def generated(prompts: Sequence[str]) -> tuple[str, ...]:
        return continuations(model, prompts, limits=[_TOKENS] * len(prompts))

    prompts = list(map(generated_from, hops))
    form = f"{_TOKENS} tokens"
    texts = stored_replies(model, prompts, generated, folder=folder, form=form, about="known hops")
    right: dict[Query, bool] = {}
    for query in hops:
        met = [any(mentions(texts[generated_from(query)], name) for name in names) for names in query.answers]
        right[query] = all(met) if query.every else any(met)

    reduced = []
    for record in records:
        selected = {  # questions by identity, because two may be equal
            id(question)
            for question, needed in questions(record)
            if all(2 * sum(right[query] for query in hop) > len(hop) for hop in needed)
            and not (isinstance(question, Probe) and question.family == "ripples-unknown")
        }
        edits = tuple(
            edit.model_copy(update={"portability": tuple(q for q in edit.portability if id(q) in selected)})
            for edit in record.edits
        )
        probes = tuple(probe for probe in record.probes if probe.family not in _FOLLOWS or id(probe) in selected)
        reduced.append(record.model_copy(update={"edits": edits, "probes": probes}))
    remaining = tuple(record for record in reduced if list(questions(record)))
    counts = [sum(len(list(questions(record))) for record in group) for group in (remaining, records)]
    return KnownOnly(remaining, *counts)


def _questions(
    record: BenchmarkRecord, *, forms: Sequence[str]
) -> Iterator[tuple[Question | Probe, list[tuple[Query, ...]]]]:
    """Yield the portability questions, each with the hops that the model must know, in one form or several."""
    for edit in record.edits:
        for question in edit.portability:
            # CounterFactPlus: "(Rome, capital of, Italy)" is asked as "Rome | capital of |" after examples.
            inner = (question.recalled_relation or "").strip().removeprefix("(").removesuffix(")")
            thing, relation, target = (*(part.strip() for part in inner.split(",", 2)), "", "", "")[:3]
            prompts = [form.replace("{thing}", thing).replace("{noun}", relation) for form in forms]
            hop = tuple(Query(prompt=prompt, answers=((target,),), form="sentence") for prompt in prompts)
            yield question, [hop] if target else []
    # MQuAKE, AKEW: hops whose answer is the new target of an edit, which its probe states, are made by the edits.
    new = {query.answers[0][0] for probe in record.group("edit") for query in probe.queries}
    chain = [query for probe in record.group("hops") for query in probe.queries if not new & set(query.answers[0])]
    for probe in record.probes:
        if probe.family in _FOLLOWS:
            yield probe, [(query,) for query in (*probe.conditions, *(chain if probe.family == "multihop" else ()))]


def _forms() -> tuple[str, ...]:
    """The forms of a fact, each after the examples: with {thing} and {noun} for what is asked."""
    forms = RippleWords.load().knowledge
    shown = [[form.replace("{thing}", t).replace("{noun}", r) + f" {o}" for t, r, o in _SHOWN] for form in forms]
    return tuple("\n".join([*lines, form]) for lines, form in zip(shown, forms, strict=True))
