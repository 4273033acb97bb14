"""The end of a run: the lines in its folder become the summary and the plot of the curve.

The shards of a run are merged first, into the same files that a single process would have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from kg_edit.errors import OutputError
from kg_edit.evaluate.general_tasks import GeneralChange, changes
from kg_edit.evaluate.plots import draw_curve
from kg_edit.evaluate.records import (
    Point,
    RunFolder,
    RunRecord,
    found_in,
    joined,
    missing_phases,
    missing_points,
    phase_of,
)
from kg_edit.evaluate.schedule import WHOLE, CurvePlan, Schedule, Shard
from kg_edit.evaluate.settings import note_environment, provenance, read_environments
from kg_edit.evaluate.summary import CEILINGS, JUST_EDITED, CurvePoint, Summary, curve, summarise
from kg_edit.storage.atomic import replacing
from kg_edit.storage.run_folder import Settings, claim, difference, read_settings

Thing = TypeVar("Thing")
SUMMARY, CURVE = "summary.json", "curve.svg"
_WAY_OUT = "give every shard of one run, each once"


def finish(out: Path) -> Summary:
    """Write ``summary.json``, and ``curve.svg`` if there is a curve, from the other files of the run in ``out``.

    Raises:
        OutputError: a file can't be read or written.
    """
    settings, folder = read_settings(out), RunFolder(out)
    plan, records = plan_of(settings), joined(folder.entries())
    if plan.schedule.has_steps and plan.sample is None:
        records = _with_just_edited(records, sequences_of(settings), plan)
    summary = summarise(
        records,
        sections=_sections(settings, plan),
        seed=settings["seed"],
        provenance={**settings, **provenance(read_environments(out))},
        curve=_curve(settings, plan, records, folder),
        general=_general(settings, folder),
    )
    summary.save(out / SUMMARY)
    if plan.schedule.has_steps and summary.curve:
        draw_curve(summary, out / CURVE)
    return summary


def plan_of(settings: Settings) -> CurvePlan:
    """The plan of a run with these settings."""
    schedule = Schedule.parse(settings["schedule"])
    return CurvePlan.of(schedule, settings.get("evaluate_every"), sample=settings.get("score_sample"))


def sequences_of(settings: Settings) -> dict[int, tuple[str, ...]]:
    """The record ids of a run, or of its shard, by the number of their sequence."""
    shard = Shard.parse(settings["shard"]) if "shard" in settings else WHOLE
    size = plan_of(settings).schedule.sequence
    return dict(shard.deal(list(enumerate(cut(settings["ids"], size)))))


def cut(items: Sequence[Thing], size: int) -> list[tuple[Thing, ...]]:
    """Cut items into sequences of ``size``; the last one may be shorter."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _sections(settings: Settings, plan: CurvePlan) -> tuple[str, ...]:
    between = (JUST_EDITED,) if plan.schedule.has_steps and plan.sample is None else ()
    return ("base", *between, "edited", *(CEILINGS if settings["ceilings"] else ()))


def _with_just_edited(
    records: Sequence[RunRecord], sequences: dict[int, tuple[str, ...]], plan: CurvePlan
) -> tuple[RunRecord, ...]:
    """Add a section to each record: its scores right after its own step."""
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
    settings: Settings, plan: CurvePlan, records: Sequence[RunRecord], folder: RunFolder
) -> tuple[CurvePoint, ...] | None:
    if not plan.schedule.has_steps and not has_points(settings):
        return None
    sequences = tuple(sequences_of(settings).values())
    known = {record.id: record for record in records}
    return curve(sequences, known, folder.points(), plan=plan, seed=settings["seed"])


def _general(settings: Settings, folder: RunFolder) -> dict[str, GeneralChange] | None:
    """The task scores before any edit and after all edits of each sequence; None if no tasks were asked."""
    if "general_tasks" not in settings:
        return None
    found: dict[int, dict[int, Point]] = {}
    for point in folder.points():
        found.setdefault(point.sequence, {})[point.edits] = point
    ends = [(some[0].tasks, some[max(some)].tasks) for some in found.values() if 0 in some and max(some)]
    return changes(ends, seed=settings["seed"])


def has_points(settings: Settings) -> bool:
    """Whether a run measures general ability, tasks or retention at the points of its curve."""
    return any(name in settings for name in ("general_sha256", "general_tasks", "retention_sha256"))


