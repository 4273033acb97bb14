"""`kg-edit patch check`: ask the prompts of all edits again, on a model in memory or on a server."""

from __future__ import annotations

from collections.abc import Sequence
from os import environ
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import show_conflicts, stdout
from kg_edit.cli.method_plan import load
from kg_edit.cli.options import Device, Dtype
from kg_edit.cli.patch_shipping import Edits, Unedited, model_for
from kg_edit.cli.unused import refuse_unused
from kg_edit.errors import unknown_name
from kg_edit.ledger.served import KEY, KINDS, CompletionServer, Kind
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.ledger.check import Checked
    from kg_edit.ledger.entries import Entry
    from kg_edit.ledger.served import ServedEdit


def check(
    context: typer.Context,
    ledger: Edits,
    model: Unedited = None,
    merged: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Check this model, which has the patch in its weights (`.gguf` too)."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Check an OpenAI-compatible server, such as llama-server.")
    ] = None,
    served: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model, if the server has several.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time to wait for an answer of the server.")
    ] = 60.0,
    strict: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Also fail for these prompts: `paraphrase`, `portability`, `locality` or `all`. Repeatable.",
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--plain",
            show_default="as the edits were made",
            help="Ask all prompts as chat user turns, or none.",
        ),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Ask the edited model the prompts of all edits again.

    An edit holds if the whole new target is more likely than the old one after its prompt; where the old one is not
    known, and with `--server`, if the model generates the new one (greedy decoding). The exit code is 1 if an edit does
    not hold, or if two edits set different targets for one fact. If the server needs an API key, set the environment
    variable `KG_EDIT_SERVER_KEY`.

    Examples:

    - `kg-edit patch check ledger/ --model smollm2-135m`
    - `kg-edit patch check ledger/ --merged model-Q4_K_M.gguf`
    - `kg-edit patch check ledger/ --server http://localhost:8080`
    """
    from kg_edit.ledger.paths import check_patches, standing_at, standing_entries

    for name in strict or ():
        if name not in (*KINDS, "all"):
            raise unknown_name("kind of prompts", name, (*KINDS, "all"))
    kinds = tuple(kind for kind in KINDS if kind == "rewrite" or kind in (strict or ()) or "all" in (strict or ()))
    if server:
        unused = ("model", "merged", "dtype", "device")
        refuse_unused(context, unused, "with --server, which checks the model of the server")
    else:
        refuse_unused(context, ("served", "timeout"), "without --server", way="also give --server URL")
    if merged:
        refuse_unused(context, ("model",), "with --merged, which is the model to check", way="leave out --merged")
    check_patches([ledger])

    if server:
        asked = CompletionServer(url=server, model=served, key=environ.get(KEY), seconds=timeout)
        entries = standing_entries(ledger)  # without torch
        failed = bool(entries) and _served_failed(asked, entries, kinds, chat=chat)
    else:
        patch, entries = standing_at(ledger)
        if entries:
            from kg_edit.ledger.check import check as check_entries

            if merged:
                checked = check_entries(load(merged, dtype, device), entries, chat=chat, progress=True)
            else:
                with patch.applied(load(model_for(patch, model), dtype, device)) as edited:
                    checked = check_entries(edited, entries, chat=chat, progress=True)
        failed = bool(entries) and _failed(checked, kinds)
    if not entries:
        stdout().print(plain(f"{ledger} has no edits, so there is nothing to check"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _failed(checked: Sequence[Checked], kinds: Sequence[Kind]) -> bool:
    """Print what the model generates; return whether a prompt of these kinds is wrong, or edits contradict."""
    from kg_edit.ledger.view import check_table

    stdout().print(check_table(checked))
    for found in checked:
        for probe, reading in found.failures(kinds):
            _print_failure(found.entry, probe.kind, probe.prompt, probe.wanted, reading.text)
    holding = [found for found in checked if not any(found.failures(kinds))]
    succeeded = sum(reading.success for found in holding for reading in found.of("rewrite"))
    verdict = f"{len(holding)} of {len(checked)} edits hold; the target is generated in {succeeded} of them"
    contradictions = _print_contradictions([found.entry for found in checked])
    stdout().print(verdict + contradictions, soft_wrap=True)
    return len(holding) < len(checked) or bool(contradictions)


def _served_failed(
    server: CompletionServer, entries: Sequence[Entry], kinds: Sequence[Kind], *, chat: bool | None
) -> bool:
    """Print what a server generates; return whether an edit's prompt is wrong, or edits contradict."""
    from kg_edit.ledger.served import check_served
    from kg_edit.ledger.view import served_table

    checked: list[ServedEdit] = [*check_served(server, entries, kinds, chat=chat)]
    stdout().print(served_table(checked))
    for found in checked:
        for answer in found.answers:
            if not answer.right:
                _print_failure(found.entry, answer.kind, answer.prompt, answer.wanted, answer.text)
    holding = sum(found.holds for found in checked)
    led = sum(any(answer.led for answer in found.answers) for found in checked)
    verdict = f"{server.url}: {holding} of {len(checked)} edits hold"
    if led:
        verdict += f"; {led} of them asked after a line break, because their prompts begin with the subject"
    contradictions = _print_contradictions([found.entry for found in checked])
    stdout().print(plain(verdict + contradictions), soft_wrap=True)
    return holding < len(checked) or bool(contradictions)


def _print_failure(entry: Entry, kind: str, prompt: str, target: str, text: str) -> None:
    stdout().print(plain(f"{entry.name}, {kind}: {prompt!r}: target {target!r}, generated {text!r}"), soft_wrap=True)


def _print_contradictions(entries: Sequence[Entry]) -> str:
    """Print the pairs of edits that contradict; return their number as the end of a verdict, "" if there are none."""
    from kg_edit.ledger.conflicts import contradictions

    found = contradictions(entries)
    show_conflicts(found)
    return f"; {len(found)} contradiction{'s' * (len(found) > 1)}" if found else ""
