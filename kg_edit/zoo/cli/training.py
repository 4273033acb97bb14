"""`kg-edit mend train`, and so for KE, MALMEN, RLEdit and SERAC: train the network that a method edits with.

They learn from a file of edits. The result is a folder for `--set network=FOLDER`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg_edit.cli.console import say, stdout
from kg_edit.cli.method_plan import load_model, parse_settings
from kg_edit.cli.options import DatasetName, Device, Dtype, ModelName, Out, Overwrite
from kg_edit.models.loading import check_model_name
from kg_edit.text.display import terminal_table

if TYPE_CHECKING:
    from kg_edit.edits.record import BenchmarkRecord
    from kg_edit.methods.config import MethodConfig
    from kg_edit.zoo.trained.files import NetworkManifest

Data = Annotated[Path, typer.Option("--data", metavar="FILE", help="File of edits, or a benchmark's file.")]
LeaveOut = Annotated[
    list[Path] | None,
    typer.Option("--leave-out", metavar="FILE", help="Test file, whose subjects and prompts are left out. Repeatable."),
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first records.")]
Preset = Annotated[
    str, typer.Option("--preset", help="Named settings of the training; an unknown name lists those of the method.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Setting of the training, such as `steps=1000` or `batch=8`. Repeatable."
    ),
]

_LEARNS = """
Paraphrases and neighbourhood prompts of the edits are used where there are some. `--leave-out` keeps the subjects and
prompts of a test file out of the training, so that the method can be evaluated on it.

"""
_EXAMPLE = """Examples:

- `kg-edit {0} train --data counterfact-edit.json --leave-out dev.json --model smollm2-135m --out {0}/`
"""
_TRAINS = {  # method: what is trained
    "ke": "Train the editing network of KE, for `--method ke --set network=OUT`.",
    "malmen": "Train the editing network of MALMEN, for `--method malmen --set network=OUT`.",
    "mend": "Train the editing network of MEND, for `--method mend --set network=OUT`.",
    "rledit": "Train the editing network of RLEdit, for `--method rledit --set network=OUT`.",
    "serac": "Train the classifier and the counterfactual model of SERAC, for `--set network=OUT`.",
}
_OF_AN_EDITOR = (("-log p (new target)", "edit", 3), ("KL elsewhere", "locality", 4), ("loss", "total", 4))
_LOSSES = {  # method: (column, field of a validation, decimals)
    **dict.fromkeys(("ke", "malmen", "mend", "rledit"), _OF_AN_EDITOR),
    "serac": (
        ("-log p (new target)", "edit", 3),
        ("scope", "scope", 3),
        ("paraphrases in scope", "inside", 2),
        ("others out of scope", "outside", 2),
        ("loss", "total", 3),
    ),
}


def _learner(method: str) -> typer.Typer:
    """Return the commands of a method whose network learns from a file of edits: a group with ``train``."""
    example = _EXAMPLE.format(method)
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=_TRAINS[method], epilog=example)
    app.callback()(lambda: None)  # with a callback, typer keeps the name of an only command

    @app.command(help=f"{_TRAINS[method]}\n{_LEARNS}{example}")
    def train(
        data: Data,
        out: Out,
        overwrite: Overwrite = False,
        dataset: DatasetName = None,
        leave_out: LeaveOut = None,
        limit: Limit = None,
        model: ModelName = "smollm2-135m",
        preset: Preset = "default",
        settings: Settings = None,
        dtype: Dtype = "auto",
        device: Device = "auto",
    ) -> None:
        check_model_name(model)  # a misspelt name is an error before the files are read
        records = training_records(data, dataset, limit, leave_out or [])
        from kg_edit.storage.run_folder import check_folder, replace_run

        settings_class, learn = _training_of(method)
        config = settings_class.preset(preset, parse_settings(settings or []))
        check_folder(out)
        language_model = load_model(model, dtype, device)
        manifest = replace_run(out, lambda: learn(language_model, records, config, out), overwrite=overwrite)
        _show(method, manifest, out)

    return app


def _training_of(method: str) -> tuple[type[MethodConfig], Callable[..., NetworkManifest]]:
    """Import the settings of a method's training, and the function that trains; both import torch."""
    match method:
        case "ke":
            from kg_edit.zoo.ke.network import KeTraining
            from kg_edit.zoo.ke.training import train as train_ke

            return KeTraining, train_ke
        case "malmen":
            from kg_edit.zoo.malmen.network import MalmenTraining
            from kg_edit.zoo.malmen.training import train as train_malmen

            return MalmenTraining, train_malmen
        case "mend":
            from kg_edit.zoo.mend.network import MendTraining
            from kg_edit.zoo.mend.training import train as train_mend

            return MendTraining, train_mend
        case "rledit":
            from kg_edit.zoo.rledit.network import RLEditTraining
            from kg_edit.zoo.rledit.training import train as train_rledit

            return RLEditTraining, train_rledit
    from kg_edit.zoo.serac.network import SeracTraining
    from kg_edit.zoo.serac.training import train as train_serac

    return SeracTraining, train_serac


