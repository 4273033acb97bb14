"""The end of a run: the lines in its folder become the summary and the plot of the curve.

The shards of a run are merged first, into the same files that a single process would have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median

from kg_edit.errors import OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.general_tasks import changes
from kg_edit.evaluation.plots import draw_curve
from kg_edit.evaluation.records import (
    BASE,
    EDITED,
    Point,
    RunFolder,
    found_in,
    joined,
    missing_phases,
    missing_points,
    phase_of,
    sequences_of,
)
from kg_edit.evaluation.schedule import Shard
from kg_edit.evaluation.settings import note_environment, read_environments
from kg_edit.evaluation.statistics import counts, estimates, metric_names
from kg_edit.evaluation.summary import CEILINGS, JUST_EDITED, SUMMARY, Summary, curve
from kg_edit.storage.atomic import replacing
from kg_edit.storage.run_folder import Settings, claim, difference, folder_lock, read_settings

CURVE = "curve.svg"
_TASKS = ("general_tasks", "general_quick")
_POINTS = ("general_sha256", *_TASKS, "retention_sha256")  # settings of what is measured at the curve's points
_WAY_OUT = "give every shard of one run, each once"


def finish(out: Path) -> Summary:
    """Write ``summary.json``, and ``curve.svg`` if there is a curve, from the other files of the run in ``out``."""
    settings = read_settings(out)
    folder = RunFolder(out)
    sequences = sequences_of(settings)
    plan = EvalConfig.of(settings).plan
    seed = settings["seed"]
    # In the data set's order, on which the resamples depend; a record that was computed again has later lines.
    order = {name: position for position, name in enumerate(settings["ids"])}
    records = tuple(sorted(joined(folder.entries()), key=lambda record: order[record.id]))
    points = list(folder.points())

    # Under a schedule with steps, each record has one more section: its scores right after its own step.
    between = (JUST_EDITED,) if plan.schedule.has_steps and plan.sample is None else ()
    if between:
        phases = {
            names[index]: phase_of(scoring)
            for names in sequences.values()
            for scoring in plan.scorings(len(names))
            for index in scoring.step
        }
        records = tuple(
            record.model_copy(update={"scores": {**record.scores, JUST_EDITED: record.scores[phases[record.id]]}})
            if phases[record.id] in record.scores
            else record
            for record in records
        )

    # Tasks are compared before any edit and after all edits of each sequence.
    by_sequence: dict[int, dict[int, Point]] = {}
    for point in points:
        by_sequence.setdefault(point.sequence, {})[point.edits] = point
    ends = [(group[0].tasks, group[max(group)].tasks) for group in by_sequence.values() if 0 in group and max(group)]

    sections = ("base", *between, "edited", *(CEILINGS if settings["ceilings"] else ()))
    rows = {name: [record.scores.get(name, {}) for record in records] for name in sections}
    metrics = {name: metric_names(scores) for name, scores in rows.items()}
    seconds = [record.seconds for record in records if record.seconds is not None]
    answered = [record.answer_seconds for record in records if record.answer_seconds is not None]
    asked = {name for names in sequences.values() for name in plan.scored(names)}
    unscored = sum(record.id in asked and BASE not in record.scores for record in records)
    first, *others = read_environments(out) or [{}]
    summary = Summary(
        n=len(records),
        seconds_per_edit=fmean(seconds) if seconds else None,
        seconds_per_answer={
            name: median(times) for name, times in zip((BASE, EDITED), zip(*answered, strict=True), strict=False)
        }
        or None,
        peak_memory=max((record.memory for record in records if record.memory is not None), default=None),
        curve=curve(tuple(sequences.values()), {record.id: record for record in records}, points, plan=plan, seed=seed)
        if plan.schedule.has_steps or _has_points(settings)
        else None,
        general=changes(ends, seed=seed) if any(settings.get(name) for name in _TASKS) else None,
        provenance={
            **settings,
            **first,
            **({"other_environments": others} if others else {}),
            "failed": sum(record.error is not None and not record.broken for record in records),
            **({"unscored": unscored} if unscored else {}),
            "broken": sum(bool(record.broken) for record in records),
            "counts": {name: counts(rows[name], names=metrics[name]) for name in rows},
        },
        **{name: estimates(rows[name], names=metrics[name], seed=seed) for name in rows},
    )
    summary.save(out / SUMMARY)
    if plan.schedule.has_steps and summary.curve:
        draw_curve(summary, out / CURVE)
    return summary


def merge(out: Path, shards: Sequence[Path]) -> Summary:
    """Merge the folders ``shards`` of one run into ``out``, with the records in the data set's order.

    The shards are not changed.

    Args:
        out: the folder of the whole run.
        shards: the folders of all shards, in any order.

    Returns:
        The summary of the whole run.
    """
    settings = {folder: read_settings(folder) for folder in shards}
    folders = _sorted_shards(settings)
    for folder in folders:
        _check_finished(folder, settings[folder])
    merged = {**settings[folders[0]], "shard": None}
    with suppress(OSError):  # `claim` then raises the error with its reason
        out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        claim(out, merged)

        # The lines are sorted by sequence, in their shard's order within a sequence, as one process would write them.
        numbers = {name: number for number, names in sequences_of(merged).items() for name in names}
        parts = [RunFolder(folder) for folder in folders]
        target = RunFolder(out)
        lines = dict[int, list[bytes]]()
        point_lines = dict[int, list[bytes]]()
        for part in parts:
            for entry, line in zip(part.entries(), _whole_lines(part.records), strict=True):
                lines.setdefault(numbers[entry.id], []).append(line)
            for point, line in zip(part.points(), _whole_lines(part.general), strict=True):
                point_lines.setdefault(point.sequence, []).append(line)
        _replace(target.records, lines)
        if _has_points(merged):
            _replace(target.general, point_lines)
        if verdicts := dict.fromkeys(line for part in (target, *parts) for line in _whole_lines(part.verdicts)):
            _replace(target.verdicts, {0: tuple(verdicts)})  # so that no answer is judged twice
        for folder in folders:
            for patch in sorted((folder / "patches").glob("*.safetensors")):
                with replacing(out / "patches" / patch.name) as scratch:
                    scratch.write_bytes(patch.read_bytes())
            for environment in read_environments(folder):
                note_environment(out, environment)
        return finish(out)


def _sorted_shards(settings: Mapping[Path, Settings]) -> list[Path]:
    """The folders, sorted by the number of their shard."""
    if not settings:
        raise OutputError(f"no shard is given; {_WAY_OUT}")
    folders: dict[Shard, Path] = {}
    first = next(iter(settings))
    for folder, shard_settings in settings.items():
        if not shard_settings.get("shard"):
            raise OutputError(f"{folder} is a complete run, not a shard; {_WAY_OUT}")
        if differs := difference({**settings[first], "shard": None}, {**shard_settings, "shard": None}):
            raise OutputError(f"{first} and {folder} are not shards of the same run ({differs}); {_WAY_OUT}")
        shard = Shard.parse(shard_settings["shard"])
        if shard in folders:
            raise OutputError(f"{folders[shard]} and {folder} are both shard {shard}; {_WAY_OUT}")
        folders[shard] = folder
    parts = sorted({shard.parts for shard in folders})
    if len(parts) > 1:
        raise OutputError(f"the shards are of runs with {' and '.join(map(str, parts))} shards; {_WAY_OUT}")
    shards = [Shard(part=part, parts=parts[0]) for part in range(parts[0])]
    if missing := ", ".join(str(shard) for shard in shards if shard not in folders):
        raise OutputError(f"missing shard {missing}; {_WAY_OUT}")
    return [folders[shard] for shard in shards]


def _check_finished(folder: Path, settings: Settings) -> None:
    plan, (done, points) = EvalConfig.of(settings).plan, found_in(RunFolder(folder))
    for number, ids in sequences_of(settings).items():
        for name, phase in missing_phases(plan, ids, done):
            raise OutputError(
                f"{folder} is not finished: phase {phase} of record {name!r} is missing; start the run again"
            )
        for edits in missing_points(plan, number, len(ids), points) if _has_points(settings) else ():
            raise OutputError(
                f"{folder} is not finished: general ability after {edits} edits is missing; start the run again"
            )


def _has_points(settings: Settings) -> bool:
    """Whether a run measures perplexity, tasks or retention at the points of its curve."""
    return any(settings.get(name) is not None for name in _POINTS)


def _replace(file: Path, lines: Mapping[int, Sequence[bytes]]) -> None:
    with replacing(file) as scratch, scratch.open("wb") as handle:
        for number in sorted(lines):
            handle.writelines(lines[number])


def _whole_lines(file: Path) -> Iterator[bytes]:
    if file.exists():
        with file.open("rb") as handle:
            yield from (line for line in handle if line.endswith(b"\n"))
