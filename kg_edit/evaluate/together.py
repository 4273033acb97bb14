"""Records that are each edited alone, done many at a time: one descent, one scoring pass; the same scores.

What comes out waits in an `Ahead` until each record's own turn. Where the many fail, nothing waits, and each record's
own turn finds out which one it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kg_edit.evaluate.case import Case
from kg_edit.evaluate.editing import FAILURES, Step, finite, said
from kg_edit.evaluate.item import Item
from kg_edit.evaluate.method import EditsEach, Method
from kg_edit.evaluate.missing import Done
from kg_edit.evaluate.records import BASE, EDITED, Section
from kg_edit.evaluate.scorer import ceiling_cases, score_cases
from kg_edit.evaluate.unedited import UneditedScores
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.out_of_memory import in_halves

TOGETHER = 16  # records: more make a killed run lose more, and gain little


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What is known before a record's turn, by its id."""

    steps: dict[str, Step] = field(default_factory=dict)
    scores: dict[str, Section] = field(default_factory=dict)


def ahead_of(
    method: Method,
    model: LanguageModel,
    unedited: UneditedScores,
    items: Sequence[Item],
    done: Done,
    *,
    ceilings: bool,
) -> Ahead:
    """Edit and score the items that still lack it, each alone on the model as it is; the unedited scores are kept."""
    ahead = Ahead()
    new = [item for item in items if (item.id, EDITED) not in done and not done.get((item.id, BASE))]
    keep_unedited(model, unedited, new, done, ceilings=ceilings)
    if isinstance(method, EditsEach):
        single = [item for item in new if len(item.record.edits) == 1]
        _tried(lambda: ahead.steps.update(_edited(method, single)))
    made = [item for item in new if item.id in ahead.steps and ahead.steps[item.id].patch]
    _tried(lambda: ahead.scores.update(_scored(model, unedited, made, ahead)))
    return ahead


def keep_unedited(
    model: LanguageModel, unedited: UneditedScores, items: Sequence[Item], done: Done, *, ceilings: bool
) -> None:
    """Score on the unedited model, at once, those of ``items`` that lack it; ``unedited`` keeps what is found."""
    new = [item for item in items if (item.id, BASE) not in done]
    _tried(lambda: unedited.sections(model, dict(_unedited_cases(new, ceilings=ceilings))))


def _unedited_cases(items: Sequence[Item], *, ceilings: bool) -> Iterator[tuple[str, Case]]:
    for item in items:
        yield f"{item.id}/{BASE}", item.case
        if ceilings:
            yield from ((f"{item.id}/{name}", case) for name, case in ceiling_cases(item.case).items())


def _edited(method: EditsEach, items: Sequence[Item]) -> Iterator[tuple[str, Step]]:
    start = time.perf_counter()
    results = in_halves(method.edit_each, [item.record.edits[0] for item in items]) if items else []
    seconds = (time.perf_counter() - start) / max(1, len(items))
    for item, result in zip(items, results, strict=True):
        yield item.id, _step(item, result, seconds)


def _step(item: Item, result: Patch | Exception, seconds: float) -> Step:
    if isinstance(result, Patch):
        try:
            return Step(patch=finite(result), seconds=seconds)
        except FAILURES as error:
            result = error
    return Step(errors={item.id: said(result)})


def _scored(
    model: LanguageModel, unedited: UneditedScores, items: Sequence[Item], ahead: Ahead
) -> Iterator[tuple[str, Section]]:
    before = unedited.sections(model, {item.id: item.case for item in items})

    def score(some: Sequence[Item]) -> Sequence[Section]:
        return score_cases(
            model,
            [item.case for item in some],
            before=[before[item.id] for item in some],
            patches=[ahead.steps[item.id].patch for item in some],
        )

    sections = in_halves(score, items) if items else []
    yield from ((item.id, section) for item, section in zip(items, sections, strict=True))


def _tried(work: Callable[[], object]) -> None:
    try:
        work()
    except FAILURES:
        return  # in its own turn each record is tried alone
