"""Evaluate a method with the settings of every cell of a grid, on the same records, and show the outcomes.

`run_sweep` runs the cells and skips finished ones. `sweep_table` makes a Markdown table (one row a cell, the unedited
model on top). `draw_sweep` makes a plot: lines over one numeric axis, or a heat map over two axes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kg_common.json_text import digest
from kg_common.terminal import number_of
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, as_record
from kg_edit.evaluation.cli.sweep_grid import Cell
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.metrics.catalogue import CATALOGUE
from kg_edit.evaluation.plots import COLOURS, figure, is_share, legend_below, save_figure
from kg_edit.evaluation.reports import interval
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.settings import DataSource
from kg_edit.evaluation.statistics import Estimate
from kg_edit.evaluation.summary import Summary
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods import MethodConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.run_differences import Settings, describe_difference
from kg_edit.storage.run_folder import claim, is_run, read_settings, replace_run
from kg_edit.text.display import markdown_table

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A cell of the grid, and the summary of its run."""

    cell: Cell
    summary: Summary


def run_sweep(
    cells: Sequence[Cell],
    model: LanguageModel,
    records: Sequence[Edit | BenchmarkRecord],
    *,
    out: Path,
    graph: Callable[[MethodConfig], SubgraphSource | None] = lambda _: None,
    pool: Sequence[Edit | BenchmarkRecord] | None = None,
    data: DataSource | None = None,
    config: EvalConfig | None = None,
    overwrite: bool = False,
) -> tuple[Outcome, ...]:
    """Evaluate each cell in its own folder under ``out`` (see `kg_edit.evaluate`), and return the outcomes.

    If it is started again, it resumes. The grid and, with a ``pool``, the records may have grown, because ``out``
    belongs only to the model and the first records. All methods are built before the first cell runs, so that a wrong
    layer fails at once.

    Args:
        cells: the cells of the grid.
        model: the model that is edited.
        records: the records to edit and to ask.
        out: the folder of the sweep.
        graph: returns the graph that a method with these settings reads.
        pool: the records that give the wrong answers of portability.choice; by default ``records``.
        data: the source of the records, for the provenance.
        config: what is measured, and when.
        overwrite: replace a cell's run with other settings; the other cells remain.
    """
    rows = [as_record(record).model_dump(mode="json") for record in records]
    config = config or EvalConfig()
    settings = {
        "job": "sweep",
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "records_sha256": digest(rows),
    }
    extended = None
    if pool is not None:
        extended = _find_extended_sweep(cells, rows, settings, out=out, sequence=config.plan.schedule.sequence)
    claim(out, settings, extended=extended, describe_rows=lambda: "other records: another limit, or other data")
    methods = [cell.method(model, cell.config, graph=graph(cell.config)) for cell in cells]
    outcomes = []
    for number, (cell, method) in enumerate(zip(cells, methods, strict=True), 1):
        log.info("cell %d of %d: %s", number, len(cells), cell.folder)
        folder = out / cell.folder
        work = partial(evaluate, method, model, records, out=folder, pool=pool, data=data, config=config)
        summary = replace_run(folder, work, overwrite=overwrite)
        outcomes.append(Outcome(cell=cell, summary=summary))
    return tuple(outcomes)


def _find_extended_sweep(
    cells: Sequence[Cell], rows: Sequence[object], settings: Settings, *, out: Path, sequence: int
) -> Settings | None:
    """Return the settings of the sweep in ``out``, if this one extends it: the same one on the first of these records.

    More records of the same data then extend each cell's run, as they extend a run of `kg-edit evaluate`; its last
    sequence must be full.
    """
    for cell in cells:
        if not is_run(out / cell.folder):
            continue
        count = len(read_settings(out / cell.folder)["ids"])
        earlier = {**settings, "records_sha256": digest(rows[:count])}
        is_full = count % sequence == 0
        if count < len(rows) and is_full and describe_difference(read_settings(out), earlier) is None:
            return earlier
    return None


