"""`kg-edit patch`: a ledger is a folder of patches with a history.

`add`, `edit`, `remove` and `undo` change it, `list` and `show` look at it, and `check`, `merge` and `export`
(`patch_shipping`) use the sum of the patches that stand.
"""

from __future__ import annotations

from os import environ
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.patch_output import (
    failed,
    failed_at_server,
    model_for,
    parse_kinds,
    picture,
    say_added,
    say_removed,
    show_entry,
    show_ledger,
)
from kg_edit.cli.patch_shipping import Known, Standing, export, merge
from kg_edit.errors import ConfigError
from kg_edit.jobs.method_plan import check_names, graph_of, load, open_graph, plan
from kg_edit.jobs.options import (
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
from kg_edit.ledger.served import KEY, CompletionServer, Kind
from kg_edit.text.display import plain

if TYPE_CHECKING:
    pass

LedgerPath = Annotated[Path, typer.Argument(metavar="LEDGER", help="the ledger's folder")]
Force = Annotated[
    bool, typer.Option("--force", help="also what looks as if it would break the model, or is here already")
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
    help="Keep patches with their history in a folder, take edits out again, check, merge and export what stands.",
    epilog="\n\n".join(["Examples:", *(f"`kg-edit patch {example}`" for example in _EXAMPLES)]),
)


@app.command("list")
def list_edits(
    ledger: LedgerPath,
    out: Annotated[
        Path | None, typer.Option("--picture", help="also draw norms and conflicts: .svg, .png or .pdf")
    ] = None,
) -> None:
    """List the edits of a ledger, and which of them are in each other's way.

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
    edit: Annotated[str | None, typer.Argument(help="an edit's name; without it: all that happened")] = None,
) -> None:
    """Show where an edit came from and how it was made, or all that happened to a ledger.

    Examples: `kg-edit patch show ledger/`, `kg-edit patch show ledger/ lebron`
    """
    from kg_edit.ledger.log import open_store

    open_store(ledger, create=False)
    from kg_edit.ledger import Ledger

    show_entry(Ledger.open(ledger, create=False), edit)


@app.command()
def add(
    ledger: LedgerPath,
    patches: Annotated[
        list[Path], typer.Argument(help="patch files of the unedited model, folders of kg-edit edit, or ledgers")
    ],
    force: Force = False,
    model: Annotated[
        str | None, typer.Option("--model", help="also compare the changes with this model's weights")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Add patch files to a ledger, which is made if there is none; several patches or ledgers become one.

    All are looked at first: where one is refused, none is added.

    Example: `kg-edit patch add ledger/ monday/patch.safetensors tuesday/patch.safetensors`
    """
    from kg_edit.ledger.log import open_store
    from kg_edit.ledger.paths import additions, check_patches

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
    """Make the edits of a file on the model as a ledger leaves it, and add them.

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
    planned.method.check_inputs(planned.config, planned.graph, wanted)
    say_added(opened, opened.make(planned.on(load(model, dtype, device)), wanted, force=force))
    for problem in file.problems:
        typer.echo(f"skipped: {problem}", err=True)


@app.command()
def remove(
    ledger: LedgerPath,
    names: Annotated[list[str], typer.Argument(metavar="EDITS", help="names of edits; 3/* is all of step 3")],
    model: Annotated[
        str | None, typer.Option("--model", help="the unedited model, where other edits have to be made anew")
    ] = None,
    graph: Graph = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Take edits out: the ledger becomes what it would be had they never been asked for.

    Edits that were made on a model with those are made anew, from their records; without a model nothing is guessed.

    Example: `kg-edit patch remove ledger/ lebron france --model smollm2-135m`
    """
    from kg_edit.ledger.log import open_store

    open_store(ledger, create=False)
    from kg_edit.ledger import Ledger

    opened = Ledger.open(ledger, create=False)
    source = open_graph(graph, contact)
    say_removed(opened, opened.remove(names, model=load(model, dtype, device) if model else None, graph=source))


@app.command()
def undo(ledger: LedgerPath) -> None:
    """Take the last event back: an addition or a removal. Again, and the one before is taken back.

    Example: `kg-edit patch undo ledger/`
    """
    from kg_edit.ledger.log import open_store

    open_store(ledger, create=False)
    from kg_edit.ledger import Ledger

    event = Ledger.open(ledger, create=False).undo()
    stdout().print(f"took event {event.number} back ({event.event}, {event.time})")


@app.command()
def check(
    ledger: Standing,
    model: Known = None,
    merged: Annotated[
        str | None, typer.Option("--merged", help="instead: a model that has the patch in its weights, .gguf too")
    ] = None,
    strict: Annotated[
        list[str] | None,
        typer.Option("--strict", help="also fail for: paraphrase, follows, neighbour or all; repeatable"),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--plain", help="ask all as a chat's user turn, or none; default: as the edits were made"),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="instead: an OpenAI-compatible server, as llama-server"),
    ] = None,
    served: Annotated[
        str | None, typer.Option("--served", help="the model's name at a server that has several")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="seconds for an answer of the server")] = 60.0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Ask the edited model every edit's prompts again; exit code 1 if a fact no longer holds or two contradict.

    A fact holds where the new target, all its tokens together, is more likely than the old one after the edit's own
    prompt; where the old one is not known, where the model says it. The other prompts are counted, and matter with
    `--strict`. Of two standing edits that want different targets for one fact only one can be said.

    With `--server` a fact holds where the server's model says it (greedily); the other prompts are asked with
    `--strict` only. A key is taken from the environment variable KG_EDIT_SERVER_KEY.

    Examples: `kg-edit patch check ledger/ --merged model-Q4_K_M.gguf`,
    `kg-edit patch check ledger/ --server http://localhost:8080`
    """
    from kg_edit.ledger.paths import check_patches, standing_at

    kinds = parse_kinds(strict or ())
    if server and (model or merged):
        raise ConfigError("--server asks the model that is served there; leave --model and --merged out")
    if served and not server:
        raise ConfigError("--served names a model of a server; give --server URL")
    check_patches([ledger])
    if server:
        asked = CompletionServer(url=server, model=served, key=environ.get(KEY), seconds=timeout)
        _check_server(ledger, asked, kinds, chat=chat)
        return
    from kg_edit.ledger.check import check as check_entries

    patch, entries = standing_at(ledger)
    if not entries:
        stdout().print("nothing stands here, so there is nothing to check")
        return
    if merged:
        checked = check_entries(load(merged, dtype, device), entries, chat=chat, progress=True)
    else:
        with patch.applied(load(model_for(patch, model), dtype, device)) as edited:
            checked = check_entries(edited, entries, chat=chat, progress=True)
    if failed(checked, kinds):
        raise typer.Exit(1)


def _check_server(ledger: Path, server: CompletionServer, kinds: tuple[Kind, ...], *, chat: bool | None) -> None:
    from kg_edit.ledger.paths import standing_entries
    from kg_edit.ledger.served import check_served

    entries = standing_entries(ledger)
    if not entries:
        stdout().print("nothing stands here, so there is nothing to check")
    elif failed_at_server([*check_served(server, entries, kinds, chat=chat)], server.url):
        raise typer.Exit(1)


app.command()(merge)
app.command()(export)