def merge(out: Path, shards: Sequence[Path]) -> Summary:
    """Merge the folders ``shards`` of one run into ``out``, with the records in the data set's order.

    The shards are not changed.

    Raises:
        OutputError: a folder holds no shard, or one of another run; a shard is missing, given twice or not finished;
            ``out`` belongs to another run, or can't be written.
    """
    settings = {folder: read_settings(folder) for folder in shards}
    parts = _parts(settings)
    whole = _without_shard(next(iter(settings.values())))
    for part in parts:
        _check_finished(part, settings[part])
    claim(out, whole)
    _write(out, parts, whole)
    for part in parts:
        for environment in read_environments(part):
            note_environment(out, environment)
    return finish(out)


def _parts(settings: dict[Path, Settings]) -> list[Path]:
    """The folders, sorted by the number of their shard.

    Raises:
        OutputError: the folders are not all shards of one run, each once.
    """
    found = _by_shard(settings)
    parts = {shard.parts for shard in found}
    if len(parts) > 1:
        raise OutputError(f"the shards are of runs with {' and '.join(map(str, sorted(parts)))} shards; {_WAY_OUT}")
    wanted = [Shard(part=part, parts=max(parts)) for part in range(max(parts))]
    missing = ", ".join(str(shard) for shard in wanted if shard not in found)
    if missing:
        raise OutputError(f"missing shard {missing}; {_WAY_OUT}")
    return [found[shard] for shard in wanted]


def _by_shard(settings: dict[Path, Settings]) -> dict[Shard, Path]:
    """The folder of each shard; all have the same settings."""
    found: dict[Shard, Path] = {}
    first, *_ = settings or [None]
    if first is None:
        raise OutputError(f"no shard is given; {_WAY_OUT}")
    for folder, said in settings.items():
        if "shard" not in said:
            raise OutputError(f"{folder} is a complete run, not a shard; {_WAY_OUT}")
        differs = difference(_without_shard(settings[first]), _without_shard(said))
        if differs:
            raise OutputError(f"{first} and {folder} are not shards of the same run ({differs}); {_WAY_OUT}")
        shard = Shard.parse(said["shard"])
        if shard in found:
            raise OutputError(f"{found[shard]} and {folder} are both shard {shard}; {_WAY_OUT}")
        found[shard] = folder
    return found


def _without_shard(settings: Settings) -> Settings:
    return {name: value for name, value in settings.items() if name != "shard"}


def _check_finished(folder: Path, settings: Settings) -> None:
    plan, (done, points) = plan_of(settings), found_in(RunFolder(folder))
    for number, ids in sequences_of(settings).items():
        for name, phase in missing_phases(plan, ids, done):
            raise OutputError(
                f"{folder} is not finished: phase {phase} of record {name!r} is missing; start the run again"
            )
        for edits in missing_points(plan, number, len(ids), points) if has_points(settings) else ():
            raise OutputError(
                f"{folder} is not finished: general ability after {edits} edits is missing; start the run again"
            )


def _write(out: Path, parts: Sequence[Path], whole: Settings) -> None:
    """Write the lines sorted by sequence, in their shard's order within a sequence; copy the patches."""
    numbers = {name: number for number, names in sequences_of(whole).items() for name in names}
    folders, target = [RunFolder(part) for part in parts], RunFolder(out)
    lines: dict[int, list[bytes]] = {}
    for folder in folders:
        for entry, line in zip(folder.entries(), _whole_lines(folder.records), strict=True):
            lines.setdefault(numbers[entry.id], []).append(line)
    _replace(target.records, lines)
    if has_points(whole):
        found: dict[int, list[bytes]] = {}
        for folder in folders:
            for point, line in zip(folder.points(), _whole_lines(folder.general), strict=True):
                found.setdefault(point.sequence, []).append(line)
        _replace(target.general, found)
    for part in parts:
        for patch in sorted((part / "patches").glob("*.safetensors")):
            with replacing(out / "patches" / patch.name) as scratch:
                scratch.write_bytes(patch.read_bytes())


def _replace(file: Path, lines: dict[int, list[bytes]]) -> None:
    with replacing(file) as scratch, scratch.open("wb") as handle:
        for number in sorted(lines):
            handle.writelines(lines[number])


def _whole_lines(file: Path) -> Iterator[bytes]:
    if file.exists():
        with file.open("rb") as handle:
            yield from (line for line in handle if line.endswith(b"\n"))
