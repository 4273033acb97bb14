"""The summary of a run: each metric's mean and interval before and after the edits, and the curve of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from kg_common.terminal import number_of
from kg_edit.errors import OutputError
from kg_edit.evaluation.general_tasks import GeneralChange
from kg_edit.evaluation.metrics.metric import mean
from kg_edit.evaluation.records import BASE, Point, RunRecord, name_phase
from kg_edit.evaluation.retention import ERR, PREFIX, average_rates
from kg_edit.evaluation.schedule import CurvePlan
from kg_edit.evaluation.statistics import Estimate, estimates, metric_names
from kg_edit.storage.atomic import write_json
from kg_edit.storage.frames import frame_of
from kg_edit.storage.notebook import html_table

if TYPE_CHECKING:
    import pandas as pd

JUST_EDITED = "just_edited"
CEILINGS = ("fact_in_prompt", "fact_and_relation_in_prompt")
SUMMARY = "summary.json"
SECTIONS = ("base", JUST_EDITED, "edited", *CEILINGS)

_EDIT = "efficacy.greedy"
_OPTIONAL = ("curve", "general", "seconds_per_answer")  # are not in the file if they were not measured


class CurvePoint(BaseModel):
    """A point of the curve: the model with ``edits`` edits, over all sequences of a run that have so many.

    ``scores`` are means over ``n`` records among those edited so far: are the edits retained, are their neighbours
    unchanged? ``unedited`` are the unedited model's means over the same records. ``failed`` of the ``n`` records could
    not be scored, because edits broke the model; their shares that should be high count as 0. ``retention`` has GRACE's
    rates (`kg_edit.evaluation.retention`) if the run has a test file; else only ERR, the mean of efficacy.greedy over
    the ``n`` records. ``general`` are means over sequences; ``general_failed`` counts the sequences whose model could
    not be asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edits: int
    n: int
    failed: int = 0
    scores: dict[str, Estimate]
    unedited: dict[str, Estimate] = {}
    retention: dict[str, float | None]
    general: dict[str, float | None]
    general_failed: int = 0


def make_curve(
    sequences: Sequence[Sequence[str]],
    records: Mapping[str, RunRecord],
    points: Iterable[Point],
    *,
    plan: CurvePlan,
    seed: int,
) -> tuple[CurvePoint, ...]:
    """Return the points of a run's curve; the first one is before any edit, with all records.

    Args:
        sequences: the ids of each sequence of edits.
        records: the joined records, by id.
        points: the measured points of general ability and retention.
        plan: the records that are scored after each step.
        seed: the seed of the intervals.
    """
    scored = _list_scored(sequences, plan)
    general: dict[int, list[Point]] = {}
    for point in points:
        general.setdefault(point.edits, []).append(point)
    # The retention rates that some point of the run has: a point whose model could not be asked counts with 0.
    rated: list[str] = []
    for group in general.values():
        for point in group:
            rated += [name for name in point.scores if name.startswith(PREFIX) and name not in rated]

    curve_points = []
    for edits in sorted(scored):
        usable = list[tuple[RunRecord, str]]()
        for name, section in scored[edits]:
            # A record that the unedited model could not be scored on is in no point.
            if name in records and BASE in records[name].scores:
                usable.append((records[name], section))
        measured = general.get(edits, [])
        curve_points.append(_make_point(edits, usable, measured, rated, seed))
    return tuple(curve_points)


def _list_scored(sequences: Sequence[Sequence[str]], plan: CurvePlan) -> dict[int, list[tuple[str, str]]]:
    """Return the (id, section) of each record that is scored at a point of the curve, by the number of edits there."""
    scored: dict[int, list[tuple[str, str]]] = {0: []}
    for names in sequences:
        scored[0] += [(name, BASE) for name in names]
        for scoring in plan.scorings(len(names)):
            if scoring.on_curve:
                keys = [(names[index], name_phase(scoring)) for index in scoring.indices]
                scored.setdefault(scoring.edits, []).extend(keys)
    return scored


def _make_point(
    edits: int, scored: Sequence[tuple[RunRecord, str]], measured: Sequence[Point], rated: Sequence[str], seed: int
) -> CurvePoint:
    """Return a point of the curve.

    Args:
        edits: number of edits of the model there.
        scored: the records that are scored, each with the name of its section.
        measured: the points of general ability of the sequences that have so many edits.
        rated: the names of the retention rates that the run has, which ``scores`` of a point have beside others.
        seed: the seed of the intervals.
    """
    before = []  # the unedited model's scores
    after = []  # the edited model's scores
    efficacy: list[float | None] = []  # a record that the edits broke counts as 0
    for record, section in scored:
        before.append(record.scores[BASE])
        scores = record.scores.get(section)
        if scores is None:
            efficacy.append(0.0)
        else:
            after.append(scores)
            efficacy.append(scores.get(_EDIT))
    if rated:
        retention = average_rates([_read_point(point) for point in measured], rated)
    else:  # without a test file
        retention = {ERR: mean(efficacy)}
    return CurvePoint(
        edits=edits,
        n=len(scored),
        failed=sum(section in record.broken for record, section in scored),
        scores=estimates(after, names=metric_names(after), seed=seed),
        unedited=estimates(before, names=metric_names(before), seed=seed),
        retention=retention,
        general=_average_general(measured, rated),
        general_failed=sum(point.error is not None for point in measured),
    )


