"""A ledger as a picture: how strong each standing edit is, and which ones are in each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from kg_edit.evaluate.plots import COLOURS, figure, save_figure
from kg_edit.ledger.conflicts import Conflict, ConflictKind
from kg_edit.ledger.entries import Entry
from kg_edit.ledger.guards import MEDIANS
from kg_edit.ledger.ledger import Ledger
from kg_edit.ledger.view import norms_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR = COLOURS[0]
_ARCS: dict[ConflictKind, str] = {"contradiction": COLOURS[1], "duplicate": COLOURS[4], "near keys": COLOURS[3]}
_NAMED = 40  # edits, beyond which names would not be legible


def draw_ledger(ledger: Ledger, path: str | Path) -> Path:
    """Draw a bar an edit (the norm of its change) and an arc a conflict.

    Raises:
        OutputError: the file can't be written, or is no .svg, .png or .pdf.
    """
    shown = [entry for entry in ledger.edits if entry.state == "standing"]
    norms = [norms_of(ledger).get(entry.place, 0.0) for entry in shown]
    made = figure(max(5.0, min(14.0, 1.5 + 0.22 * len(shown))), 4.0)
    found = ledger.conflicts()
    *above, bars = made.subplots(2, sharex=True, height_ratios=(1, 2)) if found else (made.subplots(),)
    _draw_bars(bars, shown, norms)
    for axes in above:
        _draw_arcs(axes, shown, found)
    return save_figure(made, Path(path))


def _draw_bars(axes: Axes, shown: Sequence[Entry], norms: Sequence[float]) -> None:
    axes.bar(range(len(shown)), norms, color=_BAR)
    known = [norm for norm in norms if norm]
    if known:
        limit = MEDIANS * median(known)
        axes.axhline(limit, color=COLOURS[1], lw=0.8, ls=":", label=f"{MEDIANS:g} times the median")
        axes.legend(fontsize=8, frameon=False)
    axes.set_ylabel("norm of the change", fontsize=8)
    axes.tick_params(labelsize=8)
    if len(shown) <= _NAMED:
        names = [entry.name.replace("$", r"\$") for entry in shown]
        axes.set_xticks(range(len(shown)), labels=names, rotation=90, fontsize=7)
    else:
        axes.set_xlabel("edits, in the order in which they were made", fontsize=8)


def _draw_arcs(axes: Axes, shown: Sequence[Entry], found: Sequence[Conflict]) -> None:
    from matplotlib.patches import Arc

    column = {entry.place: index for index, entry in enumerate(shown)}
    for conflict in found:
        one, two = column[conflict.first.place], column[conflict.second.place]
        arc = Arc(((one + two) / 2, 0), two - one, 2, theta1=0, theta2=180, color=_ARCS[conflict.kind], lw=1.2)
        axes.add_patch(arc)
    for kind, colour in _ARCS.items():
        if count := sum(conflict.kind == kind for conflict in found):
            axes.plot([], [], color=colour, label=f"{kind}: {count}")
    axes.set_ylim(0, 1.1)
    axes.set_yticks([])
    axes.set_title("edits in each other's way", fontsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=3)
