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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    forms = _make_forms()
    remaining = list[BenchmarkRecord]()
    count = 0
    total = 0
    start = 0
    while start < len(records) and (most is None or len(remaining) < most):
        size = len(records)
        if most is not None:
            size = max(_FEWEST, 2 * (most - len(remaining)))
        batch = records[start : start + size]
        right = _ask_hops(model, batch, forms, folder=folder)
        for record in batch:
            questions = _list_questions(record, forms)
            reduced = _drop_unknown(record, questions, right)
            left = len(_list_questions(reduced, forms))
            total += len(questions)
            count += left
            if left:
                remaining.append(reduced)
        start += size
    return KnownOnly(tuple(remaining), count, total)


def _ask_hops(
    model: LanguageModel, records: Iterable[BenchmarkRecord], forms: Sequence[str], *, folder: Path
) -> dict[Query, bool]:
    """Ask all hops of the records' questions, and return whether each is answered correctly."""
    queries = list[Query]()
    for record in records:
        for _, hops in _list_questions(record, forms):
            for hop in hops:
                queries += hop

    def generate(prompts: Sequence[str]) -> tuple[str, ...]:
        return continuations(model, prompts, limits=[_TOKENS] * len(prompts))

    prompts = [generated_from(query) for query in queries]
    form = f"{_TOKENS} tokens"
    texts = stored_replies(model, prompts, generate, folder=folder, form=form, about="known hops")
    right: dict[Query, bool] = {}
    for query in queries:
        text = texts[generated_from(query)]
        is_given = [_mentions_any(text, names) for names in query.answers]
        if query.every:
            right[query] = all(is_given)
        else:
            right[query] = any(is_given)
    return right


def _mentions_any(text: str, names: Iterable[str]) -> bool:
    return any(mentions(text, name) for name in names)


def _drop_unknown(record: BenchmarkRecord, questions: Sequence[Asked], right: Mapping[Query, bool]) -> BenchmarkRecord:
    """Return the record with only the questions whose every hop the model knows: most of its forms are ``right``."""
    known = set[int]()  # questions by identity, because two may be equal
    for question, hops in questions:
        knows_all = all(_is_mostly_right(hop, right) for hop in hops)
        is_unknown = isinstance(question, Probe) and question.family == "ripples-unknown"
        if knows_all and not is_unknown:
            known.add(id(question))
    edits = []
    for edit in record.edits:
        kept = tuple(question for question in edit.portability if id(question) in known)
        edits.append(edit.model_copy(update={"portability": kept}))
    probes = tuple(probe for probe in record.probes if probe.family not in _FOLLOWS or id(probe) in known)
    return record.model_copy(update={"edits": tuple(edits), "probes": probes})


def _is_mostly_right(hop: Sequence[Query], right: Mapping[Query, bool]) -> bool:
    """Return whether more than half of a hop's forms are answered correctly."""
    return 2 * sum(right[query] for query in hop) > len(hop)


def _list_questions(record: BenchmarkRecord, forms: Sequence[str]) -> list[Asked]:
    """Return the portability questions, each with the hops that the model must know, in one form or several."""
    questions = list[Asked]()
    for edit in record.edits:
        for question in edit.portability:
            hop = _recalled_hop(question, forms)
            hops = []
            if hop:
                hops.append(hop)
            questions.append((question, hops))
    # MQuAKE, AKEW: hops whose answer is the new target of an edit, which its probe states, are made by the edits.
    new = {query.answers[0][0] for query in record.queries("edit")}
    old_hops = [query for query in record.queries("hops") if new.isdisjoint(query.answers[0])]
    for probe in record.probes:
        if probe.family in _FOLLOWS:
            needed = list(probe.conditions)
            if probe.family == "multihop":
                needed += old_hops
            questions.append((probe, [(query,) for query in needed]))
    return questions


def _recalled_hop(question: Question, forms: Sequence[str]) -> tuple[Query, ...]:
    """Return the hop of a question of CounterFactPlus, in each form; () for a question without a recalled relation.

    "(Rome, capital of, Italy)" is asked as "Rome | capital of |" after examples, for instance.
    """
    inner = (question.recalled_relation or "").strip().removeprefix("(").removesuffix(")")
    parts = [part.strip() for part in inner.split(",", 2)]
    if len(parts) < 3 or not parts[2]:
        return ()
    thing, relation, target = parts
    prompts = [form.replace("{thing}", thing).replace("{noun}", relation) for form in forms]
    return tuple(Query(prompt=prompt, answers=((target,),), form="sentence") for prompt in prompts)


def _make_forms() -> tuple[str, ...]:
    """Return the forms of a fact, each after the examples: with {thing} and {noun} for what is asked."""
    forms = []
    for form in RippleWords.load().knowledge:
        lines = []
        for thing, relation, target in _SHOWN:
            lines.append(form.replace("{thing}", thing).replace("{noun}", relation) + f" {target}")
        forms.append("\n".join([*lines, form]))
    return tuple(forms)