def sweep_table(outcomes: Sequence[Outcome], metrics: Sequence[str]) -> str:
    """Return a table of means with intervals, seconds per edit and failed records; a dash: no record has a metric."""
    axes = list(outcomes[0].cell.values)
    header = [*axes, *metrics, "s an edit", "failed"]
    base = outcomes[0].summary.base
    unedited = ["unedited"] + [""] * (len(axes) - 1)
    unedited += [_write_cell(base.get(metric)) for metric in metrics]
    rows = [[*unedited, "", ""]]
    for outcome in outcomes:
        summary = outcome.summary
        row = [str(value).replace("|", "\\|") for value in outcome.cell.values.values()]
        row += [_write_cell(summary.edited.get(metric)) for metric in metrics]
        if summary.seconds_per_edit is None:
            row.append("")
        else:
            row.append(f"{summary.seconds_per_edit:.1f}")
        row.append(str(summary.provenance["failed"] + summary.provenance.get("broken", 0)))
        rows.append(row)
    return f"{markdown_table(header, rows, numbers_from=len(axes))}\n\n{caption(outcomes)}\n"


def caption(outcomes: Sequence[Outcome]) -> str:
    """Return the line under the table: methods, presets, model, data, number of records and schedule."""
    summary = outcomes[0].summary
    run = summary.provenance
    every = [outcome.summary.provenance for outcome in outcomes]
    methods = ", ".join(sorted({provenance["method"] for provenance in every}))
    presets = sorted({provenance["preset"] for provenance in every if provenance.get("preset")})
    if presets:
        methods += f" (preset {', '.join(presets)})"
    records = number_of(summary.n, "record")
    data = run.get("data") or {}
    if data.get("dataset"):
        records += f" of {data['dataset']}"
    return f"{methods} on {run['model']['name']}, {records}, schedule {run['schedule']}"


def _write_cell(estimate: Estimate | None) -> str:
    """Return a mean with its interval, or a dash."""
    return interval(estimate) or "\N{EN DASH}"


Grid = Mapping[str, Sequence[Any]]  # axis -> its values


