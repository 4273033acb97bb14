"""`kg-edit drift`: edit a classifier's mistakes in a stream of texts whose labels change over time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

from kg_edit.cli.console import say
from kg_edit.cli.method_plan import load, plan
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
    from kg_edit.evaluation.label_drift.classifier import stored_classifier, trained_classifier
    from kg_edit.evaluation.label_drift.run import (
        DriftFolder,
        DriftPoint,
        check_editor,
        check_labels,
        run_drift,
        shortened,
    )
    from kg_edit.evaluation.label_drift.texts import LabelDrift, read_label_drift

    full_texts = read_label_drift(data, stream, since=since)
    chosen = plan(method, preset=preset, settings=settings)
    check_editor(method, chosen.config)
    check_labels(full_texts._replace(stream=full_texts.stream[:limit]), {text.label for text in full_texts.train})
    loaded = load(model, dtype, device)
    cut = LabelDrift(*(shortened(loaded, texts, tokens=tokens) for texts in full_texts))
    cut = cut._replace(stream=cut.stream[:limit])
    prompts = [text.prompt for text in cut.train]
    labels = [text.label for text in cut.train]
    trained = cache(partial(trained_classifier, loaded, prompts, labels))

    def start() -> Iterator[DriftPoint]:
        classifier = stored_classifier(loaded, DriftFolder(out).head, labels) or trained()
        return run_drift(classifier, chosen.method(classifier, chosen.config), cut, out=out, every=every)

    for point in replace_run(out, start, overwrite=overwrite):
        rates = (("TRR", point.TRR), ("ERR", point.ERR), ("ARR", point.ARR))
        shares = "  ".join(f"{name} {'-' if rate is None else f'{rate:.2f}'}" for name, rate in rates)
        say(f"{point.seen} texts, {point.edits} edits: {shares}")
    say(str(out / "points.jsonl"))
