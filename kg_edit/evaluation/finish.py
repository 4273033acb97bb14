"""The end of a run: the lines in its folder become the summary and the plot of the curve.

The shards of a run are merged first, into the same files that a single process would have written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median
from typing import Any

from kg_edit.errors import OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.general_tasks import DocumentScores, compare_points
from kg_edit.evaluation.plots import draw_curve
from kg_edit.evaluation.records import (
    BASE,
    EDITED,
    Point,
    RunFolder,
    RunRecord,
    join_phases,
    list_missing_phases,
    list_missing_points,
    name_phase,
    read_progress,
    split_into_sequences,
)
from kg_edit.evaluation.schedule import CurvePlan, Shard
from kg_edit.evaluation.settings import note_environment, read_environments
from kg_edit.evaluation.statistics import RecordScores, counts, estimates, metric_names
from kg_edit.evaluation.summary import CEILINGS, JUST_EDITED, SUMMARY, Summary, make_curve
from kg_edit.evaluation.walks_page import WALKS, walks_page
from kg_edit.storage.atomic import replacing, write_text
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_differences import Settings, describe_difference
from kg_edit.storage.run_folder import claim, read_settings

CURVE = "curve.svg"
_TASKS = ("general_tasks", "general_quick")
_POINTS = ("general_sha256", *_TASKS, "retention_sha256")  # settings of what is measured at the curve's points
Tasks = Mapping[str, DocumentScores]  # by metric
_WAY_OUT = "give every shard of one run, each once"


def finish(out: Path) -> Summary:
    """Write ``summary.json`` from the other files of the run in ``out``.

    If there is a curve, also write ``curve.svg``; if the method makes walks (`graph-memory`), also ``walks.html``.
    """
    settings = read_settings(out)
    folder = RunFolder(out)
    sequences = tuple(split_into_sequences(settings).values())
    plan = EvalConfig.of(settings).plan
    seed = settings["seed"]
    records = _sort_records(folder, settings)
    points = list(folder.points())
    if plan.schedule.has_steps and plan.sample is None:
        records = _add_just_edited(records, sequences, plan)

    curve = None
    if plan.schedule.has_steps or _has_points(settings):
        by_id = {record.id: record for record in records}
        curve = make_curve(sequences, by_id, points, plan=plan, seed=seed)
    general = None
    if any(settings.get(name) for name in _TASKS):
        general = compare_points(_find_ends(points), seed=seed)
    means = {}  # of each section, by metric
    counts_of_metrics = {}  # the number of records behind these means
    for section in _list_sections(settings, plan):
        rows: list[RecordScores] = [record.scores.get(section, {}) for record in records]
        names = metric_names(rows)
        means[section] = estimates(rows, names=names, seed=seed)
        counts_of_metrics[section] = counts(rows, names=names)
    provenance = _read_provenance(out, settings) | _count_records(records, sequences, plan)
    provenance["counts"] = counts_of_metrics
    costs = _measure_costs(records)
    # A section and a cost are each a field of the summary.
    summary = Summary(n=len(records), curve=curve, general=general, provenance=provenance, **costs, **means)
    summary.save(out / SUMMARY)
    if plan.schedule.has_steps and summary.curve:
        draw_curve(summary, out / CURVE)
    page = walks_page(folder.entries())
    if page is not None:
        write_text(out / WALKS, page)
    return summary


def _list_sections(settings: Settings, plan: CurvePlan) -> list[str]:
    """Return the sections of the summary, in its order."""
    sections = ["base"]
    if plan.schedule.has_steps and plan.sample is None:
        sections.append(JUST_EDITED)
    sections.append("edited")
    if settings["ceilings"]:
        sections += CEILINGS
    return sections


def _measure_costs(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the seconds and the memory that edits and answers took, as fields of the summary; None if unknown."""
    seconds = [record.seconds for record in records if record.seconds is not None]
    memory = [record.memory for record in records if record.memory is not None]
    return {
        "seconds_per_edit": fmean(seconds) if seconds else None,
        "seconds_per_answer": _time_answers(records),
        "peak_memory": max(memory, default=None),
    }


def _sort_records(folder: RunFolder, settings: Settings) -> tuple[RunRecord, ...]:
    """Return the records of a run in the data set's order, on which the resamples depend.

    The order of the lines is another one: a record that was computed again has later lines.
    """
    order = {name: position for position, name in enumerate(settings["ids"])}
    return tuple(sorted(join_phases(folder.entries()), key=lambda record: order[record.id]))


def _read_provenance(out: Path, settings: Settings) -> dict[str, Any]:
    """Return the settings of a run, and the environments that worked on it."""
    first, *others = read_environments(out) or [{}]
    provenance = {**settings, **first}
    if others:
        provenance["other_environments"] = others
    return provenance


def _count_records(records: Sequence[RunRecord], sequences: Iterable[Sequence[str]], plan: CurvePlan) -> dict[str, int]:
    """Count the records that were not edited, or not scored before the edits (left out if none), or after them."""
    asked = set[str]()
    for names in sequences:
        asked.update(plan.scored(names))
    unscored = sum(record.id in asked and BASE not in record.scores for record in records)
    counted = {"failed": sum(record.error is not None and not record.broken for record in records)}
    if unscored:
        counted["unscored"] = unscored
    counted["broken"] = sum(bool(record.broken) for record in records)
    return counted


def _add_just_edited(
    records: Sequence[RunRecord], sequences: Iterable[Sequence[str]], plan: CurvePlan
) -> tuple[RunRecord, ...]:
    """Return the records with one more section: the scores right after a record's own step."""
    phases = dict[str, str]()
    for names in sequences:
        for scoring in plan.scorings(len(names)):
            for index in scoring.step:
                phases[names[index]] = name_phase(scoring)
    extended = []
    for record in records:
        own = record.scores.get(phases[record.id])
        if own is None:
            extended.append(record)
        else:
            extended.append(record.model_copy(update={"scores": {**record.scores, JUST_EDITED: own}}))
    return tuple(extended)


