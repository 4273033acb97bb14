"""The end of a run, whole or merged from shards: its folder's lines become the summary and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from kg_edit.evaluate.curve import CurvePoint, curve
from kg_edit.evaluate.curve_picture import draw_curve
from kg_edit.evaluate.environment import provenance, read_environments
from kg_edit.evaluate.missing import phase_of
from kg_edit.evaluate.plan import Plan
from kg_edit.evaluate.records import RunFolder, RunRecord, joined
from kg_edit.evaluate.schedule import Schedule
from kg_edit.evaluate.shard import WHOLE, Shard
from kg_edit.evaluate.summary import CEILINGS, JUST_EDITED, Summary, summarise
from kg_edit.storage.run_folder import Settings, read_settings

Thing = TypeVar("Thing")
SUMMARY, CURVE = "summary.json", "curve.svg"


def finish(out: Path) -> Summary:
    """Write ``summary.json``, and ``curve.svg`` where there is a curve, from all else that the run in ``out`` wrote.

    Raises:
        OutputError: something can't be read or written.
    """
    settings, folder = read_settings(out), RunFolder(out)
    plan, records = plan_of(settings), joined(folder.entries())
    if plan.schedule.has_steps:
        records = _with_just_edited(records, sequences_of(settings), plan)
    summary = summarise(
        records,
        sections=_sections(settings, plan),
        seed=settings["seed"],
        provenance={**settings, **provenance(read_environments(out))},
        curve=_curve(settings, plan, records, folder),
    )
    summary.save(out / SUMMARY)
    if plan.schedule.has_steps and summary.curve:
        draw_curve(summary, out / CURVE)
    return summary


def plan_of(settings: Settings) -> Plan:
    """The plan that a run's settings name."""
    return Plan.of(Schedule.parse(settings["schedule"]), settings.get("evaluate_every"))


def sequences_of(settings: Settings) -> dict[int, tuple[str, ...]]:
    """The ids of a run's records, or of its shard's, by the number of their sequence."""
    shard = Shard.parse(settings["shard"]) if "shard" in settings else WHOLE
    size = plan_of(settings).schedule.sequence
    return dict(shard.deal(list(enumerate(cut(settings["ids"], size)))))


def cut(items: Sequence[Thing], size: int) -> list[tuple[Thing, ...]]:
    """Sequences of ``size`` items; the last may be shorter."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _sections(settings: Settings, plan: Plan) -> tuple[str, ...]:
    between = (JUST_EDITED,) if plan.schedule.has_steps else ()
    return ("base", *between, "edited", *(CEILINGS if settings["ceilings"] else ()))


def _with_just_edited(
    records: Sequence[RunRecord], sequences: dict[int, tuple[str, ...]], plan: Plan
) -> tuple[RunRecord, ...]:
    """The records, each with the scores right after its own step as a section of its own."""
    own = {
        names[place]: phase_of(scoring)
        for names in sequences.values()
        for scoring in plan.scorings(len(names))
        for place in scoring.step
    }
    return tuple(
        record.model_copy(update={"scores": {**record.scores, JUST_EDITED: record.scores[own[record.id]]}})
        if own[record.id] in record.scores
        else record
        for record in records
    )


def _curve(
    settings: Settings, plan: Plan, records: Sequence[RunRecord], folder: RunFolder
) -> tuple[CurvePoint, ...] | None:
    if not plan.schedule.has_steps and "general_sha256" not in settings:
        return None
    sequences = tuple(sequences_of(settings).values())
    known = {record.id: record for record in records}
    return curve(sequences, known, folder.points(), plan=plan, seed=settings["seed"])
