"""`kg-edit patch`: a ledger is a folder of patches with a history.

`add`, `edit`, `remove` and `undo` change it, `list` and `show` print it; `check` (`patch_check`), `merge` and `export`
(`patch_shipping`) use the sum of its active patches, `push` and `pull` (`patch_live`) put it into a running server.
`rebase` (`patch_rebase`) brings a ledger to another model.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import print_json, say, stdout
from kg_edit.cli.lazy_graph import LazyGraph
from kg_edit.cli.method_plan import (
    choose_method,
    load_model,
    note_choice,
    open_graph,
    plan_method,
    warn_of_edits_without_facts,
)
from kg_edit.cli.options import (
    AsChat,
    BothForms,
    ChosenMethod,
    Contact,
    Device,
    Dtype,
    EditPreset,
    EditsFile,
    Graph,
    KeepGoing,
    Layer,
    ModelName,
    RequireGraph,
    Settings,
    Templates,
    refuse_unused,
)
from kg_edit.methods.registry import check_method
from kg_edit.models.loading import check_model_name
from kg_edit.ship.cli.conflicts import show_conflicts
from kg_edit.ship.cli.patch_check import check
from kg_edit.ship.cli.patch_live import pull, push
from kg_edit.ship.cli.patch_rebase import rebase
from kg_edit.ship.cli.patch_shipping import average, export, extract, merge, subtract
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.patches.entries import Entry
    from kg_edit.ship.ledger import Ledger

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LedgerPath = Annotated[Path, typer.Argument(metavar="LEDGER", help="Folder of the ledger.")]
Force = Annotated[
    bool, typer.Option("--force", help="Accept patches that probably break the model or are in the ledger already.")
]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Store patches with their history in a folder (a ledger); remove, check and export edits.",
    epilog="""Examples:

- `kg-edit patch add ledger/ out/patch.safetensors`
- `kg-edit patch remove ledger/ lebron --model smollm2-135m`
- `kg-edit patch check ledger/ --model smollm2-135m`
- `kg-edit patch export ledger/ --to peft adapter/`
""",
)


@app.command("list")
def list_edits(ledger: LedgerPath, as_json: AsJson = False) -> None:
    """List the edits of a ledger, and the conflicts between them.

    Examples:

    - `kg-edit patch list ledger/`
    """
    from kg_edit.ship.ledger.listing import read_listing
    from kg_edit.ship.ledger.view import edits_table, entry_json

    opened = read_listing(ledger)
    conflicts = opened.conflicts()
    if as_json:
        edits = [entry_json(entry) for entry in opened.edits]
        failed = [entry.name for entry in opened.failed]
        print_json({"edits": edits, "failed": failed, "conflicts": [str(conflict) for conflict in conflicts]})
        return
    if opened.edits:
        stdout().print(edits_table(opened, conflicts))
    if not opened.active:
        say(f"{ledger}: no active edit; kg-edit patch add {quote(str(ledger))} PATCH adds one")
    if opened.failed:
        say(f"failed when they were made: {', '.join(entry.name for entry in opened.failed)}")
    show_conflicts(conflicts)


@app.command()
def show(
    ledger: LedgerPath,
    edit: Annotated[str | None, typer.Argument(show_default="all events", help="Name or subject of an edit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where an edit came from and how it was made, or all events of a ledger.

    Examples:

    - `kg-edit patch show ledger/`
    - `kg-edit patch show ledger/ lebron`
    """
    if edit is None:
        _show_events(ledger, as_json=as_json)
    else:
        _show_edit(ledger, edit, as_json=as_json)


def _show_events(ledger: Path, *, as_json: bool) -> None:
    """Print all events of a ledger, and the conflicts between its edits."""
    from kg_edit.ship.ledger.listing import read_listing
    from kg_edit.ship.ledger.view import event_json, events_table, rebase_in_words

    listing = read_listing(ledger)
    if as_json:
        print_json({"events": [event_json(listing, event) for event in listing.events]})
        return
    conflicts = listing.conflicts()
    if origin := rebase_in_words(listing.folder):
        say(origin)
    stdout().print(events_table(listing))
    show_conflicts(conflicts)


def _show_edit(ledger: Path, name: str, *, as_json: bool) -> None:
    """Print the edits of a name or subject in full, and their conflicts."""
    from kg_edit.patches.entries import find_positions
    from kg_edit.ship.ledger.listing import read_listing
    from kg_edit.ship.ledger.view import entry_json, entry_lines

    listing = read_listing(ledger)
    conflicts = listing.conflicts()
    chosen = find_positions([name], listing.edits)
    if as_json:
        entries = [entry for entry in listing.edits if entry.position in chosen]
        print_json({"edits": [{**entry_json(entry), "record": dict(entry.record)} for entry in entries]})
        return
    for entry in listing.edits:
        if entry.position in chosen:
            for title, value in entry_lines(listing, entry):
                stdout().print(f"[bold]{plain(title)}[/bold]: {plain(value)}", soft_wrap=True)
    show_conflicts([pair for pair in conflicts if pair.first.position in chosen or pair.second.position in chosen])


