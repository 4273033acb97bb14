"""Evaluate every cell of a grid on the same records; what is done is not done again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kg_edit.datasets.record import BenchmarkRecord, as_record
from kg_edit.edits.edit import Edit
from kg_edit.evaluate.run import evaluate
from kg_edit.evaluate.settings import DataSource
from kg_edit.evaluate.summary import Summary
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.run_folder import claim, digest
from kg_edit.sweep.cells import Cell

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A cell and what its run comes to."""

    cell: Cell
    summary: Summary


def run_sweep(
    cells: Sequence[Cell],
    model: LanguageModel,
    records: Sequence[Edit | BenchmarkRecord],
    *,
    out: Path,
    graph: SubgraphSource | None = None,
    pool: Sequence[Edit | BenchmarkRecord] | None = None,
    data: DataSource | None = None,
    schedule: str = "single",
    cache: Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Outcome, ...]:
    """The outcome of each cell, evaluated in its own folder under ``out`` (see `kg_edit.evaluate.evaluate`).

    Started again it goes on where it was, and a grid may have grown meanwhile: ``out`` belongs to the model and the
    records. All methods are built before the first cell is run, so that a layer that is not there fails at once.

    Raises:
        OutputError: ``out`` belongs to something else, or a cell's folder to a run with other settings.
        KgEditError: a method can't be built or its run can't go on; what is done is kept.
    """
    claim(
        out,
        {
            "job": "sweep",
            "model": {"name": model.name, "fingerprint": model.fingerprint},
            "records_sha256": digest([as_record(record).model_dump(mode="json") for record in records]),
        },
    )
    methods = [cell.method(model, cell.config, graph=graph) for cell in cells]
    outcomes = []
    for place, (cell, method) in enumerate(zip(cells, methods, strict=True), 1):
        log.info("cell %d of %d: %s", place, len(cells), cell.folder)
        summary = evaluate(
            method,
            model,
            records,
            out=out / cell.folder,
            pool=pool,
            data=data,
            schedule=schedule,
            cache=cache,
            seed=seed,
            progress=progress,
        )
        outcomes.append(Outcome(cell=cell, summary=summary))
    return tuple(outcomes)
