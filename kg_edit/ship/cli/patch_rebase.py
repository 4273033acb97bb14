"""`kg-edit patch rebase`: bring a ledger to another model, such as the next release of its own."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import say, stdout
from kg_edit.cli.method_plan import load_model, open_graph
from kg_edit.cli.options import Contact, Device, Dtype, Graph
from kg_edit.ship.cli.patch_shipping import check_outside_ledgers


def rebase(
    ledger: Annotated[Path, typer.Argument(metavar="LEDGER", help="Folder of the ledger; it stays as it is.")],
    *,
    model: Annotated[str, typer.Option("--model", help="The other model, unedited: name, hub id or folder.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder for the ledger of the other model.")],
    graph: Graph = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also make edits that would probably break the model.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Make the edits again for another model, such as the next release.

    The model is asked first. Edits whose targets it generates already are dropped; the others are computed again by
    their methods with their settings, and all prompts are asked. The new folder also has the old ledger with its
    history (`before/`). The same command continues after an interruption. The exit code is 1 if an edit fails on the
    other model.

    Examples:

    - `kg-edit patch rebase ledger/ --model next-release/ --out next-ledger/`
    """
    from kg_edit.ship.ledger.listing import read_listing

    source = read_listing(ledger)
    check_outside_ledgers(out)
    opened_graph = open_graph(graph, contact)
    from kg_edit.ship.ledger.log import BEFORE
    from kg_edit.ship.ledger.rebase import rebase as rebase_ledger
    from kg_edit.ship.ledger.view import check_table

    loaded = load_model(model, dtype, device)
    rebased = rebase_ledger(source, loaded, out, graph=opened_graph, force=force, progress=True)
    for fact in rebased.known:
        say(f"known already, and dropped: {fact.entry.name}: {fact.entry.edit.text!r} is answered {fact.text!r}")
    if rebased.checked:
        stdout().print(check_table(rebased.checked))
    failed = [edit.entry.name for edit in rebased.checked if edit.failures()]
    made = number_of(len(rebased.checked), "edit")
    say(
        f"{out}: {made} computed again on {model}, {len(rebased.known)} known already; the old ledger is {out / BEFORE}"
    )
    say(f"{len(rebased.checked) - len(failed)} of {made} succeed")
    if failed:
        names = " ".join(quote(name) for name in failed)
        say(f"to take out those that fail: kg-edit patch remove {quote(str(out))} {names} --model {quote(model)}")
        raise typer.Exit(1)
