"""A ledger as the page shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kg_edit.app.messages import LedgerEdit, LedgerView

if TYPE_CHECKING:
    from kg_edit.ledger import Ledger
    from kg_edit.ledger.conflicts import Conflict
    from kg_edit.ledger.entries import Entry
    from kg_edit.ledger.events import Removed


def view_of(ledger: Ledger) -> LedgerView:
    """The edits, newest first.

    Raises:
        PatchError: the ledger can't be read.
    """
    times = {event.number: event.time for event in ledger.events}
    found, entries, remade = ledger.conflicts(), ledger.edits, ledger.remade
    edits = tuple(
        _edit(entry, _time(times.get(entry.place.step, ""), remade.get(entry.place)), found)
        for entry in reversed(entries)
    )
    return LedgerView(folder=str(ledger.folder), standing=sum(one.state == "standing" for one in edits), edits=edits)


def _time(added: str, remade: Removed | None) -> str:
    """When an edit was added, and by which event what stands of it was made anew."""
    return f"{added}, made anew by event {remade.number}" if remade else added


def _edit(entry: Entry, time: str, found: tuple[Conflict, ...]) -> LedgerEdit:
    norm = entry.record.get("norms", {}).get("update")
    mine = [one for one in found if entry.place in (one.first.place, one.second.place)]
    return LedgerEdit(
        name=entry.name,
        step=entry.place.step,
        state=entry.state,
        fact=entry.edit.text,
        target=entry.edit.target_new,
        method=entry.method,
        time=time,
        norm=norm if isinstance(norm, int | float) else None,
        conflicts=tuple(map(str, mine)),
    )
