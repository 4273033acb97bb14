"""`kg-edit drift`: edit a classifier's mistakes in a stream of texts whose labels change over time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.errors import OutputError
from kg_edit.jobs.method_plan import load, plan
from kg_edit.jobs.options import Device, Dtype, MethodName, ModelName, Preset, Settings
from kg_edit.models.loading import check_model_name
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.evaluate.label_drift import DriftPoint

_ROW = "rows with text and label"
Old = Annotated[Path, typer.Option("--data", help=f"older texts: {_ROW}, and year for --since")]
New = Annotated[Path | None, typer.Option("--stream", help=f"newer texts, in the order of the stream: {_ROW}")]
Since = Annotated[int | None, typer.Option(help="instead of --stream: use the texts of --data from this year on")]
Result = Annotated[Path, typer.Option("--out", help="file to write (JSON lines), one line per point of the curve")]
Every = Annotated[int, typer.Option(min=1, help="edits between two points of the curve")]
Tokens = Annotated[int, typer.Option(min=8, help="number of tokens read of each text, from its start")]
Limit = Annotated[int | None, typer.Option(min=1, help="use only the first N texts of the stream")]


def drift(
    data: Old,
    out: Result,
    stream: New = None,
    since: Since = None,
    method: MethodName = "grace",
    model: ModelName = "smollm2-135m",
    preset: Preset = "default",
    settings: Settings = None,
    every: Every = 25,
    tokens: Tokens = 256,
    limit: Limit = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Train a classification head on older texts, edit its errors on newer ones, and report TRR, ERR and ARR.

    Example: `kg-edit drift --data scotus-train.json --stream scotus-test.json --method grace --out drift.jsonl`
    """
    check_model_name(model)
    if out.exists():
        raise OutputError(f"{out} is there already; give another --out")
    from kg_edit.datasets.label_drift import LabelDrift, read_label_drift
    from kg_edit.evaluate.label_drift import check_editor, run_drift, shortened
    from kg_edit.models.classifier import trained_classifier

    found = read_label_drift(data, stream, since=since)
    chosen = plan(method, preset=preset, settings=settings)
    check_editor(method, chosen.config)
    loaded = load(model, dtype, device)
    cut = LabelDrift(*(shortened(loaded, texts, tokens=tokens) for texts in found))
    cut = cut._replace(stream=cut.stream[:limit])
    classifier = trained_classifier(loaded, [text.prompt for text in cut.train], [text.label for text in cut.train])
    editor = chosen.method(classifier, chosen.config)
    _show(run_drift(classifier, editor, cut, every=every), out)


def _show(points: Iterable[DriftPoint], out: Path) -> None:
    """Print each point when it is there, and write all at the end."""
    from kg_edit.storage.atomic import write_text

    lines = list[str]()
    for point in points:
        said = point.as_json()
        lines.append(json.dumps(said))
        shares = "  ".join(f"{name} {_share(said[name])}" for name in ("TRR", "ERR", "ARR"))
        stdout().print(plain(f"{point.seen} texts, {point.edits} edits: {shares}"), soft_wrap=True)
    write_text(out, "".join(f"{line}\n" for line in lines))
    stdout().print(plain(str(out)), soft_wrap=True)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
