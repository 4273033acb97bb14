"""The commands that train an editor on a file of edits: options, the edits to learn from, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import load, parse_settings
from kg_edit.cli.options import Device, Dtype, ModelName, TrainingPreset, TrainingSettings
from kg_edit.models.loading import check_model_name
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.datasets.record import BenchmarkRecord
    from kg_edit.methods.config import MethodConfig
    from kg_edit.methods.ke.store import KeManifest
    from kg_edit.methods.mend.store import Manifest as MendManifest

Data = Annotated[Path, typer.Option("--data", help="file of edits, or a benchmark's file, to train on")]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", help="name of the benchmark; default: detected from the file")
]
Leave = Annotated[
    list[Path] | None,
    typer.Option("--leave-out", help="test file: its subjects and prompts are left out of the training; repeatable"),
]
Limit = Annotated[int | None, typer.Option(min=1, help="use only the first N records")]
Steps = Annotated[int | None, typer.Option(min=1, help="maximum number of steps; same as --set steps=N")]
Out = Annotated[Path, typer.Option("--out", help="output folder; the same command again resumes the run")]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a method's network is trained: its settings' class, the function that does it, and what is shown then.

    ``train`` takes the model, the edits, the settings and the output folder, and gives the manifest.
    """

    settings: type[MethodConfig]
    train: Callable[..., Any]
    show: Callable[[Any, Path], None]


def training_command(app: typer.Typer, about: str, training: Callable[[], Training]) -> None:
    """Add the command ``train`` to ``app``, with the help ``about``.

    ``training`` is called when the command runs, as its imports are heavy.
    """

    @app.command(help=about)
    def train(
        data: Data,
        out: Out,
        dataset: DatasetName = None,
        model: ModelName = "smollm2-135m",
        leave_out: Leave = None,
        limit: Limit = None,
        steps: Steps = None,
        preset: TrainingPreset = "default",
        settings: TrainingSettings = None,
        dtype: Dtype = "auto",
        device: Device = "auto",
    ) -> None:
        check_model_name(model)
        edits = learned_from(data, dataset, limit, leave_out or [])
        from kg_edit.storage.run_folder import check_folder

        chosen = training()
        config = chosen.settings.preset(preset, parse_settings(settings or [], steps=steps))
        check_folder(out)
        chosen.show(chosen.train(load(model, dtype, device), edits, config, out), out)


def learned_from(data: Path, dataset: str | None, limit: int | None, leave_out: list[Path]) -> list[BenchmarkRecord]:
    """The records of a file, without what the files of ``leave_out`` ask (`HeldOutPrompts`); says how much that is."""
    from kg_edit.datasets.locality import HeldOutPrompts, count_locality_queries

    found = _read(data, dataset, limit)
    if not leave_out:
        return [record for record in found if record.edits]
    test = HeldOutPrompts(record for path in leave_out for record in _read(path, None))
    left = [one for record in found if (one := test.without(record))]
    every, kept = (sum(len(record.edits) for record in some) for some in (found, left))
    prompts, others = count_locality_queries(found), count_locality_queries(left)
    typer.echo(
        f"{every - kept} of {every} edits, and {prompts - others} of {prompts} prompts that must not change, are left "
        "out: a --leave-out file has their subjects or prompts"
    )
    return left


def _read(path: Path, dataset: str | None, limit: int | None = None) -> list[BenchmarkRecord]:
    """The file's first ``limit`` records; a record may have several edits."""
    from kg_edit.datasets import find_dataset, guess_dataset

    chosen = find_dataset(dataset) if dataset else guess_dataset(path)
    reading = chosen.read(path)
    for problem in reading.problems:
        typer.echo(f"skipped: {problem}", err=True)
    return list(reading.records[:limit])


def show_validations(manifest: KeManifest | MendManifest, out: Path, *, method: str) -> None:
    """A table of the losses on edits held out, and how ``method`` uses what was kept."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header in ("steps", "-log p (new target)", "KL elsewhere", "loss"):
        table.add_column(header, justify="right")
    for found in manifest.validations:
        mark = " *" if found.step == manifest.steps else ""
        table.add_row(f"{found.step}{mark}", f"{found.edit:.3f}", f"{found.locality:.4f}", f"{found.total:.4f}")
    stdout().print(table, "measured on held-out edits, each made alone; * marks the saved step")
    say_kept(out, method)


def say_kept(out: Path, method: str) -> None:
    """Which files were kept, and how ``method`` is told of them."""
    stdout().print(
        f"{plain(str(out))}: network.safetensors, run.json; use --method {method} --set network={plain(str(out))}",
        soft_wrap=True,
    )
