"""Show a ledger in the terminal: tables of its edits, its events and the results of a check, and one edit in full."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kg_edit.errors import DamagedLedgerError
from kg_edit.patches.changes import edit_norms
from kg_edit.patches.conflicts import Conflict
from kg_edit.patches.entries import EditPosition, Entry
from kg_edit.patches.guards import division_factor
from kg_edit.reports.rows import ProbeKind
from kg_edit.ship.ledger.check import CheckedEdit, CheckedPrompt
from kg_edit.ship.ledger.listing import Listing
from kg_edit.ship.ledger.log import BEFORE, REBASED, Added, Event, Removed
from kg_edit.text.display import one_line

_HEADS: dict[ProbeKind, str] = {
    "rewrite": "fact",
    "paraphrase": "paraphrases",
    "portability": "portability",
    "locality": "locality",
}
_COUNTED: tuple[ProbeKind, ...] = ("paraphrase", "portability", "locality")  # an edit may have several of each
_SHOWN = ("loss_before", "loss_after", "steps")  # of an edit's record
_LONGEST = 200  # characters of a setting's value that are shown


def edits_table(ledger: Listing, conflicts: Sequence[Conflict]) -> Table:
    """Return the table of edits: name, state, step, method, fact, norm of the change, and conflicts."""
    table = _make_table("edit", "state", "step", "method", "fact", "norm", "in conflict with")
    norms = dict[EditPosition, float | None]()
    for step, change in ledger.changes.items():
        for record, norm in zip(change.edits, edit_norms(change), strict=True):
            norms[EditPosition(step, record["edit"]["id"])] = norm
    for entry in ledger.edits:
        norm = norms.get(entry.position)
        others = [conflict.other(entry) for conflict in conflicts]
        rivals = ", ".join(other.name for other in others if other)
        size = "" if norm is None else f"{norm:.3g}"
        _make_row(table, entry.name, entry.state, entry.position.step, entry.method, fact(entry), size, rivals)
    return table


def events_table(ledger: Listing) -> Table:
    """Return the table of events: number, time, and what was added, removed or undone."""
    table = _make_table("event", "when (UTC)", "what")
    names = names_of(ledger)
    for event in ledger.events:
        _make_row(table, event.number, event.time, in_words(event, names))
    return table


def rebase_in_words(folder: Path) -> str | None:
    """Return from which model a ledger was rebased, and what the new one knew already; None if it was not."""
    try:
        notes = json.loads((folder / REBASED).read_text(encoding="utf-8"))
        known = ", ".join(notes["known"]) or "none"
        return (
            f"rebased from {notes['from']['name']} to {notes['to']['name']} ({folder / BEFORE}); known there: {known}"
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedLedgerError(f"can't read {folder / REBASED}: {error}; restore it from a backup") from error


def names_of(ledger: Listing) -> dict[EditPosition, str]:
    """Return the names of a ledger's edits; an edit whose addition was undone has none."""
    return {entry.position: entry.name for entry in ledger.edits}


def in_words(event: Event, names: Mapping[EditPosition, str]) -> str:
    """Return what happened in an event: what was added, removed or undone; `names_of` returns the ``names``."""
    if isinstance(event, Removed):
        positions = [EditPosition(*position) for position in event.edits]
        shown = [names.get(position, f"{position.step}/{position.id}") for position in positions]
        return f"removed {', '.join(shown)}"
    if not isinstance(event, Added):
        return f"undid event {event.undoes}"
    source = f" from {event.source}" if event.source else ""
    after = ""
    if event.after:
        after = f", computed after {', '.join(map(str, event.after))}"
    return f"added step {event.number}{source}{after}: {event.file.name}"


