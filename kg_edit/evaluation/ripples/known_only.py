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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


Asked = tuple[Question | Probe, list[tuple[Query, ...]]]  # a question, and its hops, each in several forms


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
    questions: Callable[[BenchmarkRecord], Iterator[Asked]],
    *,
    folder: Path,
) -> KnownOnly:
    """Ask about all ``records``, whose ``questions`` have the hops that the model must know."""
    hops = list[Query]()
    for record in records:
        for _, needed in questions(record):
            for hop in needed:
                hops += hop

    def generated(prompts: Sequence[str]) -> tuple[str, ...]:
        return continuations(model, prompts, limits=[_TOKENS] * len(prompts))

    prompts = list(map(generated_from, hops))
    form = f"{_TOKENS} tokens"
    texts = stored_replies(model, prompts, generated, folder=folder, form=form, about="known hops")
    right: dict[Query, bool] = {}
    for query in hops:
        text = texts[generated_from(query)]
        met = [_mentions_any(text, names) for names in query.answers]
        right[query] = all(met) if query.every else any(met)

    remaining = []
    count = 0
    total = 0
    for record in records:
        total += len(list(questions(record)))
        reduced = _reduced(record, list(questions(record)), right)
        left = len(list(questions(reduced)))
        count += left
        if left:
            remaining.append(reduced)
    return KnownOnly(tuple(remaining), count, total)


def _mentions_any(text: str, names: Iterable[str]) -> bool:
    return any(mentions(text, name) for name in names)


def _reduced(record: BenchmarkRecord, questions: Sequence[Asked], right: Mapping[Query, bool]) -> BenchmarkRecord:
    """The record with only the questions of which the model knows every hop: most of the hop's forms are ``right``."""
    known = set[int]()  # questions by identity, because two may be equal
    for question, needed in questions:
        knows_all = all(2 * sum(right[query] for query in hop) > len(hop) for hop in needed)
        is_unknown = isinstance(question, Probe) and question.family == "ripples-unknown"
        if knows_all and not is_unknown:
            known.add(id(question))
    edits = []
    for edit in record.edits:
        kept = tuple(question for question in edit.portability if id(question) in known)
        edits.append(edit.model_copy(update={"portability": kept}))
    probes = tuple(probe for probe in record.probes if probe.family not in _FOLLOWS or id(probe) in known)
    return record.model_copy(update={"edits": tuple(edits), "probes": probes})


def _questions(record: BenchmarkRecord, *, forms: Sequence[str]) -> Iterator[Asked]:
    """Yield the portability questions, each with the hops that the model must know, in one form or several."""
    for edit in record.edits:
        for question in edit.portability:
            hop = _recalled_hop(question, forms)
            yield question, [hop] if hop else []
    # MQuAKE, AKEW: hops whose answer is the new target of an edit, which its probe states, are made by the edits.
    new = {query.answers[0][0] for probe in record.group("edit") for query in probe.queries}
    chain = list[Query]()
    for probe in record.group("hops"):
        chain += [query for query in probe.queries if new.isdisjoint(query.answers[0])]
    for probe in record.probes:
        if probe.family in _FOLLOWS:
            further = chain if probe.family == "multihop" else ()
            yield probe, [(query,) for query in (*probe.conditions, *further)]


def _recalled_hop(question: Question, forms: Sequence[str]) -> tuple[Query, ...]:
    """CounterFactPlus: "(Rome, capital of, Italy)" is asked as "Rome | capital of |" after examples; () without it."""
    inner = (question.recalled_relation or "").strip().removeprefix("(").removesuffix(")")
    parts = [part.strip() for part in inner.split(",", 2)]
    if len(parts) < 3 or not parts[2]:
        return ()
    thing, relation, target = parts
    prompts = [form.replace("{thing}", thing).replace("{noun}", relation) for form in forms]
    return tuple(Query(prompt=prompt, answers=((target,),), form="sentence") for prompt in prompts)


def _forms() -> tuple[str, ...]:
    """The forms of a fact, each after the examples: with {thing} and {noun} for what is asked."""
    forms = []
    for form in RippleWords.load().knowledge:
        lines = []
        for thing, relation, target in _SHOWN:
            lines.append(form.replace("{thing}", thing).replace("{noun}", relation) + f" {target}")
        forms.append("\n".join([*lines, form]))
    return tuple(forms)