@app.command()
def add(
    context: typer.Context,
    ledger: LedgerPath,
    patches: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATCHES...",
            help="Patch files for the unedited model, output folders of `kg-edit edit`, or ledgers.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Also compare the changes with this model's weights.")
    ] = None,
    force: Force = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Add patches, or all patches of other ledgers, to a ledger.

    A missing ledger is created. All patches are checked first: if one is refused, none is added.

    Examples:

    - `kg-edit patch add ledger/ monday/patch.safetensors tuesday/patch.safetensors`
    """
    from kg_edit.ship.ledger.additions import list_additions
    from kg_edit.ship.ledger.listing import check_patches
    from kg_edit.ship.ledger.log import open_store

    if model is None:
        refuse_unused(context, ("dtype", "device"), "without --model", way="also give --model")
    # Wrong paths are errors at once, before `Ledger` imports torch.
    store = open_store(ledger)
    check_patches(patches)
    if not store.exists:
        near = store.nearest()
        if near:
            typer.echo(f"{ledger} is a new ledger, beside {near}", err=True)
    opened = _open(ledger, create=True)
    to_add = list_additions(patches)
    language_model = load_model(model, dtype, device) if model else None
    numbers = opened.add_all(to_add, force=force, model=language_model)
    _show_added(opened, numbers)
    for number, addition in zip(numbers, to_add, strict=True):
        _say_failed(ledger, number, addition.path, model=model or "MODEL")


def _say_failed(ledger: Path, number: int, patch: Path, *, model: str) -> None:
    """Print which edits of step ``number`` had failed when ``patch`` was made, and the command that removes them."""
    from kg_edit.reports.verdict import Verdict
    from kg_edit.ship.ledger.additions import find_failed

    failed = find_failed(patch)
    verdict = Verdict.beside(patch)
    if not verdict or not failed:
        return
    names = " ".join(quote(f"{number}/{name}") for name in failed)
    way = f"kg-edit patch remove {quote(str(ledger))} {names} --model {quote(model)}{verdict.graph_options}"
    say(f"failed when they were made ({patch.parent}): {', '.join(failed)}; without them: {way}")


@app.command()
def edit(
    ledger: LedgerPath,
    edits: EditsFile,
    graph: Graph = None,
    model: ModelName = "smollm2-135m",
    method: ChosenMethod = None,
    layer: Layer = None,
    preset: EditPreset = None,
    settings: Settings = None,
    templates: Templates = None,
    keep_going: KeepGoing = False,
    require_graph: RequireGraph = False,
    chat: AsChat = None,
    both_forms: BothForms = False,
    force: Force = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Make the edits of a file on the model as edited by a ledger, and add them to the ledger.

    The prompts of the new edits are asked, and edits whose target the model does not generate are named, as by
    `kg-edit edit`. The edits that the ledger had are asked again, and those that held before and no longer do are
    named.

    Examples:

    - `kg-edit patch edit ledger/ edits.jsonl --method rome --model smollm2-135m`
    """
    from kg_edit.edits.edit import without_repeats
    from kg_edit.edits.files import check_file, in_form, read_edits
    from kg_edit.edits.templates import RelationTemplates
    from kg_edit.ship.ledger.log import open_store

    # Everything that can be wrong without a model is checked first
    method_option = method
    method = choose_method(method, graph)
    check_method(method)
    check_model_name(model)
    open_store(ledger)
    check_file(edits)
    source = LazyGraph(method, graph, contact)
    file = read_edits(edits, labels=source, templates=RelationTemplates.load(templates), keep_going=keep_going)
    source.refuse_unread()
    opened = _open(ledger, create=True)
    requested, repeats = without_repeats(in_form(file.edits, chat, both=both_forms))
    method_plan = plan_method(
        method, preset=preset, layer=layer, settings=settings, graph=source.open(), require_graph=require_graph
    )
    usable = method_plan.select_usable(requested, file=edits, graph_names=graph, keep_going=keep_going)
    note_choice(method_option, graph)

    editor = method_plan.on(load_model(model, dtype, device))
    earlier = opened.active
    before = opened.patch
    number = opened.make(editor, usable, force=force)
    _show_added(opened, [number])
    _say_made(opened, number, editor.model)
    _say_lost(opened, earlier, before, editor.model)
    for repeat, first in repeats:
        say(f"{repeat} repeats {first} exactly, and was made once")
    say(f"their other prompts: kg-edit patch check {quote(str(ledger))} --model {quote(model)}")
    warn_of_edits_without_facts(editor)
    for problem in file.problems:
        typer.echo(f"skipped: {problem}", err=True)


