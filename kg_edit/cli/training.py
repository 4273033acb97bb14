"""`kg-edit ke train`, `mend train`, `serac train` and `glame-net train`: train the network that a method edits with.

KE, MEND and SERAC learn from a file of edits, glame-net from edits that are drawn from a graph. The result is a folder
for `--set network=FOLDER`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.data import draw_edits
from kg_edit.cli.method_plan import load, parse_settings
from kg_edit.cli.options import (
    Contact,
    DatasetName,
    Device,
    Dtype,
    EditCount,
    Exclude,
    Graph,
    ModelName,
    Out,
    PerSubject,
    Relations,
    Seed,
)
from kg_edit.models.loading import check_model_name
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.datasets.record import BenchmarkRecord
    from kg_edit.methods.config import MethodConfig
    from kg_edit.methods.trained.files import NetworkManifest

Data = Annotated[Path, typer.Option("--data", metavar="FILE", help="File of edits, or a benchmark's file.")]
LeaveOut = Annotated[
    list[Path] | None,
    typer.Option("--leave-out", metavar="FILE", help="Test file, whose subjects and prompts are left out. Repeatable."),
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first records.")]
Steps = Annotated[int | None, typer.Option(min=1, metavar="N", help="Maximum number of steps, like `--set steps=N`.")]
Preset = Annotated[
    str, typer.Option("--preset", help="Named settings of the training; an unknown name lists those of the method.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Setting of the training, such as `batch=8`. Repeatable."),
]

_LEARNS = """
Edits with paraphrases and neighbourhood prompts are needed. `--leave-out` keeps the subjects of a test file out of
the training, so that the method can be evaluated on it.

Examples:

- `kg-edit {0} train --data counterfact-edit.json --leave-out dev.json --model smollm2-135m --out {0}/`
"""
_TRAINS = {  # method: what is trained
    "ke": "Train the editing network of KE, for `--method ke --set network=OUT`.",
    "mend": "Train the editing network of MEND, for `--method mend --set network=OUT`.",
    "serac": "Train the classifier and the counterfactual model of SERAC, for `--set network=OUT`.",
}
_LOSSES = {  # method: (column, field of a validation, decimals)
    "ke": (("-log p (new target)", "edit", 3), ("KL elsewhere", "locality", 4), ("loss", "total", 4)),
    "mend": (("-log p (new target)", "edit", 3), ("KL elsewhere", "locality", 4), ("loss", "total", 4)),
    "serac": (
        ("-log p (new target)", "edit", 3),
        ("scope", "scope", 3),
        ("paraphrases in scope", "inside", 2),
        ("others out of scope", "outside", 2),
        ("loss", "total", 3),
    ),
    "glame-net": (
        ("-log p (o*)", "nll", 3),
        ("predicts o*", "greedy", 2),
        ("KL", "kl", 4),
        ("questions", "composed", 3),
        ("held-out questions", "held_out", 3),
        ("loss", "total", 4),
    ),
}


def _group(about: str) -> typer.Typer:
    """Return a group of commands; with a callback, typer keeps the name of its only command."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=about)
    app.callback()(lambda: None)
    return app


def _learner(method: str) -> typer.Typer:
    """Return the group of a method whose network learns from a file of edits, with its command ``train``."""
    app = _group(_TRAINS[method])

    @app.command(help=f"{_TRAINS[method]}\n{_LEARNS.format(method)}")
    def train(
        data: Data,
        out: Out,
        dataset: DatasetName = None,
        leave_out: LeaveOut = None,
        limit: Limit = None,
        model: ModelName = "smollm2-135m",
        steps: Steps = None,
        preset: Preset = "default",
        settings: Settings = None,
        dtype: Dtype = "auto",
        device: Device = "auto",
    ) -> None:
        check_model_name(model)  # a misspelt name is an error before the files are read
        records = training_records(data, dataset, limit, leave_out or [])
        from kg_edit.storage.run_folder import check_folder

        kind, learn = _training_of(method)
        config = kind.preset(preset, parse_settings(settings or [], steps=steps))
        check_folder(out)
        _show(method, learn(load(model, dtype, device), records, config, out), out)

    return app


