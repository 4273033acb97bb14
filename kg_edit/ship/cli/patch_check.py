"""`kg-edit patch check`: ask the prompts of all edits again, on a model in memory or on a server."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os import environ
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import print_json, say, stdout
from kg_edit.cli.generate import model_for
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import Device, Dtype, refuse_unused
from kg_edit.errors import ConfigError, unknown_name
from kg_edit.models.loading import without_a_copy
from kg_edit.reports.rows import ProbeKind
from kg_edit.ship.cli.conflicts import show_conflicts
from kg_edit.ship.cli.patch_shipping import Edits, Unedited
from kg_edit.ship.ledger.check import KINDS, CheckedEdit, CheckedPrompt, CompletionServer, check_served
from kg_edit.ship.ledger.check import check as check_entries
from kg_edit.ship.live.servers import KEY

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.conflicts import Conflict
    from kg_edit.patches.entries import Entry

_NAMED = 5  # edits that a message names, at most
_FAILED = "failed.jsonl"

log = logging.getLogger(__name__)


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
    failed_to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the edits that fail to this file (`.jsonl`), for another try."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as JSON.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Ask the edited model the prompts of all edits again.

    An edit succeeds if the whole new target is more likely than the old one after its prompt; where the old one is not
    known, and with `--server`, if the model generates the new one (greedy decoding). If two edits set different targets
    for one fact, the earlier one does not succeed: it is superseded. The exit code is 1 if an edit fails or is
    superseded. If the server needs an API key, set the environment variable `KG_EDIT_SERVER_KEY`.

    Examples:

    - `kg-edit patch check ledger/ --model smollm2-135m`
    - `kg-edit patch check ledger/ --merged model-Q4_K_M.gguf`
    - `kg-edit patch check ledger/ --server http://localhost:8080`
    - `kg-edit patch check ledger/ --failed-to failed.jsonl`
    """
    from kg_edit.edits.files import check_writable_name
    from kg_edit.patches.conflicts import find_contradictions
    from kg_edit.ship.ledger.listing import active_at, check_patches

    kinds = _parse_kinds(strict or ())
    _refuse_options_without_use(context, server=server, merged=merged)
    if failed_to:
        check_writable_name(failed_to)
    check_patches([ledger])
    client = None
    if server:
        client = CompletionServer(url=server, model=served, key=environ.get(KEY), seconds=timeout)
    patch, entries = active_at(ledger)
    if not entries:
        say(f"{ledger} has no edits, so there is nothing to check")
        return

    if client:
        checked = tuple(check_served(client, entries, kinds, chat=chat))
    elif merged:
        _compare_edits(merged, entries)
        checked = check_entries(_load_merged(merged, dtype, device), entries, chat=chat, progress=True)
    else:
        with patch.applied(load_model(model_for(patch, model), dtype, device)) as edited:
            checked = check_entries(edited, entries, chat=chat, progress=True)

    rivals = find_contradictions(entries)
    failed = [edit for edit in checked if edit.failures(kinds)]
    if failed_to:
        _write_failed(failed_to, failed)
    if as_json:
        from kg_edit.ship.ledger.view import checked_json

        edits = [checked_json(edit, kinds) for edit in checked]
        print_json({"edits": edits, "contradictions": [str(rival) for rival in rivals]})
    else:
        _show(checked, kinds, rivals, url=server)
        _say_another_method(ledger, [edit for edit in checked if edit.failures()], file=failed_to)
    if rivals or failed:
        raise typer.Exit(1)


def _load_merged(merged: str, dtype: Dtype, device: Device) -> LanguageModel:
    """Load a model that has the edits in its weights; a GGUF file leaves no dequantised copy in the cache."""
    with without_a_copy(merged) as path:
        loaded = load_model(path, dtype, device)
    return replace(loaded, name=merged)  # instead of the temporary folder's name


