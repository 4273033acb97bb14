"""`kg-edit glame-net`: train the network that the method glame-net edits with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.drawn_edits import DrawnEdits, Exclude, Number, PerSubject, Relations
from kg_edit.cli.method_plan import parse_settings
from kg_edit.cli.options import Contact, Device, Dtype, Graph, ModelName, TrainingPreset, TrainingSettings
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.methods.glame_net.store import Manifest

Seed = Annotated[int, typer.Option(help="random seed")]
Steps = Annotated[int | None, typer.Option(min=1, help="maximum number of steps; same as --set steps=N")]
Out = Annotated[Path, typer.Option("--out", help="output folder; the same command again resumes the run")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train the editing network of glame-net.")


@app.callback()
def _top() -> None:
    """glame-net: train the network that the method glame-net edits with."""


@app.command()
def train(
    out: Out,
    graph: Graph = None,
    relations: Relations = None,
    n: Number = 3000,
    per_subject: PerSubject = 1,
    exclude: Exclude = None,
    model: ModelName = "smollm2-135m",
    seed: Seed = 0,
    steps: Steps = None,
    preset: TrainingPreset = "default",
    settings: TrainingSettings = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Train an R-GNN on edits drawn from a graph; use it with `--method glame-net --set network=OUT`.

    Evaluate it on other facts: `--exclude` keeps the s and o* of a benchmark out of the training edits, and out of the
    neighbours of their o*.

    Example: `kg-edit glame-net train --graph wikidata.nt.gz --relations P17,P19 --exclude ripples.json --out net/`
    """
    from kg_edit.cli.glame_net_run import GlameNetRun

    drawn = DrawnEdits(
        graph=graph or [],
        relations=relations,
        n=n,
        per_subject=per_subject,
        seed=seed,
        exclude=exclude or [],
        contact=contact,
    )
    run = GlameNetRun(
        model=model,
        drawn=drawn,
        out=out,
        preset=preset,
        settings=parse_settings(settings or [], steps=steps),
        dtype=dtype,
        device=device,
    )
    _show(run.run(), out)


def _show(manifest: Manifest, out: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header in ("steps", "-log p (o*)", "says o*", "KL", "questions", "held-out questions", "loss"):
        table.add_column(header, justify="right")
    for found in manifest.validations:
        mark = " *" if found.step == manifest.steps else ""
        held_out = "" if found.held_out is None else f"{found.held_out:.3f}"
        row = (f"{found.nll:.3f}", f"{found.greedy:.2f}", f"{found.kl:.4f}", f"{found.composed:.3f}", held_out)
        table.add_row(f"{found.step}{mark}", *row, f"{found.total:.4f}")
    stdout().print(table, "measured on edits with held-out o*, each made alone; * marks the saved step")
    stdout().print(
        f"{plain(str(out))}: network.safetensors, run.json; trained on {manifest.examples} edits with "
        f"{manifest.targets} o*; use --method glame-net --graph GRAPH --set network={plain(str(out))}",
        soft_wrap=True,
    )
