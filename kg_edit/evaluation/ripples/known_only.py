"""The filter ``--known-only``: select the questions whose further hops the unedited model knows.

RippleEdits (Cohen et al. 2024) counts a test only if the model answers its condition queries. The same rule is used
here, with the hops that each data set gives:

- RippleEdits: a test's condition queries.
- MQuAKE, AKEW: the single hops of the new chain, except those that an edit makes.
- CounterFactPlus: the recalled relation, by the three templates of the builder of Ripples; two must be right.
- Ripples: its known questions are built this way; the unknown ones are left out.

A hop is known if the model's greedy answer has its object (names are compared as everywhere). A question that comes
without such hops stays, because there is nothing that the model must know. A record without any question left is
dropped, and so is every record of a data set without portability questions or probes of several hops.
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
from kg_edit.scoring.questions import generation_prompt
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
_WITH_HOPS = ("multihop", "ripple", "ripples-known", "ripples-unknown")  # families of probes whose questions have hops

Wordings = tuple[Query, ...]  # the queries that ask for one hop: one query, or one for each template
Asked = tuple[Question | Probe, list[Wordings]]  # a question, and the hops that the model must know


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
    templates = _make_templates()
    remaining = list[BenchmarkRecord]()
    count = 0
    total = 0
    start = 0
    while start < len(records) and (most is None or len(remaining) < most):
        size = len(records)
        if most is not None:
            size = max(_FEWEST, 2 * (most - len(remaining)))
        batch = records[start : start + size]
        is_right = _ask_hops(model, batch, templates, folder=folder)
        for record in batch:
            questions = _list_questions(record, templates)
            reduced = _drop_unknown(record, questions, is_right)
            left = len(_list_questions(reduced, templates))
            total += len(questions)
            count += left
            if left:
                remaining.append(reduced)
        start += size
    return KnownOnly(tuple(remaining), count, total)


def _ask_hops(
    model: LanguageModel, records: Iterable[BenchmarkRecord], templates: Sequence[str], *, folder: Path
) -> dict[Query, bool]:
    """Ask all hops of the records' questions, and return whether each is answered correctly."""
    queries = list[Query]()
    for record in records:
        for _, hops in _list_questions(record, templates):
            for wordings in hops:
                queries += wordings

    def generate(prompts: Sequence[str]) -> tuple[str, ...]:
        return continuations(model, prompts, limits=[_TOKENS] * len(prompts))

    prompts = [generation_prompt(query) for query in queries]
    store_name = f"{_TOKENS} tokens"  # answers of another length have a file of their own
    texts = stored_replies(model, prompts, generate, folder=folder, form=store_name, about="known hops")
    is_right: dict[Query, bool] = {}
    for query in queries:
        text = texts[generation_prompt(query)]
        is_given = [_mentions_any(text, names) for names in query.answers]
        if query.every:
            is_right[query] = all(is_given)
        else:
            is_right[query] = any(is_given)
    return is_right


def _mentions_any(text: str, names: Iterable[str]) -> bool:
    return any(mentions(text, name) for name in names)


def _drop_unknown(
    record: BenchmarkRecord, questions: Sequence[Asked], is_right: Mapping[Query, bool]
) -> BenchmarkRecord:
    """Return the record with only the questions that stay, and with its probes that ask no question of several hops.

    Args:
        record: the record.
        questions: its questions with their hops (`_list_questions`).
        is_right: whether the model answers a query about a hop correctly.
    """
    staying = set[int]()  # questions by identity, because two may be equal
    for question, hops in questions:
        # Without hops this is true: there is nothing that the model must know.
        knows_all = all(_is_mostly_right(wordings, is_right) for wordings in hops)
        is_unknown = isinstance(question, Probe) and question.family == "ripples-unknown"
        if knows_all and not is_unknown:
            staying.add(id(question))
    edits = []
    for edit in record.edits:
        portability = tuple(question for question in edit.portability if id(question) in staying)
        edits.append(edit.model_copy(update={"portability": portability}))
    probes = tuple(probe for probe in record.probes if probe.family not in _WITH_HOPS or id(probe) in staying)
    return record.model_copy(update={"edits": tuple(edits), "probes": probes})


def _is_mostly_right(wordings: Wordings, is_right: Mapping[Query, bool]) -> bool:
    """Return whether more than half of the queries about one hop are answered correctly."""
    return 2 * sum(is_right[query] for query in wordings) > len(wordings)


def _list_questions(record: BenchmarkRecord, templates: Sequence[str]) -> list[Asked]:
    """Return the portability questions and the probes with hops, each with the hops that the model must know."""
    questions = list[Asked]()
    for edit in record.edits:
        for question in edit.portability:
            hops = list[Wordings]()
            recalled = _parse_recalled_relation(question)
            if recalled:
                hops.append(_ask_fact(*recalled, templates))
            questions.append((question, hops))
    old_hops = _list_old_hops(record)
    for probe in record.probes:
        if probe.family in _WITH_HOPS:
            needed = list(probe.conditions)
            if probe.family == "multihop":
                needed += old_hops
            questions.append((probe, [(query,) for query in needed]))
    return questions


def _list_old_hops(record: BenchmarkRecord) -> list[Query]:
    """Return the hops of the new chain (MQuAKE, AKEW) that no edit makes: none of their names is a new target."""
    new_targets = set[str]()
    for query in record.queries("edit"):
        names = query.answers[0]  # of the only right answer: its name, then its aliases
        new_targets.add(names[0])
    return [hop for hop in record.queries("hops") if new_targets.isdisjoint(hop.answers[0])]


def _parse_recalled_relation(question: Question) -> tuple[str, str, str] | None:
    """Return thing, relation and target of a question of CounterFactPlus; None if it has no recalled relation.

    "(Rome, capital of, Italy)" is ("Rome", "capital of", "Italy"), for instance.
    """
    inner = (question.recalled_relation or "").strip().removeprefix("(").removesuffix(")")
    parts = [part.strip() for part in inner.split(",", 2)]
    if len(parts) < 3 or not parts[2]:
        return None
    thing, relation, target = parts
    return thing, relation, target


def _ask_fact(thing: str, relation: str, target: str, templates: Sequence[str]) -> Wordings:
    """Return a query about a fact for each template: "Rome | capital of |" after examples, for instance."""
    prompts = [template.replace("{thing}", thing).replace("{noun}", relation) for template in templates]
    return tuple(Query(prompt=prompt, answers=((target,),), form="sentence") for prompt in prompts)


def _make_templates() -> tuple[str, ...]:
    """Return the templates of a fact, with {thing} and {noun} for what is asked, each after the examples."""
    templates = []
    for template in RippleWords.load().knowledge:
        lines = []
        for thing, relation, target in _SHOWN:
            lines.append(template.replace("{thing}", thing).replace("{noun}", relation) + f" {target}")
        templates.append("\n".join([*lines, template]))
    return tuple(templates)
