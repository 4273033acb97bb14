"""`kg-edit patch`: a ledger is a folder of patches with a history.

`add`, `edit`, `remove` and `undo` change it, `list` and `show` look at it, and `check`, `merge` and `export`
(`patch_shipping`) use the sum of the patches that stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.edit import usable_edits
from kg_edit.cli.method_plan import check_names, graph_of, load, open_graph, plan
from kg_edit.cli.options import (
    AsChat,
    BothForms,
    Contact,
    Device,
    Dtype,
    EditsFile,
    Graph,
    KeepGoing,
    Layer,
    MethodName,
    ModelName,
    Preset,
    Settings,
    Templates,
)
from kg_edit.cli.patch_output import (
    failed,
    failed_at_server,
    parse_kinds,
    picture,
    say_added,
    say_removed,
    show_entry,
    show_ledger,
)
from kg_edit.cli.patch_shipping import Edits, Unedited, export, merge, model_for, subtract
from kg_edit.cli.unused import refuse_unused
from kg_edit.ledger.served import KEY, CompletionServer, Kind
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.ledger.check import Checked
    from kg_edit.ledger.entries import Entry
    from kg_edit.patches.base import Patch

LedgerPath = Annotated[Path, typer.Argument(metavar="LEDGER", help="folder of the ledger")]
Force = Annotated[
    bool, typer.Option("--force", help="accept patches that probably break the model or are in the ledger already")
]
_EXAMPLES = (
    "add ledger/ out/patch.safetensors",
    "list ledger/",
    "remove ledger/ lebron --model smollm2-135m",
    "check ledger/ --model smollm2-135m",
    "merge ledger/ --out merged/",
    "export ledger/ --to peft adapter/",
    "export ledger/ --to gguf adapter-gguf/",
    "check ledger/ --server http://localhost:8080",
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Keep patches and their history in a folder (a ledger); remove, check, merge and export edits.",
    epilog="\n\n".join(["Examples:", *(f"`kg-edit patch {example}`" for example in _EXAMPLES)]),
)


@app.command("list")
def list_edits(
    ledger: LedgerPath,
    out: Annotated[
        Path | None, typer.Option("--picture", help="also draw norms and conflicts: .svg, .png or .pdf")
    ] = None,
) -> None:
    """List the edits of a ledger and the conflicts between them.

    Example: `kg-edit patch list ledger/ --picture ledger.svg`
    """
    from kg_edit.ledger.listing import Listing

    opened = Listing.open(ledger)
    show_ledger(opened)
    if out:
        stdout().print(plain(str(picture(opened, out))), soft_wrap=True)


@app.command()
def show(
    ledger: LedgerPath,
    edit: Annotated[str | None, typer.Argument(help="name of an edit; default: show all events")] = None,
) -> None:
    """Show where an edit came from and how it was made, or all events of a ledger.

    Examples: `kg-edit patch show ledger/`, `kg-edit patch show ledger/ lebron`
    """
    from kg_edit.ledger.log import open_store

    open_store(ledger, create=False)
    from kg_edit.ledger import Ledger

    show_entry(Ledger.open(ledger, create=False), edit)


@app.command()
def add(
    context: typer.Context,
    ledger: LedgerPath,
    patches: Annotated[
        list[Path],
        typer.Argument(help="patch files for the unedited model, output folders of kg-edit edit, or ledgers"),
    ],
    force: Force = False,
    model: Annotated[
        str | None, typer.Option("--model", help="also compare the changes with this model's weights")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Add patches, or all patches of other ledgers, to a ledger; a missing ledger is created.

    All are checked first: if one is refused, none is added.

    Example: `kg-edit patch add ledger/ monday/patch.safetensors tuesday/patch.safetensors`
    """
    from kg_edit.ledger.log import open_store
    from kg_edit.ledger.paths import additions, check_patches

    if model is None:
        refuse_unused(context, ("dtype", "device"), "without --model", way="also give --model")
    open_store(ledger)
    check_patches(patches)
    from kg_edit.ledger import Ledger

    opened, found = Ledger.open(ledger), additions(patches)
    language_model = load(model, dtype, device) if model else None
    for number in opened.add_all(found, force=force, model=language_model):
        say_added(opened, number)


