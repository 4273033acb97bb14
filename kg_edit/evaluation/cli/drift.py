"""`kg-edit drift`: edit a classifier's mistakes in a stream of texts whose labels change over time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated

import typer

from kg_edit.cli.console import say
from kg_edit.cli.method_plan import load_model, plan_method
from kg_edit.cli.options import Device, Dtype, MethodName, ModelName, Out, Overwrite, Preset, Settings
from kg_edit.models.loading import check_model_name
from kg_edit.storage.run_folder import check_folder, replace_run

_ROW = "rows with `text` and `label`"
Old = Annotated[Path, typer.Option("--data", metavar="FILE", help=f"Older texts: {_ROW}, and `year` for `--since`.")]
New = Annotated[
    Path | None, typer.Option("--stream", metavar="FILE", help=f"Newer texts, in the order of the stream: {_ROW}.")
]
Since = Annotated[
    int | None, typer.Option(metavar="YEAR", help="Instead of `--stream`: use the texts of `--data` from this year on.")
]
Every = Annotated[int, typer.Option(min=1, metavar="N", help="Number of edits between two points of the curve.")]
Tokens = Annotated[int, typer.Option(min=8, metavar="N", help="Number of tokens read of each text, from its start.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first texts of the stream.")]


def drift(
    data: Old,
    out: Out,
    stream: New = None,
    since: Since = None,
    method: MethodName = "grace",
    model: ModelName = "smollm2-135m",
    preset: Preset = "default",
    settings: Settings = None,
    every: Every = 25,
    tokens: Tokens = 256,
    limit: Limit = None,
    overwrite: Overwrite = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Edit a classifier's mistakes in a stream of texts, and report TRR, ERR and ARR.

    A classification head is trained on older texts, and its errors on newer ones are edited.

    Examples:

    - `kg-edit drift --data scotus-train.json --stream scotus-test.json --method grace --out drift/`
    """
    check_model_name(model)
    check_folder(out)
    from kg_edit.evaluation.label_drift.classifier import ClassifierModel, load_classifier, train_classifier
    from kg_edit.evaluation.label_drift.run import (
        DriftFolder,
        DriftPoint,
        check_editor,
        check_labels,
        run_drift,
        shorten,
    )
    from kg_edit.evaluation.label_drift.texts import read_label_drift

    texts = read_label_drift(data, stream, since=since)
    texts = texts._replace(stream=texts.stream[:limit])
    method_plan = plan_method(method, preset=preset, settings=settings)
    check_editor(method, method_plan.config)
    check_labels(texts, {text.label for text in texts.train})
    loaded = load_model(model, dtype, device)
    texts = shorten(loaded, texts, tokens=tokens)
    prompts = [text.prompt for text in texts.train]
    labels = [text.label for text in texts.train]

    @cache  # --overwrite starts twice: the second time after another run, and its head, is deleted
    def train() -> ClassifierModel:
        return train_classifier(loaded, prompts, labels)

    def start() -> Iterator[DriftPoint]:
        classifier = load_classifier(loaded, DriftFolder(out).head, labels) or train()
        return run_drift(classifier, method_plan.method(classifier, method_plan.config), texts, out=out, every=every)

    for point in replace_run(out, start, overwrite=overwrite):
        shares = f"TRR {_round(point.TRR)}  ERR {_round(point.ERR)}  ARR {_round(point.ARR)}"
        say(f"{point.seen} texts, {point.edits} edits: {shares}")
    say(str(out / "points.jsonl"))


def _round(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"