@app.command()
def remove(
    context: typer.Context,
    ledger: LedgerPath,
    names: Annotated[
        list[str], typer.Argument(metavar="EDITS...", help="Names or subjects of edits; `3/*` means all of step 3.")
    ],
    graph: Graph = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The unedited model; needed if other edits have to be recomputed.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Remove edits: the result is the same as if they had never been made.

    Edits that were computed on a model with the removed ones are recomputed from their records; this needs `--model`.
    With `--model` the edits that are left are asked again, and those that held before and no longer do are named.

    Examples:

    - `kg-edit patch remove ledger/ lebron france --model smollm2-135m`
    - `kg-edit patch remove ledger/ "LeBron James" --model smollm2-135m`
    """
    if model is None:
        unused = ("graph", "dtype", "device", "contact")
        refuse_unused(context, unused, "without --model", way="also give --model")
    opened = _open(ledger)
    source = open_graph(graph, contact)
    language_model = load_model(model, dtype, device) if model else None
    before = opened.patch
    removed = opened.remove(names, model=language_model, graph=source)
    remaining = number_of(len(opened.active), "edit")
    listed = ", ".join(entry.name for entry in removed)
    say(f"removed {listed}; {remaining} left. To undo this: kg-edit patch undo {quote(str(ledger))}")
    if language_model is not None:
        _say_lost(opened, opened.active, before, language_model)


@app.command()
def undo(ledger: LedgerPath) -> None:
    """Undo the last addition or removal; the same command again undoes the one before.

    Examples:

    - `kg-edit patch undo ledger/`
    """
    from kg_edit.ship.ledger.listing import Listing
    from kg_edit.ship.ledger.log import open_store, undo_last
    from kg_edit.ship.ledger.view import in_words, names_of

    names = names_of(Listing.open(ledger))
    event = undo_last(open_store(ledger, create=False))
    left = number_of(len(Listing.open(ledger).active), "edit")
    say(f"undid event {event.number}: {in_words(event, names)}; {left} left")


def _open(ledger: Path, *, create: bool = False) -> Ledger:
    """Open a ledger; without ``create`` it must exist. A wrong path is an error before `Ledger` imports torch."""
    from kg_edit.ship.ledger.log import open_store

    open_store(ledger, create=create)
    from kg_edit.ship.ledger import Ledger

    return Ledger.open(ledger, create=create)


def _show_added(ledger: Ledger, numbers: Sequence[int]) -> None:
    """Print new steps, each with its conflicts with earlier steps or within itself."""
    edits = ledger.edits
    conflicts = ledger.conflicts()  # compares all pairs of edits, so it is called once, not for each step
    for number in numbers:
        new = [entry for entry in edits if entry.position.step == number]
        methods = ", ".join(sorted({entry.method for entry in new}))
        say(f"{ledger.folder}: step {number}, {number_of(len(new), 'edit')} of {methods}")
        show_conflicts([conflict for conflict in conflicts if conflict.second.position.step == number])


def _say_made(ledger: Ledger, number: int, model: LanguageModel) -> None:
    """Print after how many edits of step ``number`` the model generates the target, and what it generates instead."""
    from kg_edit.reports.advice import NAMED
    from kg_edit.ship.ledger.check import check as check_entries

    new = [entry for entry in ledger.active if entry.position.step == number]
    with ledger.patch.applied(model) as edited:
        checked = check_entries(edited, new, ("rewrite",), progress=True)
    cases = []
    for edit in checked:
        wrong = [answer for answer in edit.answers if not answer.success]
        if wrong:
            text = f"{wrong[0].prompt!r}: target {wrong[0].target!r}, generated {wrong[0].text!r}"
            cases.append(f"{edit.entry.name} ({text})")
    verdict = f"{len(checked) - len(cases)} of {len(checked)} edits succeeded"
    if cases:
        verdict += f"; {len(cases)} failed: {'; '.join(cases[:NAMED])}"
    if len(cases) > NAMED:
        verdict += f"; and {len(cases) - NAMED} more"
    say(verdict)


def _say_lost(ledger: Ledger, entries: Sequence[Entry], before: Patch, model: LanguageModel) -> None:
    """Print which of the edits held with the ledger's patch ``before`` the change, and fail now."""
    from kg_edit.ship.ledger.check import MOST_COMPARED, find_lost

    if not entries:
        return
    cases = []
    for edit in find_lost(model, entries, before=before, after=ledger.patch, progress=True):
        answer = edit.failures()[0]
        cases.append(f"{edit.entry.name} ({answer.prompt!r}: target {answer.target!r}, now generated {answer.text!r})")
    if cases:
        say(f"lost by this change: {'; '.join(cases)}")
    if len(entries) > MOST_COMPARED:
        say(f"only the last {MOST_COMPARED} edits were asked; kg-edit patch check asks all")


for _command in (check, merge, export, push, pull, rebase, extract, subtract, average):
    app.command()(_command)
