"""Refuse to ship what would mislead in silence: two objects for one fact, or an edit that is known to fail."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kg_edit.errors import PatchError
from kg_edit.patches.conflicts import find_contradictions
from kg_edit.patches.entries import Entry

if TYPE_CHECKING:
    from kg_edit.reports.rows import ReportRow

_NAMED = 5  # faults that the error lists

log = logging.getLogger(__name__)


def failed_in(rows: Iterable[ReportRow]) -> list[str]:
    """Return the ids of the edits whose target was not generated after their own prompt, from a run's rows."""
    failed = [row.edit for row in rows if row.probe.kind == "rewrite" and not row.edited.success]
    return list(dict.fromkeys(failed))


def refuse_unfit(entries: Sequence[Entry], *, failed: Sequence[str], force: bool = False) -> None:
    """Refuse to ship edits that contradict each other, or are known to fail.

    Args:
        entries: the edits to ship.
        failed: the ids of those that fail, as a run or a check found.
        force: warn of them instead.
    """
    faults = [str(conflict) for conflict in find_contradictions(entries)]
    faults += [f"{name} fails: the edited model does not generate its target" for name in failed]
    if not faults:
        return
    shown = faults[:_NAMED]
    if len(faults) > _NAMED:
        shown.append(f"and {len(faults) - _NAMED} more")
    lines = "\n  ".join(shown)
    if force:
        log.warning("shipped by --force:\n  %s", lines)
        return
    raise PatchError(
        f"these edits should not be shipped:\n  {lines}\nremove them (kg-edit patch remove), make failed ones again by "
        "another method (kg-edit patch edit), or ship them anyway with --force"
    )
