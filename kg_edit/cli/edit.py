"""`kg-edit edit` and `kg-edit demo`: edits become a patch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import run
from kg_edit.cli.method_plan import check_names, graph_of, load, plan
from kg_edit.cli.options import (
    AsChat,
    BothForms,
    Contact,
    CorpusName,
    Device,
    Dtype,
    EditsFile,
    Graph,
    KeepGoing,
    LayerChoice,
    MethodName,
    ModelName,
    Out,
    Preset,
    Settings,
    Templates,
)
from kg_edit.storage.packaged import EXTRACT, packaged_graph

if TYPE_CHECKING:
    from kg_edit.cli.method_plan import MethodPlan
    from kg_edit.edits.edit import Edit

Force = Annotated[bool, typer.Option("--force", help="accept edits so large that they probably break the model")]
RequireSuccess = Annotated[
    bool, typer.Option("--require-success", help="exit code 1 unless the edited model says every new object")
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="KIND:WHERE",
        help="log the losses to file:losses.jsonl, tensorboard:FOLDER or wandb:PROJECT; repeatable",
    ),
]


def edit(
    edits: EditsFile,
    out: Out,
    method: MethodName = "glame",
    model: ModelName = "smollm2-135m",
    graph: Graph = None,
    layer: LayerChoice = None,
    preset: Preset = "default",
    settings: Settings = None,
    corpus: CorpusName = None,
    templates: Templates = None,
    keep_going: KeepGoing = False,
    chat: AsChat = None,
    both_forms: BothForms = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
    force: Force = False,
    require_success: RequireSuccess = False,
    log: Log = None,
) -> None:
    """Make the edits of a file; write the patch and a report to a folder.

    Example: `kg-edit edit edits.jsonl --method glame --model smollm2-135m --graph wikidata.nt.gz --out out/`
    """
    from kg_edit.callbacks import open_callbacks
    from kg_edit.edits.files import check_file, in_form, read_edits
    from kg_edit.edits.templates import RelationTemplates
    from kg_edit.storage.run_folder import check_folder

    check_names(method, model)
    check_file(edits)
    opened = graph_of(method, graph, contact)
    file = read_edits(edits, labels=opened, templates=RelationTemplates.load(templates), keep_going=keep_going)
    wanted = in_form(file.edits, chat, both=both_forms)
    planned = plan(method, preset=preset, layer=layer, settings=settings, corpus=corpus, graph=opened)
    check_folder(out)
    usable = usable_edits(planned, wanted, edits, graph, keep_going=keep_going)
    with open_callbacks(log or ()) as callbacks:
        language_model = load(model, dtype, device)
        chosen = planned.with_layer(language_model, usable)
        verdict = run(chosen.on(language_model), language_model, usable, out, force=force, callbacks=callbacks)
    chosen.note_layer(out)
    for problem in file.problems:
        typer.echo(f"skipped: {problem}", err=True)
    if require_success and verdict.missed:
        raise typer.Exit(1)


def usable_edits(
    planned: MethodPlan, edits: Sequence[Edit], file: Path, graph: Sequence[str] | None, *, keep_going: bool
) -> tuple[Edit, ...]:
    """The edits of a file that can be made; the others are refused, or with ``keep_going`` listed on stderr.

    Raises:
        KgEditError, WikidataCacheError: an edit can't be made; with ``keep_going`` only if none can.
    """
    say, settle = partial(typer.echo, err=True), link_command(file, graph)
    return planned.usable(edits, keep_going=keep_going, say=say, settle=settle)


def link_command(edits: Path, graph: Sequence[str] | None) -> str:
    """The command that fills ids into a file of edits, from the same graph."""
    named = " ".join(f"--graph {shlex.quote(str(packaged_graph(part) or part))}" for part in graph or ())
    linked = edits.with_name(f"{edits.stem}-linked.jsonl")
    parts = ["wikidata-cache link", shlex.quote(str(edits)), named, "--out", shlex.quote(str(linked))]
    return " ".join(filter(None, parts))


def demo(out: Out = Path("out"), method: MethodName = "glame") -> None:
    """Edit three facts in SmolLM2-135M, offline, with the packaged extract of Wikidata.

    Example: `kg-edit demo --out out/`
    """
    from importlib.resources import as_file, files

    from kg_edit.edits.files import read_edits

    check_names(method)
    with as_file(files("kg_edit") / "data" / "demo.jsonl") as path:
        edits = read_edits(path).edits
    planned = plan(method, graph=[EXTRACT])
    planned.check(edits, out)
    model = load("smollm2-135m")
    run(planned.on(model), model, edits, out)