def entry_lines(ledger: Listing, entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield (name, value) lines about one edit: the fact, the method, the descent, the origin, and the settings."""
    yield from _list_fact_lines(entry)
    yield from _list_method_lines(entry)
    yield from _list_origin_lines(ledger, entry)
    changes = ledger.changes
    if entry.position.step in changes:
        yield from _list_provenance_lines(changes[entry.position.step].provenance)


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _list_fact_lines(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield the edit's name and fact, and its further fields."""
    yield "edit", f"{entry.name} ({entry.state})"
    yield "fact", fact(entry)
    for name, value in entry.edit.model_dump(mode="json", exclude_defaults=True).items():
        if name not in ("id", "subject", "prompt", "target_new"):
            yield name.replace("_", " "), _as_text(value)


def _list_method_lines(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield the method, and what it recorded of the descent and of the size of the change."""
    record = entry.record
    yield "method", entry.method
    for name in _SHOWN:
        if name in record:
            yield name.replace("_", " "), str(record[name])
    for name, value in record.get("norms", {}).items():
        size = f"{value:.4g}" if isinstance(value, float) else str(value)
        yield f"norm of the {name}", size
    factor = division_factor(record)
    if factor:
        yield "division factor", f"{factor:.4g}"


def _list_origin_lines(ledger: Listing, entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield the event that added the edit, the removal that recomputed it, and the model on which it was computed."""
    added = ledger.events[entry.position.step - 1]
    assert isinstance(added, Added)  # noqa: S101 - events are numbered 1, 2, 3 …, and a step has its event's number
    origin = f", from {added.source}" if added.source else ""
    yield "added", f"{added.time} as step {added.number}{origin}"
    removal = ledger.recomputed.get(entry.position)
    after = list(added.after)
    if removal:
        yield "recomputed", f"by event {removal.number}, {removal.time}"
        active_steps = {step.number for step in ledger.steps}
        after = [step for step in after if step in active_steps]
    computed = "on the unedited model"
    if after:
        computed = f"after steps {', '.join(map(str, after))}"
    yield "computed", computed


def _list_provenance_lines(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the model, the versions and the settings of the whole patch."""
    model = provenance.get("model", {})
    yield "model", f"{model.get('name')} ({model.get('fingerprint')})"
    yield "versions", ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    for method in provenance.get("methods", ()):
        for name, value in _list_settings(method).items():
            text = _as_text(value)
            if len(text) > _LONGEST:
                text = f"{text[: _LONGEST - 3]}..."
            yield f"{method['name']}: {name}", text


def _list_settings(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a method; what was chosen or measured for a setting takes its place."""
    settings = {name: value for name, value in method.get("config", {}).items() if value is not None}
    for name, value in method.items():
        if name in ("name", "config"):
            continue
        configured = settings.get(name)
        if isinstance(configured, dict) and isinstance(value, dict):
            settings[name] = {**configured, **value}
        else:
            settings[name] = value
    return settings


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return an edit as JSON: its name, state, step and method, and the fields of the edit that are set."""
    return {
        "name": entry.name,
        "state": entry.state,
        "step": entry.position.step,
        "method": entry.method,
        "edit": entry.edit.model_dump(mode="json", exclude_defaults=True),
    }


def event_json(ledger: Listing, event: Event) -> dict[str, Any]:
    """Return an event as JSON: its number, its time, and what happened in words."""
    return {"number": event.number, "time": event.time, "what": in_words(event, names_of(ledger))}


def checked_json(checked: CheckedEdit, kinds: Sequence[ProbeKind]) -> dict[str, Any]:
    """Return the answers to an edit's prompts as JSON, and whether those of these ``kinds`` are right."""
    answers = [asdict(answer) for answer in checked.answers]
    return {"name": checked.entry.name, "succeeds": not checked.failures(kinds), "answers": answers}


def check_table(checked: Sequence[CheckedEdit]) -> Table:
    """Return a row for each edit: how many of its prompts of each kind are right, and what the model generates.

    A check mark means that the target is generated, a tilde that it is only more probable than the other one.
    """
    heads = ["edit", *_HEADS.values(), "target → generated"]
    if any(_has_nats(result) for result in checked):
        heads.append("nats")
    table = _make_table(*heads)
    for result in checked:
        rewrite = min(result.of("rewrite"), key=_rank_of)  # the worst, if the edit is asked in two forms
        cells: list[object] = [result.entry.name, _sign(rewrite)]
        for kind in _COUNTED:
            answers = result.of(kind)
            right = sum(answer.right for answer in answers)
            share = f"{right}/{len(answers)}" if answers else ""
            cells.append(share)
        cells.append(f"{result.entry.edit.target_new} → {rewrite.text}")
        if rewrite.nats is not None:
            cells.append(f"{rewrite.nats:.1f}")
        _make_row(table, *cells)
    return table


def _rank_of(answer: CheckedPrompt) -> tuple[bool, bool]:
    return answer.right, answer.success


def _has_nats(result: CheckedEdit) -> bool:
    return any(answer.nats is not None for answer in result.answers)


def _sign(rewrite: CheckedPrompt) -> Text:
    if not rewrite.right:
        return Text("✗", style="red")
    if rewrite.success:
        return Text("✓", style="green")
    return Text("~", style="yellow")


def fact(entry: Entry) -> str:
    """Return an edit as one line: ``prompt → target``."""
    return f"{entry.edit.text} → {entry.edit.target_new}"


def _make_table(*heads: str) -> Table:
    """Return an empty table with these column heads; words of usual length fit into 80 columns."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _make_row(table: Table, *cells: object) -> None:
    texts = []
    for cell in cells:
        if isinstance(cell, Text):
            text = cell
        else:
            text = Text(one_line(str(cell)))
        texts.append(text)
    table.add_row(*texts)
