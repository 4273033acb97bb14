"""What the commands of `kg-edit patch` share: options are checked, and what was found is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kg_edit.cli.console import stdout
from kg_edit.errors import unknown_name
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.ledger import Ledger
    from kg_edit.ledger.check import Checked
    from kg_edit.ledger.conflicts import Conflict
    from kg_edit.ledger.entries import Entry
    from kg_edit.ledger.served import ServedEdit
    from kg_edit.ledger.view import Listed
    from kg_edit.reports.before_after import Kind

_SHOWN = 20  # conflicts


def parse_kinds(names: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds of prompts that a check fails for: the edits' own, and those of ``--strict``.

    Raises:
        UnknownNameError: there is no such kind.
    """
    from kg_edit.ledger.served import KINDS

    for name in names:
        if name not in (*KINDS, "all"):
            raise unknown_name("kind of prompts", name, (*KINDS, "all"))
    return tuple(kind for kind in KINDS if kind == "rewrite" or kind in names or "all" in names)


def show_ledger(ledger: Listed) -> None:
    """The table of edits, and the conflicts in words."""
    from kg_edit.ledger.view import edits_table

    found = ledger.conflicts()
    stdout().print(edits_table(ledger, found))
    _say_conflicts(found)


def show_entry(ledger: Ledger, name: str | None) -> None:
    """One edit in full, or all events.

    Raises:
        UnknownNameError: there is no such edit.
        PatchError: the name fits several.
    """
    from kg_edit.ledger.entries import places_of
    from kg_edit.ledger.view import entry_lines, events_table

    if name is None:
        stdout().print(events_table(ledger.events))
        _say_conflicts(ledger.conflicts())
        return
    known = ledger.edits
    places = places_of([name], known)
    for entry in known:
        if entry.place in places:
            for what, value in entry_lines(ledger, entry):
                stdout().print(f"[bold]{plain(what)}[/bold]: {plain(value)}", soft_wrap=True)
    _say_conflicts([conflict for conflict in ledger.conflicts() if _touches(conflict, places)])


def say_added(ledger: Ledger, number: int) -> None:
    """What a new step is, and with what before it, or in it, it is in conflict."""
    new = [entry for entry in ledger.edits if entry.place.step == number]
    methods = ", ".join(sorted({entry.method for entry in new}))
    stdout().print(plain(f"{ledger.folder}: step {number}, {_count(new)} of {methods}"), soft_wrap=True)
    _say_conflicts([conflict for conflict in ledger.conflicts() if conflict.second.place.step == number])


def say_removed(ledger: Ledger, removed: Sequence[Entry]) -> None:
    """What is gone, and how much is left."""
    left = [entry for entry in ledger.edits if entry.state == "standing"]
    names = ", ".join(entry.name for entry in removed)
    again = f"To undo this: kg-edit patch undo {ledger.folder}"
    stdout().print(plain(f"removed {names}; {_count(left)} left. {again}"), soft_wrap=True)


def failed(checked: Sequence[Checked], kinds: Sequence[Kind]) -> bool:
    """Show what was found; whether a prompt of these kinds is not answered as it should be, or edits contradict."""
    from kg_edit.ledger.conflicts import contradictions
    from kg_edit.ledger.view import check_table

    stdout().print(check_table(checked))
    for found in checked:
        for probe, reading in found.failures(kinds):
            text = (
                f"{found.entry.name}, {probe.kind}: {probe.prompt!r} should say {probe.wanted!r}, says {reading.text!r}"
            )
            stdout().print(plain(text), soft_wrap=True)
    between = contradictions([found.entry for found in checked])
    _say_conflicts(between)
    holding = [found for found in checked if not any(found.failures(kinds))]
    stdout().print(_verdict(len(checked), holding, len(between)), soft_wrap=True)
    return len(holding) < len(checked) or bool(between)


def failed_at_server(checked: Sequence[ServedEdit], url: str) -> bool:
    """Show what a server said; whether an edit is not said as it should be, or edits contradict."""
    from kg_edit.ledger.conflicts import contradictions
    from kg_edit.ledger.view import served_table

    stdout().print(served_table(checked))
    for found in checked:
        for one in (one for one in found.answers if not one.right):
            text = f"{found.entry.name}, {one.kind}: {one.prompt!r} should say {one.wanted!r}, says {one.text!r}"
            stdout().print(plain(text), soft_wrap=True)
    between = contradictions([found.entry for found in checked])
    _say_conflicts(between)
    holding = sum(found.holds for found in checked)
    stdout().print(plain(_served_verdict(checked, holding, url, len(between))), soft_wrap=True)
    return holding < len(checked) or bool(between)


def _served_verdict(checked: Sequence[ServedEdit], holding: int, url: str, contradictions: int) -> str:
    led = sum(any(one.led for one in found.answers) for found in checked)
    parts = [
        f"{url}: {holding} of {len(checked)} edits hold",
        f"{led} of them asked after a line break, because their prompts begin with the subject" if led else "",
        f"{contradictions} contradiction{'s' * (contradictions > 1)}" if contradictions else "",
    ]
    return "; ".join(filter(None, parts))


def _verdict(asked: int, holding: Sequence[Checked], contradictions: int) -> str:
    """How many edits hold, and in how many of these the model says the target, rather than finding it likelier."""
    said = sum(reading.said for found in holding for reading in found.of("rewrite"))
    text = f"{len(holding)} of {asked} edits hold, {said} of them said"
    return text if not contradictions else f"{text}; {contradictions} contradiction{'s' * (contradictions > 1)}"


def picture(ledger: Listed, path: Path) -> Path:
    """Draw the ledger.

    Raises:
        OutputError: the file can't be written, or is of no known format.
    """
    from kg_edit.ledger.view import draw_ledger

    return draw_ledger(ledger, path)


def _say_conflicts(found: Sequence[Conflict]) -> None:
    for conflict in found[:_SHOWN]:
        stdout().print(f"[yellow]conflict[/yellow]: {plain(str(conflict))}", soft_wrap=True)
    if len(found) > _SHOWN:
        stdout().print(f"… and {len(found) - _SHOWN} more conflicts")


def _touches(conflict: Conflict, places: Iterable[object]) -> bool:
    return bool({conflict.first.place, conflict.second.place} & set(places))


def _count(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} edit{'' if len(entries) == 1 else 's'}"