def _find_ends(points: Iterable[Point]) -> list[tuple[Tasks, Tasks]]:
    """Return the scores of the tasks before any edit and after all edits of each sequence."""
    by_sequence: dict[int, dict[int, Point]] = {}
    for point in points:
        by_sequence.setdefault(point.sequence, {})[point.edits] = point
    ends = list[tuple[Tasks, Tasks]]()
    for group in by_sequence.values():
        last = max(group)
        if 0 in group and last > 0:
            ends.append((group[0].tasks, group[last].tasks))
    return ends


def _time_answers(records: Iterable[RunRecord]) -> dict[str, float] | None:
    """Return the median seconds of an answer of the unedited and of the edited model; None if none was timed."""
    times = [record.answer_seconds for record in records if record.answer_seconds is not None]
    if not times:
        return None
    return {BASE: median(before for before, _ in times), EDITED: median(after for _, after in times)}


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
    folders = _sort_shards(settings)
    for folder in folders:
        _check_finished(folder, settings[folder])
    merged = {**settings[folders[0]], "shard": None}
    with suppress(OSError):  # `claim` then raises the error with its reason
        out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        claim(out, merged)
        _merge_lines(RunFolder(out), [RunFolder(folder) for folder in folders], merged)
        for folder in folders:
            _copy_patches(folder, out)
            for environment in read_environments(folder):
                note_environment(out, environment)
        return finish(out)


def _merge_lines(target: RunFolder, parts: Sequence[RunFolder], settings: Settings) -> None:
    """Write the lines of all shards into the files of the whole run.

    They are sorted by sequence, in their shard's order within a sequence, as one process would write them.
    """
    sequence_of = dict[str, int]()
    for number, names in split_into_sequences(settings).items():
        sequence_of |= dict.fromkeys(names, number)
    lines = dict[int, list[bytes]]()
    point_lines = dict[int, list[bytes]]()
    for part in parts:
        for entry, line in zip(part.entries(), _read_whole_lines(part.records), strict=True):
            lines.setdefault(sequence_of[entry.id], []).append(line)
        for point, line in zip(part.points(), _read_whole_lines(part.general), strict=True):
            point_lines.setdefault(point.sequence, []).append(line)
    _replace(target.records, lines)
    if _has_points(settings):
        _replace(target.general, point_lines)

    verdicts = dict[bytes, None]()  # each once, so that no answer is judged twice
    for folder in (target, *parts):
        verdicts |= dict.fromkeys(_read_whole_lines(folder.verdicts))
    if verdicts:
        _replace(target.verdicts, {0: tuple(verdicts)})


def _copy_patches(shard: Path, out: Path) -> None:
    for patch in sorted((shard / "patches").glob("*.safetensors")):
        with replacing(out / "patches" / patch.name) as scratch:
            scratch.write_bytes(patch.read_bytes())


def _sort_shards(settings: Mapping[Path, Settings]) -> list[Path]:
    """Return the folders, sorted by the number of their shard."""
    if not settings:
        raise OutputError(f"no shard is given; {_WAY_OUT}")
    first, *_ = settings
    folders: dict[Shard, Path] = {}
    for folder, shard_settings in settings.items():
        if not shard_settings.get("shard"):
            raise OutputError(f"{folder} is a complete run, not a shard; {_WAY_OUT}")
        differs = describe_difference({**settings[first], "shard": None}, {**shard_settings, "shard": None})
        if differs:
            raise OutputError(f"{first} and {folder} are not shards of the same run ({differs}); {_WAY_OUT}")
        shard = Shard.parse(shard_settings["shard"])
        if shard in folders:
            raise OutputError(f"{folders[shard]} and {folder} are both shard {shard}; {_WAY_OUT}")
        folders[shard] = folder
    parts = sorted({shard.parts for shard in folders})
    if len(parts) > 1:
        raise OutputError(f"the shards are of runs with {' and '.join(map(str, parts))} shards; {_WAY_OUT}")
    shards = [Shard(part=part, parts=parts[0]) for part in range(parts[0])]
    missing = [str(shard) for shard in shards if shard not in folders]
    if missing:
        raise OutputError(f"missing shard {', '.join(missing)}; {_WAY_OUT}")
    return [folders[shard] for shard in shards]


def _check_finished(folder: Path, settings: Settings) -> None:
    plan = EvalConfig.of(settings).plan
    done, points = read_progress(RunFolder(folder))
    for number, ids in split_into_sequences(settings).items():
        for name, phase in list_missing_phases(plan, ids, done):
            raise OutputError(
                f"{folder} is not finished: phase {phase} of record {name!r} is missing; start the run again"
            )
        if not _has_points(settings):
            continue
        for edits in list_missing_points(plan, number, len(ids), points):
            raise OutputError(
                f"{folder} is not finished: general ability after {edits} edits is missing; start the run again"
            )


def _has_points(settings: Settings) -> bool:
    """Return whether a run measures perplexity, tasks or retention at the points of its curve."""
    return any(settings.get(name) is not None for name in _POINTS)


def _replace(file: Path, lines: Mapping[int, Sequence[bytes]]) -> None:
    with replacing(file) as scratch, scratch.open("wb") as handle:
        for number in sorted(lines):
            handle.writelines(lines[number])


def _read_whole_lines(file: Path) -> Iterator[bytes]:
    if file.exists():
        with file.open("rb") as handle:
            for line in handle:
                if line.endswith(b"\n"):
                    yield line