def _refuse_options_without_use(context: typer.Context, *, server: str | None, merged: str | None) -> None:
    if server:
        unused = ("model", "merged", "dtype", "device")
        refuse_unused(context, unused, "with --server, which checks the model of the server")
    else:
        refuse_unused(context, ("served", "timeout"), "without --server", way="also give --server URL")
    if merged:
        refuse_unused(context, ("model",), "with --merged, which is the model to check", way="leave out --merged")


def _parse_kinds(strict: Sequence[str]) -> tuple[ProbeKind, ...]:
    """Return the kinds of prompts that an edit has to get right: its own prompts, and those of --strict."""
    for name in strict:
        if name not in (*KINDS, "all"):
            raise unknown_name("kind of prompts", name, (*KINDS, "all"))
    if "all" in strict:
        return KINDS
    return tuple(kind for kind in KINDS if kind == "rewrite" or kind in strict)


def _write_failed(file: Path, failed: Sequence[CheckedEdit]) -> None:
    """Write the edits that fail, as `kg-edit edit` reads them; without any, the file is empty."""
    from kg_edit.edits.files import write_edits

    ids = Counter(edit.entry.edit.id for edit in failed)
    edits = []
    for checked in failed:
        edit = checked.entry.edit
        if ids[edit.id] > 1:  # two steps of the ledger have an edit of this id, and a file may not
            edit = edit.model_copy(update={"id": checked.entry.name})
        edits.append(edit)
    write_edits(file, edits)
    typer.echo(f"{file}: {number_of(len(edits), 'edit')} that failed", err=True)


def _say_another_method(ledger: Path, failed: Sequence[CheckedEdit], *, file: Path | None) -> None:
    """Print the commands that make the failed edits of a ledger by another method, from ``file`` if they are in one.

    As `kg_edit.reports.advice` says, `grace` makes them on top of the failed ones. Edits that failed by `grace` are
    removed, and made by `ike`.
    """
    from kg_edit.ship.ledger.listing import patch_file

    if not failed or patch_file(ledger) is not None:  # a patch file has no edits to remove
        return
    folder = quote(str(ledger))
    written = quote(str(file or _FAILED))
    commands = []
    if file is None:
        commands.append(f"kg-edit patch check {folder} --failed-to {written}")
    method = "grace"
    if any(edit.entry.method == "grace" for edit in failed):
        method = "ike"
        names = " ".join(quote(edit.entry.name) for edit in failed)
        commands.append(f"kg-edit patch remove {folder} {names}")
    commands.append(f"kg-edit patch edit {folder} {written} --method {method}")
    say(f"to make failed edits by another method, on top of the others: {'; '.join(commands)}")


def _compare_edits(merged: str, entries: Sequence[Entry]) -> None:
    """Compare the edits to check with those that a merged model has, if its folder lists them."""
    from kg_edit.patches.provenance import read_merged_provenance

    merged_edits = [record.get("edit") for record in read_merged_provenance(merged).get("edits", ())]
    missing = [entry.name for entry in entries if entry.record["edit"] not in merged_edits]
    if not merged_edits or not missing:
        return
    if len(missing) == len(entries):
        names = ", ".join(str(edit.get("id")) for edit in merged_edits[:_NAMED] if isinstance(edit, dict))
        if len(merged_edits) > _NAMED:
            names += f" and {len(merged_edits) - _NAMED} more"
        raise ConfigError(f"{merged} was made from other edits ({names}); give the ledger or patch of these")
    log.warning("%s was made without %s, so these can't succeed", merged, ", ".join(missing[:_NAMED]))