def _read_point(point: Point) -> Mapping[str, float | None] | None:
    """Return the scores of a point; None if the model could not be asked there."""
    if point.error is not None:
        return None
    return point.scores


def _average_general(measured: Sequence[Point], rated: Sequence[str]) -> dict[str, float | None]:
    """Return the mean over sequences of each score of general ability: all of the points' but the ``rated`` ones."""
    general: dict[str, float | None] = {}
    for name in metric_names(point.scores for point in measured):
        if name not in rated:
            general[name] = mean(point.scores.get(name) for point in measured)
    return general


Estimates = dict[str, Estimate]


class Summary(BaseModel):
    """The file ``summary.json``: for each metric its mean over those of the ``n`` records that have it.

    ``provenance`` has the run's settings, the number of ``failed`` records, and ``counts``: for each section and
    metric, the number of records behind its mean. A record whose edit could not be made is scored on the model without
    it, and counts in the means, except for those ``unscored``: the unedited model could not be scored on them, if only
    because a prompt is too long for it. ``broken`` records could not be scored after their edits; their shares that
    should be high count as 0.

    The two ceilings are scores of the unedited model, with the edited fact (and the relation that leads to the answer)
    in front of the question; None without them. If edits accumulate, ``just_edited`` has the scores right
    after a record's own edit, ``edited`` those after all edits of its sequence, and ``curve`` those between. A run that
    measures general ability has a curve too. ``general``: tasks of lm-eval before any edit and after all.
    ``seconds_per_answer``: the median seconds of an answer of 24 tokens to an edit's prompt, by the unedited (``base``)
    and by the edited model; only with ``time_answers``. ``peak_memory``: the largest memory while an edit was computed,
    in bytes (`kg_edit.evaluation.memory`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    base: Estimates
    just_edited: Estimates | None = None
    edited: Estimates
    fact_in_prompt: Estimates | None = None
    fact_and_relation_in_prompt: Estimates | None = None
    curve: tuple[CurvePoint, ...] | None = None
    general: dict[str, GeneralChange] | None = None
    seconds_per_edit: float | None
    seconds_per_answer: dict[str, float] | None = None
    peak_memory: int | None = None
    provenance: dict[str, Any]

    @property
    def sections(self) -> dict[str, Estimates]:
        """The existing sections, by name."""
        sections = {name: getattr(self, name) for name in SECTIONS}
        return {name: section for name, section in sections.items() if section is not None}

    def __repr__(self) -> str:
        method = self.provenance.get("method")
        model = self.provenance.get("model", {}).get("name")
        return f"Summary({number_of(self.n, 'record')}, {method} on {model}: {', '.join(self.sections)})"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        sections = self.sections.values()
        names = dict[str, None]()  # in order, each once
        for section in sections:
            names |= dict.fromkeys(section)
        rows = []
        for name in names:
            cells: list[object] = [name]
            for section in sections:
                if name in section:
                    cells.append(section[name].mean)
                else:
                    cells.append(None)
            rows.append(cells)
        return html_table(repr(self), ["metric", *self.sections], rows)

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas.DataFrame with one row per section and metric: mean, interval, and number of records.

        Raises:
            ConfigError: pandas is not installed.
        """
        counts = self.provenance["counts"]
        rows = []
        for section, metrics in self.sections.items():
            for name, estimate in metrics.items():
                row = {"section": section, "metric": name, "n": counts[section].get(name, 0)}
                rows.append({**row, **estimate.model_dump()})
        return frame_of(rows)

    def save(self, path: Path) -> Path:
        """Write the summary as JSON, atomically."""
        absent = {name for name in _OPTIONAL + SECTIONS if getattr(self, name) is None}
        return write_json(path, self.model_dump(mode="json", exclude=absent))

    @classmethod
    def load(cls, path: str | Path) -> Summary:
        """Read a summary that `save` wrote: the file, or the folder of a run with its ``summary.json``.

        Raises:
            OutputError: the file can't be read, or is no summary.
        """
        file = Path(path)
        if file.is_dir():
            file = file / SUMMARY
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # a ValidationError is a ValueError, as is text that is not UTF-8
            what = "it is no summary of a run"
            if isinstance(error, OSError):
                what = error.strerror or what
            way = "give the folder of a finished run of kg_edit.evaluate, or its summary.json"
            raise OutputError(f"can't read the summary {file}: {what}; {way}") from error