def _training_of(method: str) -> tuple[type[MethodConfig], Callable[..., NetworkManifest]]:
    """Import the settings of a method's training, and the function that trains; both import torch."""
    if method == "ke":
        from kg_edit.methods.ke.network import KeTraining
        from kg_edit.methods.ke.training import train as train_ke

        return KeTraining, train_ke
    if method == "mend":
        from kg_edit.methods.mend.network import MendTraining
        from kg_edit.methods.mend.training import train as train_mend

        return MendTraining, train_mend
    from kg_edit.methods.serac.network import SeracTraining
    from kg_edit.methods.serac.training import train as train_serac

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
    from kg_edit.datasets import find_dataset, guess_dataset
    from kg_edit.datasets.locality import HeldOutPrompts, count_locality_queries

    def read(path: Path, dataset: str | None = None) -> tuple[BenchmarkRecord, ...]:
        content = (find_dataset(dataset) if dataset else guess_dataset(path)).read(path)
        for problem in content.problems:
            typer.echo(f"skipped: {problem}", err=True)
        return tuple(content.records)

    records = read(data, dataset)[:limit]
    if not leave_out:
        return [record for record in records if record.edits]
    # An edit is left out with its prompts, not the whole record: others of the record may be about another subject
    test = HeldOutPrompts(record for path in leave_out for record in read(path))
    left = [cut for record in records if (cut := test.without(record))]
    edits, edits_left = (sum(len(record.edits) for record in some) for some in (records, left))
    prompts, prompts_left = count_locality_queries(records), count_locality_queries(left)
    typer.echo(
        f"{edits - edits_left} of {edits} edits, and {prompts - prompts_left} of {prompts} prompts that must not "
        "change, are left out: a --leave-out file has their subjects or prompts"
    )
    return left


glame_net = _group("Train the editing network of glame-net.")


@glame_net.command("train")
def train_glame_net(
    out: Out,
    graph: Graph = None,
    relations: Relations = None,
    n: EditCount = 3000,
    per_subject: PerSubject = 1,
    exclude: Exclude = None,
    model: ModelName = "smollm2-135m",
    steps: Steps = None,
    preset: Preset = "default",
    settings: Settings = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Train an R-GNN on edits drawn from a graph, for `--method glame-net --set network=OUT`.

    `--exclude` keeps the s and o* of a benchmark out of the training edits, and out of the neighbours of their o*, so
    that the method can be evaluated on it.

    Examples:

    - `kg-edit glame-net train --graph wikidata.nt.gz --relations P17,P19 --exclude ripples.json --out net/`
    """
    check_model_name(model)
    from kg_edit.methods.glame_net.network import NetTraining
    from kg_edit.methods.glame_net.training import train
    from kg_edit.storage.run_folder import check_folder

    config = NetTraining.preset(preset, {"seed": seed, **parse_settings(settings or [], steps=steps)})
    check_folder(out)
    table, edits, excluded = draw_edits(
        graph, relations, n=n, per_subject=per_subject, seed=seed, exclude=exclude, contact=contact
    )
    manifest = train(load(model, dtype, device), table.graph, edits, config, out, excluded=excluded)
    _show("glame-net", manifest, out)
    stdout().print(f"trained on {manifest.examples} edits with {manifest.targets} o*")


def _show(method: str, manifest: Any, out: Path) -> None:
    """Print the losses of each validation, and how the method uses the network."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header in ("steps", *(column for column, _, _ in _LOSSES[method])):
        table.add_column(header, justify="right")
    for found in manifest.validations:
        values = [(getattr(found, field), decimals) for _, field, decimals in _LOSSES[method]]
        cells = ["" if value is None else f"{value:.{decimals}f}" for value, decimals in values]
        table.add_row(f"{found.step}{' *' if found.step == manifest.steps else ''}", *cells)
    held_out = "edits with held-out o*" if method == "glame-net" else "held-out edits"
    stdout().print(table, f"measured on {held_out}, each edited alone; * marks the saved step")
    graph = " --graph GRAPH" if method == "glame-net" else ""
    stdout().print(
        f"{plain(str(out))}: network.safetensors, run.json; "
        f"use --method {method}{graph} --set network={plain(str(out))}",
        soft_wrap=True,
    )


groups = {method: _learner(method) for method in _TRAINS} | {"glame-net": glame_net}