def _show(
    checked: Sequence[CheckedEdit], kinds: Sequence[ProbeKind], rivals: Sequence[Conflict], *, url: str | None
) -> None:
    """Print what the model, or that of the server at ``url``, generates; ``rivals`` are the contradictions."""
    from kg_edit.ship.ledger.view import check_table

    stdout().print(check_table(checked))
    _say_failures(checked, kinds)
    if not url or "locality" in kinds:
        _say_not_asked(checked)
    if url and len(kinds) < len(KINDS):
        stdout().print(f"asked: only prompts of the kind {', '.join(kinds)}; --strict all asks the others too")
    if not url:
        _say_paraphrases(checked)
    show_conflicts(rivals)

    superseded = {rival.first.position: rival for rival in rivals}  # by the last edit of the same fact
    good = [edit for edit in checked if not edit.failures(kinds) and edit.entry.position not in superseded]
    verdict = f"{len(good)} of {len(checked)} edits succeed"
    if url:
        verdict = f"{url}: {verdict}{_note_line_breaks(checked)}"
    else:
        verdict += f" (the target is {_describe_success(checked)}){_describe_generated(checked, good)}"
    if rivals:
        cases = [f"{rival.first.name} by {rival.second.name}" for rival in superseded.values()]
        named = ", ".join(cases[:_NAMED])
        if len(cases) > _NAMED:
            named += f" and {len(cases) - _NAMED} more"
        verdict += f"; {len(cases)} superseded ({named}); {number_of(len(rivals), 'contradiction')}"
    say(verdict)


def _say_failures(checked: Sequence[CheckedEdit], kinds: Sequence[ProbeKind]) -> None:
    """Print each wrong answer to a prompt of these kinds."""
    for edit in checked:
        for answer in edit.failures(kinds):
            text = f"{answer.prompt!r}: target {answer.target!r}, generated {answer.text!r}"
            say(f"{edit.entry.name}, {answer.kind}: {text}")


def _say_not_asked(checked: Sequence[CheckedEdit]) -> None:
    """Print how many locality prompts were not asked because they have no answer."""
    not_asked = 0
    for edit in checked:
        for prompt in edit.entry.edit.locality:
            if not prompt.names:
                not_asked += 1
    if not_asked:
        way = "`kg-edit diff --patch` compares the unedited and the edited model on a file of them"
        say(f"locality prompts without an answer, not asked: {not_asked}; {way}")


def _say_paraphrases(checked: Sequence[CheckedEdit]) -> None:
    """Print after how many paraphrases the target is the more likely one, and after how many it is generated."""
    paraphrases = list[CheckedPrompt]()
    for edit in checked:
        paraphrases += edit.of("paraphrase")
    if not paraphrases:
        return
    right = sum(answer.right for answer in paraphrases)
    text = f"after {right} of {len(paraphrases)} paraphrases the target is {_describe_success(checked)}"
    if any(_has_old_target(edit) for edit in checked):
        generated = sum(answer.success for answer in paraphrases)
        text += f"; it is generated after {generated}"
    say(text)


def _has_old_target(edit: CheckedEdit) -> bool:
    """Return whether the new target is compared with an old one; otherwise it has to be generated."""
    return edit.entry.edit.target_true is not None


def _describe_success(checked: Sequence[CheckedEdit]) -> str:
    """Return what the target of an edit in a model in memory has to be."""
    compared = [_has_old_target(edit) for edit in checked]
    if all(compared):
        return "more likely than the old one"
    if any(compared):
        return "more likely than the old one, or generated where there is none"
    return "generated"


def _note_line_breaks(checked: Sequence[CheckedEdit]) -> str:
    """Return how many edits the server was asked about after a line break, "" if none."""
    edits = 0
    for edit in checked:
        if any(answer.after_line_break for answer in edit.answers):
            edits += 1
    if not edits:
        return ""
    return f"; {edits} of them asked after a line break, because their prompts begin with the subject"


def _describe_generated(checked: Sequence[CheckedEdit], good: Sequence[CheckedEdit]) -> str:
    """Return in how many of the ``good`` edits the target is also generated; "" if that is what succeeding means."""
    if not any(_has_old_target(edit) for edit in checked):
        return ""
    generated = 0
    for edit in good:
        if all(answer.success for answer in edit.of("rewrite")):
            generated += 1
    return f"; it is generated in {generated} of them"
