"""The filter ``--known-only`` for any data set: keep only questions whose further hops the unedited model knows.

RippleEdits (Cohen et al. 2024) counts a test only if the model answers its condition queries. The same rule is used
here, with the hops that each data set gives:

- RippleEdits: a test's condition queries.
- MQuAKE: the single hops of the new chain, except those that an edit makes.
- CounterFactPlus: the recalled relation, as a sentence to continue.
- Ripples: its known questions are built this way; the unknown ones are left out.

A hop is known if the model's greedy answer says it (names are compared as everywhere). A record without any question
left is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kg_edit.datasets.record import BenchmarkRecord, Probe, Query
from kg_edit.edits.edit import Question
from kg_edit.models.language_model import LanguageModel
from kg_edit.ripples.replies import KeptReplies
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.questions import generated_from
from kg_edit.text.matching import mentions

_TOKENS = 16  # of an answer, at most
_FOLLOWS = ("multihop", "ripple", "ripples-known", "ripples-unknown")  # families of questions with hops


@dataclass(frozen=True)
class KnownOnly:
    """The remaining records, the number of their questions, and the number of questions before."""

    records: tuple[BenchmarkRecord, ...]
    questions: int
    asked: int

    def __str__(self) -> str:
        return f"{self.questions} of {self.asked} questions are left, in {len(self.records)} records"


def known_only(
    model: LanguageModel, records: Sequence[BenchmarkRecord], *, folder: Path, progress: bool = True
) -> KnownOnly:
    """Keep the questions for which the unedited ``model`` knows every further hop, and the records that have one.

    ``folder`` keeps the model's answers.
    """
    hops = [query for record in records for _, needed in _questions(record) for query in needed]

    def generated(prompts: Sequence[str]) -> tuple[str, ...]:
        return continuations(model, prompts, limits=[_TOKENS] * len(prompts))

    replies = KeptReplies(model, folder, f"{_TOKENS} tokens", generated, progress)
    texts = replies.texts(list(map(generated_from, hops)), about="known hops")
    knows: dict[Query, bool] = {}
    for query in hops:
        right = [any(mentions(texts[generated_from(query)], name) for name in names) for names in query.answers]
        knows[query] = all(right) if query.every else any(right)

    kept = []
    for record in records:
        left = {  # the questions that stay, by identity: two may be equal
            id(asked)
            for asked, needed in _questions(record)
            if all(knows[query] for query in needed)
            and not (isinstance(asked, Probe) and asked.family == "ripples-unknown")
        }
        edits = tuple(
            edit.model_copy(update={"portability": tuple(one for one in edit.portability if id(one) in left)})
            for edit in record.edits
        )
        probes = tuple(probe for probe in record.probes if probe.family not in _FOLLOWS or id(probe) in left)
        kept.append(record.model_copy(update={"edits": edits, "probes": probes}))
    whole = tuple(record for record in kept if list(_questions(record)))
    counts = [sum(len(list(_questions(record))) for record in some) for some in (whole, records)]
    return KnownOnly(whole, *counts)


def _questions(record: BenchmarkRecord) -> Iterator[tuple[Question | Probe, list[Query]]]:
    """Yield the questions about what follows, each with the hops that the model must know."""
    for edit in record.edits:
        yield from ((question, _recalled(question)) for question in edit.portability)
    made = {edit.target_new for edit in record.edits}
    chain = [query for probe in record.group("hops") for query in probe.queries if not made & set(query.answers[0])]
    for probe in record.probes:
        if probe.family in _FOLLOWS:
            yield probe, [*probe.conditions, *(chain if probe.family == "multihop" else ())]


def _recalled(question: Question) -> list[Query]:
    """Turn "(Rome, capital of, Italy)" into the sentence "Rome capital of" and its answer."""
    inner = (question.recalled_relation or "").strip().removeprefix("(").removesuffix(")")
    thing, relation, target = (*(part.strip() for part in inner.split(",", 2)), "", "", "")[:3]
    if not target:
        return []
    return [Query(prompt=f"{thing} {relation}", answers=((target,),), form="sentence")]