@app.command()
def edit(
    ledger: LedgerPath,
    edits: EditsFile,
    method: MethodName = "glame",
    model: ModelName = "smollm2-135m",
    graph: Graph = None,
    layer: Layer = None,
    preset: Preset = "default",
    settings: Settings = None,
    templates: Templates = None,
    keep_going: KeepGoing = False,
    chat: AsChat = None,
    both_forms: BothForms = False,
    force: Force = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Make the edits of a file on the model as edited by a ledger, and add them to the ledger.

    Example: `kg-edit patch edit ledger/ edits.jsonl --method rome --model smollm2-135m`
    """
    from kg_edit.edits.files import check_file, in_form, read_edits
    from kg_edit.edits.templates import RelationTemplates
    from kg_edit.ledger.log import open_store

    check_names(method, model)
    open_store(ledger)
    check_file(edits)
    source = graph_of(method, graph, contact)
    file = read_edits(edits, labels=source, templates=RelationTemplates.load(templates), keep_going=keep_going)
    from kg_edit.ledger import Ledger

    opened = Ledger.open(ledger)
    wanted = in_form(file.edits, chat, both=both_forms)
    planned = plan(method, preset=preset, layer=layer, settings=settings, graph=source)
    usable = usable_edits(planned, wanted, edits, graph, keep_going=keep_going)
    say_added(opened, opened.make(planned.on(load(model, dtype, device)), usable, force=force))
    for problem in file.problems:
        typer.echo(f"skipped: {problem}", err=True)


@app.command()
def remove(
    context: typer.Context,
    ledger: LedgerPath,
    names: Annotated[list[str], typer.Argument(metavar="EDITS", help="names of edits; 3/* means all edits of step 3")],
    model: Annotated[
        str | None, typer.Option("--model", help="the unedited model; needed if other edits have to be recomputed")
    ] = None,
    graph: Graph = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Remove edits: the result is the same as if they had never been made.

    Edits that were computed on a model with the removed ones are recomputed from their records; this needs `--model`.

    Example: `kg-edit patch remove ledger/ lebron france --model smollm2-135m`
    """
    from kg_edit.ledger.log import open_store

    if model is None:
        unused = ("graph", "dtype", "device", "contact")
        refuse_unused(context, unused, "without --model", way="also give --model")
    open_store(ledger, create=False)
    from kg_edit.ledger import Ledger

    opened = Ledger.open(ledger, create=False)
    source = open_graph(graph, contact)
    say_removed(opened, opened.remove(names, model=load(model, dtype, device) if model else None, graph=source))


@app.command()
def undo(ledger: LedgerPath) -> None:
    """Undo the last addition or removal; the same command again undoes the one before.

    Example: `kg-edit patch undo ledger/`
    """
    from kg_edit.ledger.log import open_store

    open_store(ledger, create=False)
    from kg_edit.ledger import Ledger

    event = Ledger.open(ledger, create=False).undo()
    stdout().print(f"undid event {event.number} ({event.event}, {event.time})")


@app.command()
def check(
    context: typer.Context,
    ledger: Edits,
    model: Unedited = None,
    merged: Annotated[
        str | None,
        typer.Option("--merged", help="check this model instead, which has the patch in its weights (.gguf too)"),
    ] = None,
    strict: Annotated[
        list[str] | None,
        typer.Option("--strict", help="also fail for these prompts: paraphrase, follows, neighbour or all; repeatable"),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--plain", help="ask all prompts as chat user turns, or none; default: as the edits were made"
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="check an OpenAI-compatible server instead, such as llama-server"),
    ] = None,
    served: Annotated[str | None, typer.Option("--served", help="name of the model, if the server has several")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="seconds to wait for an answer of the server")
    ] = 60.0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Ask the edited model the prompts of all edits again; exit code 1 if a fact no longer holds or two contradict.

    A fact holds if the whole new target is more likely than the old one after the edit's own prompt, or, if the old one
    is not known, if the model says the new one. The other prompts are counted, but affect the exit code only with
    `--strict`. Two edits contradict if they set different targets for one fact.

    With `--server`, a fact holds if the server's model says it (greedy decoding); the other prompts are asked only with
    `--strict`. If the server needs an API key, set the environment variable KG_EDIT_SERVER_KEY.

    Examples: `kg-edit patch check ledger/ --merged model-Q4_K_M.gguf`,
    `kg-edit patch check ledger/ --server http://localhost:8080`
    """
    from kg_edit.ledger.paths import check_patches, standing_at

    kinds = parse_kinds(strict or ())
    _refuse_unchecked(context, server=server, merged=merged)
    check_patches([ledger])
    if server:
        asked = CompletionServer(url=server, model=served, key=environ.get(KEY), seconds=timeout)
        _check_server(ledger, asked, kinds, chat=chat)
        return
    patch, entries = standing_at(ledger)
    if not entries:
        _say_nothing_to_check(ledger)
    elif failed(_checked(patch, entries, model, merged=merged, chat=chat, dtype=dtype, device=device), kinds):
        raise typer.Exit(1)


def _refuse_unchecked(context: typer.Context, *, server: str | None, merged: str | None) -> None:
    """Raise ConfigError for options of a model that is not the one to check."""
    if server:
        unused = ("model", "merged", "dtype", "device")
        refuse_unused(context, unused, "with --server, which checks the model of the server")
    else:
        refuse_unused(context, ("served", "timeout"), "without --server", way="also give --server URL")
    if merged:
        refuse_unused(context, ("model",), "with --merged, which is the model to check", way="leave out --merged")


def _checked(
    patch: Patch,
    entries: Sequence[Entry],
    model: str | None,
    *,
    merged: str | None,
    chat: bool | None,
    dtype: str,
    device: str,
) -> tuple[Checked, ...]:
    """Ask the model with the patch; or the model ``merged``, which has the patch in its weights."""
    from kg_edit.ledger.check import check as check_entries

    if merged:
        return check_entries(load(merged, dtype, device), entries, chat=chat, progress=True)
    with patch.applied(load(model_for(patch, model), dtype, device)) as edited:
        return check_entries(edited, entries, chat=chat, progress=True)


def _check_server(ledger: Path, server: CompletionServer, kinds: tuple[Kind, ...], *, chat: bool | None) -> None:
    from kg_edit.ledger.paths import standing_entries
    from kg_edit.ledger.served import check_served

    entries = standing_entries(ledger)
    if not entries:
        _say_nothing_to_check(ledger)
    elif failed_at_server([*check_served(server, entries, kinds, chat=chat)], server.url):
        raise typer.Exit(1)


def _say_nothing_to_check(ledger: Path) -> None:
    stdout().print(plain(f"{ledger} has no edits, so there is nothing to check"), soft_wrap=True)


app.command()(merge)
app.command()(export)
app.command()(subtract)