def training_records(
    data: Path, dataset: str | None, limit: int | None, leave_out: list[Path]
) -> list[BenchmarkRecord]:
    """Read the records to train on, without what the test files ask; print how much was left out.

    Args:
        data: file of edits, or a benchmark's file. A record may have several edits.
        dataset: name of the benchmark; None: detected from the file.
        limit: use only the first records of ``data``.
        leave_out: test files, by whose subjects and prompts records are left out (`HeldOutPrompts`).
    """
    from kg_edit.evaluation.datasets.locality import HeldOutPrompts, count_locality_queries

    records = _read_records(data, dataset)[:limit]
    if not leave_out:
        return [record for record in records if record.edits]
    test_records: list[BenchmarkRecord] = []
    for path in leave_out:
        test_records += _read_records(path)
    test = HeldOutPrompts(test_records)
    # Of a record, only the edits about a subject of the test are left out, with their prompts.
    remaining: list[BenchmarkRecord] = []
    for record in records:
        rest = test.without(record)
        if rest:
            remaining.append(rest)
    edits = sum(len(record.edits) for record in records)
    edits_left = sum(len(record.edits) for record in remaining)
    prompts = count_locality_queries(records)
    prompts_left = count_locality_queries(remaining)
    typer.echo(
        f"{edits - edits_left} of {edits} edits, and {prompts - prompts_left} of {prompts} prompts that must not "
        "change, are left out: a --leave-out file has their subjects or prompts"
    )
    return remaining


def _read_records(path: Path, dataset: str | None = None) -> list[BenchmarkRecord]:
    """Read the records of a file, and print which rows are skipped; ``dataset`` None: detected from the file."""
    from kg_edit.evaluation.datasets import find_dataset, guess_dataset

    reader = find_dataset(dataset) if dataset else guess_dataset(path)
    content = reader.read(path)
    for problem in content.problems:
        typer.echo(f"skipped: {problem}", err=True)
    return list(content.records)


def _show(method: str, manifest: Any, out: Path) -> None:
    """Print the losses of each validation, and how the method uses the network."""
    rows = []
    for validation in manifest.validations:
        cells = [str(validation.step)]
        if validation.step == manifest.steps:
            cells[0] += " *"
        for _, field, decimals in _LOSSES[method]:
            value = getattr(validation, field)
            cell = "" if value is None else f"{value:.{decimals}f}"
            cells.append(cell)
        rows.append(cells)
    header = ["steps", *(column for column, _, _ in _LOSSES[method])]
    table = terminal_table(header, rows, numbers_from=0, lines=False)
    together = {"malmen": "edited in batches", "rledit": "edited in sequences of batches"}
    how = together.get(method, "each edited alone")
    stdout().print(table, f"measured on held-out edits, {how}; * marks the saved step")
    say(f"{out}: network.safetensors, run.json; use --method {method} --set network={out}")


KE = _learner("ke")
MALMEN = _learner("malmen")
MEND = _learner("mend")
RLEDIT = _learner("rledit")
SERAC = _learner("serac")
