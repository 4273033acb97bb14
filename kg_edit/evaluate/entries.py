"""Lines of a run's records: one for each phase of each record."""

from __future__ import annotations

from collections.abc import Mapping

from kg_edit.evaluate.editing import Step
from kg_edit.evaluate.item import Item
from kg_edit.evaluate.records import EDIT, Entry, Section


def edit_entry(item: Item, step: Step) -> Entry:
    """What became of an item's edit, made in ``step``."""
    error = step.errors.get(item.id)
    return (
        entry_of(item, EDIT, error=error) if error else entry_of(item, EDIT, seconds=step.seconds, batch=step.halved_to)
    )


def entry_of(
    item: Item,
    phase: str,
    *,
    error: str | None = None,
    seconds: float | None = None,
    batch: int | None = None,
    choices: tuple[tuple[str, ...], ...] = (),
    sections: Mapping[str, Section] | None = None,
) -> Entry:
    """What is known of an item in a phase: its scores, or why there are none."""
    return Entry(
        id=item.id,
        phase=phase,
        sha256=item.sha256,
        error=error,
        seconds=seconds,
        batch=batch,
        choices=choices,
        sections=dict(sections or {}),
    )
