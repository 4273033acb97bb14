"""`kg-edit patch push` and `pull`: put a ledger's edits into a server that runs, and take them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from os import environ
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import say
from kg_edit.cli.generate import model_for
from kg_edit.cli.options import refuse_unused
from kg_edit.errors import PatchError
from kg_edit.models.loading import cache_folder
from kg_edit.ship.cli.patch_shipping import Edits, Force, Unedited, at_rank, refuse_known_faults, say_failed_answers
from kg_edit.ship.live.servers import KEY, KgEditServer, LlamaServer, VllmServer, find_server

if TYPE_CHECKING:
    from kg_edit.patches.base import Patch
    from kg_edit.patches.entries import Entry
    from kg_edit.ship.live.servers import LiveServer

Url = Annotated[str, typer.Option("--server", metavar="URL", help="Address of the server that runs.")]
Kind = Annotated[
    Literal["vllm", "sglang", "kg-edit", "llama.cpp"] | None,
    typer.Option("--kind", show_default="the server is asked", help="What the server is."),
]
Timeout = Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time to wait for an answer of the server.")]


def push(
    context: typer.Context,
    ledger: Edits,
    model: Unedited = None,
    *,
    server: Url,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="Name under which requests ask for the edits.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace the adapter that has this name.")] = False,
    rank: Annotated[
        int | None,
        typer.Option(min=1, show_default="all of it", help="Largest rank of a change, such as the server's limit."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", show_default="the cache", help="Folder for the adapter, which the server reads."
        ),
    ] = None,
    seen_at: Annotated[
        str | None,
        typer.Option("--seen-at", metavar="PATH", help="Path of --folder as the server sees it, as in a container."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Ask the server the edits' own prompts; take the edits out if one fails.")
    ] = False,
    kind: Kind = None,
    timeout: Timeout = 120.0,
    force: Force = False,
) -> None:
    """Put the edits into a running server: vLLM, SGLang, `kg-edit serve` or llama-server.

    `LEDGER@3` is the ledger as it was after its third event. The adapter is written into a folder that the server
    reads, and loaded under the name; requests choose it by their field `model`, and all others stay as they are. A
    server may limit the rank of adapters: `--rank` keeps the largest singular values, and prints what is lost. If
    anything fails, the server has afterwards what it had before. llama.cpp's server reads adapters only when it starts
    (`--lora-scaled NAME/adapter.gguf:0 --no-cache-prompt`); `push` applies the one of this name to all requests. If the
    server needs a key, set `KG_EDIT_SERVER_KEY`.

    Examples:

    - `kg-edit patch push ledger/ --server http://localhost:8000 --as edited --check`
    - `kg-edit patch push ledger/@3 --server http://localhost:8000 --as before --rank 16`
    """
    from kg_edit.ship.ledger.listing import active_at, check_patches
    from kg_edit.ship.live.push import check_name, push_adapter, switch_adapter

    check_name(name)
    check_patches([ledger])
    if folder is None:
        refuse_unused(context, ("seen_at",), "without --folder", way="also give --folder FOLDER")
    patch, entries = active_at(ledger)
    if patch.is_empty:
        raise PatchError("the patch changes nothing, so there is nothing to push; add edits first")
    refuse_known_faults(ledger, entries, check=check, force=force)
    if rank is not None:
        patch = at_rank(patch, rank)
    running = find_server(server, key=environ.get(KEY), seconds=timeout, kind=kind)

    def ask() -> None:
        """Ask the server that has the edits; after an error, what calls this takes them out again."""
        if check:
            _check_served(running, name, entries, force=force)

    if isinstance(running, LlamaServer):
        unused = ("model", "replace", "rank", "folder")
        refuse_unused(context, unused, "with llama.cpp's server, which reads adapters only when it starts")
        path = switch_adapter(running, name, patch=patch, ask=ask)
        say(f"{server}: all requests are answered with {name} ({path})")
    else:
        assert isinstance(running, VllmServer)  # noqa: S101 - the other servers have vLLM's routes
        write = _choose_writer(running, patch, entries, model)
        chosen_folder = folder or cache_folder() / "pushed"
        pushed = push_adapter(
            running, name, patch, write=write, folder=chosen_folder, seen_at=seen_at, replace=replace, ask=ask
        )
        instead = f", instead of {pushed.replaced}" if pushed.replaced else ""
        say(f"{server}: {name} has {number_of(len(entries), 'edit')}, from {pushed.path}{instead}")
    if not check:
        asked = f"{quote(str(ledger))} --server {quote(server)} --served {quote(name)}"
        say(f"whether they succeed there: kg-edit patch check {asked}")


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the edits in the server.")],
    *,
    server: Url,
    kind: Kind = None,
    timeout: Timeout = 120.0,
) -> None:
    """Take pushed edits out of a server while it runs.

    Examples:

    - `kg-edit patch pull edited --server http://localhost:8000`
    """
    from kg_edit.ship.live.push import OFF, pull_adapter, switch_adapter

    running = find_server(server, key=environ.get(KEY), seconds=timeout, kind=kind)
    if isinstance(running, LlamaServer):
        path = switch_adapter(running, name, scale=OFF)
        say(f"{server}: no request is answered with {name} ({path}), unless it asks for it")
        return
    assert isinstance(running, VllmServer)  # noqa: S101 - the other servers have vLLM's routes
    path = pull_adapter(running, name)
    say(f"{server}: {name} is taken out; its files are still in {path}")


def _choose_writer(
    server: LiveServer, patch: Patch, entries: Sequence[Entry], model: str | None
) -> Callable[[Path], object]:
    """Return the function that writes the patch into a new folder in the form that the server reads."""
    from kg_edit.ship.export.card import base_model
    from kg_edit.ship.export.peft_adapter import with_one_rank
    from kg_edit.ship.export.shipment import Shipment
    from kg_edit.ship.live.push import write_patch_folder

    if isinstance(server, KgEditServer):
        return partial(write_patch_folder, patch)
    with_one_rank(patch)  # refuses what an adapter can't have
    name = model_for(patch, model)
    edits = [entry.edit for entry in entries]
    return Shipment(patch=patch, edits=edits, model=name, base=base_model(name)).to_peft


def _check_served(running: LiveServer, name: str, entries: Sequence[Entry], *, force: bool) -> None:
    """Ask a server the edits' own prompts, and refuse edits whose target it does not generate."""
    from kg_edit.ship.export.fitness import refuse_unfit
    from kg_edit.ship.ledger.check import CompletionServer, check_served

    server = CompletionServer(url=running.url, model=name, key=running.key, seconds=running.seconds)
    checked = tuple(check_served(server, entries, ("rewrite",)))
    failed = say_failed_answers(checked)
    say(f"{len(checked) - len(failed)} of {len(checked)} edits succeed in {running.url}")
    if not force:
        refuse_unfit((), failed=failed)