def draw_sweep(outcomes: Sequence[Outcome], metrics: Sequence[str], path: Path) -> Path:
    """Draw one panel for each metric.

    One axis, or a numeric axis and another one (one line for each of its values), gives lines with 95 % intervals and
    the unedited model's score; other pairs of axes give a heat map. Each combination of values of further axes has its
    own row of panels. Axes with one value are left out.
    """
    grid = _find_varied_axes(outcomes)
    numeric = [axis for axis in grid if _is_numeric(grid[axis])]
    others = [axis for axis in grid if axis not in numeric]
    has_lines = len(grid) == 1 or (len(grid) == 2 and len(numeric) == 1)
    axes = list(grid)
    if has_lines:  # the numeric axis is the horizontal one
        axes = numeric + others
    shown = {axis: grid[axis] for axis in axes[:2]}
    rows = _group_outcomes(outcomes, axes[2:])
    drawn = figure(3.8 * len(metrics), 3.3 * len(rows) + 0.4)
    panels = drawn.subplots(len(rows), len(metrics), squeeze=False)
    for row, (title, group) in zip(panels, rows.items(), strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            if has_lines:
                _draw_lines(panel, group, shown, metric)
            else:
                _draw_heat_map(panel, group, shown, metric)
            titles = [_write_title(metric)]
            if title:
                titles.append(title)
            panel.set_title("\n".join(titles), fontsize=9)
    drawn.suptitle(caption(outcomes), fontsize=10)
    return save_figure(drawn, path)


def _find_varied_axes(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return the axes that have several values, with their values; the first axis if none has several."""
    values_by_axis: dict[str, dict[str, Any]] = {axis: {} for axis in outcomes[0].cell.values}
    for outcome in outcomes:
        for axis, value in outcome.cell.values.items():
            values_by_axis[axis][str(value)] = value  # each once
    grid = {axis: list(values.values()) for axis, values in values_by_axis.items()}
    several = {axis: values for axis, values in grid.items() if len(values) > 1}
    if several:
        return several
    first = next(iter(grid))
    return {first: grid[first]}


def _write_title(metric: str) -> str:
    """Return the metric's name, and which values are better."""
    if metric not in CATALOGUE or CATALOGUE[metric].better == "neither":
        return metric
    return f"{metric} ({CATALOGUE[metric].better} is better)"


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _group_outcomes(outcomes: Sequence[Outcome], axes: Sequence[str]) -> dict[str, list[Outcome]]:
    """Return the outcomes grouped by their values on ``axes``."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        name = ", ".join(f"{axis} {outcome.cell.values[axis]}" for axis in axes)
        groups.setdefault(name, []).append(outcome)
    return groups


def _draw_lines(panel: Axes, outcomes: Sequence[Outcome], shown: Grid, metric: str) -> None:
    """Draw one line over the first axis for each value of the second one, if there is one."""
    axis, *line_axes = shown
    is_numeric = _is_numeric(shown[axis])
    values = list(shown[axis])
    if is_numeric:
        values.sort()
    along = sorted(outcomes, key=lambda outcome: _find_position(outcome, axis, values))
    for number, (name, group) in enumerate(_group_outcomes(along, line_axes).items()):
        colour = COLOURS[number % len(COLOURS)]
        positions = [_find_position(outcome, axis, values) for outcome in group]
        means = _read_numbers(group, metric, "mean")
        low = _read_numbers(group, metric, "ci95_low")
        high = _read_numbers(group, metric, "ci95_high")
        panel.plot(positions, means, color=colour, marker="o", ms=4, label=name or "edited")
        panel.fill_between(positions, low, high, color=colour, alpha=0.15, lw=0)
    base = outcomes[0].summary.base.get(metric)
    if base is not None and base.mean is not None:
        panel.axhline(base.mean, color="#999999", ls="--", lw=1, label="unedited")
    if is_numeric:
        panel.set_xticks(values)
    else:
        panel.set_xticks(range(len(values)), list(map(str, values)))
    panel.set_xlabel(axis)
    if metric in CATALOGUE and is_share(metric):
        panel.set_ylim(-0.02, 1.02)
    legend_below(panel)
    panel.spines[["top", "right"]].set_visible(False)


def _find_position(outcome: Outcome, axis: str, values: Sequence[Any]) -> float:
    """Return the position of a cell on an axis: its number, or its index."""
    value = outcome.cell.values[axis]
    if _is_numeric(values):
        return float(value)
    return float(values.index(value))


def _read_numbers(outcomes: Sequence[Outcome], metric: str, end: str) -> list[float]:
    """Return one part (mean or end of the interval) of each cell's estimate; NaN if it is missing."""
    numbers = []
    for outcome in outcomes:
        estimate = outcome.summary.edited.get(metric)
        value = getattr(estimate, end, None)  # None also where there is no estimate
        if value is None:
            value = float("nan")
        numbers.append(float(value))
    return numbers


def _draw_heat_map(panel: Axes, outcomes: Sequence[Outcome], shown: Grid, metric: str) -> None:
    """Draw the means over two axes: the values of the first one are the rows."""
    (down, rows), (across, columns) = shown.items()
    table = np.full((len(rows), len(columns)), np.nan)
    for outcome, mean in zip(outcomes, _read_numbers(outcomes, metric, "mean"), strict=True):
        row = rows.index(outcome.cell.values[down])
        column = columns.index(outcome.cell.values[across])
        table[row, column] = mean
    panel.imshow(table, cmap="viridis", aspect="auto")
    middle = 0.0
    if np.isfinite(table).any():
        middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (y, x), value in np.ndenumerate(table):
        text = f"{value:.3g}"
        if np.isnan(value):
            text = "\N{EN DASH}"
        colour = "black"  # on a light cell
        if value < middle:
            colour = "white"  # on a dark one
        panel.text(x, y, text, ha="center", va="center", fontsize=8, color=colour)
    panel.set_xticks(range(len(columns)), list(map(str, columns)))
    panel.set_yticks(range(len(rows)), list(map(str, rows)))
    panel.set_xlabel(across)
    panel.set_ylabel(down)
