"""Show a ledger: tables for the terminal, and a picture.

The tables list its edits, its events and the results of a check; `entry_lines` shows one edit in full. The picture
shows the size of each standing edit's change, and the conflicts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kg_edit.ledger.conflicts import Conflict, ConflictKind
from kg_edit.ledger.entries import Entry
from kg_edit.ledger.log import Added, Event, Removed
from kg_edit.patches.changes import Changes, edit_norms
from kg_edit.patches.guards import MEDIANS, division_factor
from kg_edit.text.display import one_line

if TYPE_CHECKING:  # a ledger is listed without torch
    from matplotlib.axes import Axes

    from kg_edit.ledger.check import Checked
    from kg_edit.ledger.ledger import Ledger
    from kg_edit.ledger.served import ServedEdit
    from kg_edit.reports.probes import Kind, Reading


class Listed(Protocol):
    """A `Ledger`, or a `Listing` of one."""

    @property
    def edits(self) -> tuple[Entry, ...]:
        """Every edit, standing or removed."""

    @property
    def changes(self) -> Mapping[int, Changes]:
        """The changes of every standing step."""

    def conflicts(self) -> tuple[Conflict, ...]:
        """Pairs of standing edits in conflict."""


_HEADS: dict[Kind, str] = {
    "rewrite": "fact",
    "paraphrase": "paraphrases",
    "portability": "portability",
    "locality": "locality",
}
_SAID = "target → generated"
_SHOWN = ("loss_before", "loss_after", "steps")


def edits_table(ledger: Listed, found: Sequence[Conflict]) -> Table:
    """The edits: name, state, step, method, fact, norm of the change, and conflicts."""
    table = _table("edit", "state", "step", "method", "fact", "norm", "in conflict with")
    norms = norms_of(ledger)
    for entry in ledger.edits:
        norm = norms.get(entry.place)
        rivals = [
            _other(conflict, entry).name
            for conflict in found
            if entry.place in (conflict.first.place, conflict.second.place)
        ]
        _row(
            table,
            entry.name,
            entry.state,
            entry.place.step,
            entry.method,
            fact(entry),
            _number(norm),
            ", ".join(rivals),
        )
    return table


def norms_of(ledger: Listed) -> dict[tuple[int, str], float]:
    """The norm of the change of each standing edit that has a change of its own, by its position."""
    return {
        (step, record["edit"]["id"]): norm
        for step, change in ledger.changes.items()
        for record, norm in zip(change.edits, edit_norms(change), strict=True)
        if norm is not None
    }


def events_table(events: Sequence[Event]) -> Table:
    """The events: number, time, and what was added, removed or undone."""
    table = _table("event", "when (UTC)", "what")
    for event in events:
        _row(table, event.number, event.time, _said(event))
    return table


def entry_lines(ledger: Ledger, entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield (name, value) lines about one edit: the fact, the method, the descent, and the origin."""
    edit, record = entry.edit, entry.record
    yield "edit", f"{entry.name} ({entry.state})"
    yield "fact", fact(entry)
    for name, value in edit.model_dump(mode="json", exclude_defaults=True).items():
        if name not in ("id", "subject", "prompt", "target_new"):
            yield name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    yield "method", entry.method
    yield from ((name.replace("_", " "), str(record[name])) for name in _SHOWN if name in record)
    for name, value in record.get("norms", {}).items():
        yield f"norm of the {name}", f"{value:.4g}" if isinstance(value, float) else str(value)
    if factor := division_factor(record):
        yield "division factor", f"{factor:.4g}"
    yield from _origin(ledger, entry)


def _origin(ledger: Ledger, entry: Entry) -> Iterator[tuple[str, str]]:
    added = next(event for event in ledger.events if event.number == entry.place.step)
    assert isinstance(added, Added)  # noqa: S101 - a step's number is that of its event
    yield "added", f"{added.time} as step {added.number}" + (f", from {added.source}" if added.source else "")
    patches, event = ledger.patches, ledger.recomputed.get(entry.place)
    if event:
        yield "recomputed", f"by event {event.number}, {event.time}"
    after = [step for step in added.after if step in patches or not event]
    yield "computed", f"after steps {', '.join(map(str, after))}" if after else "on the unedited model"
    patch = patches.get(entry.place.step)
    if patch is None:
        return
    said = patch.provenance
    yield "model", f"{said.get('model', {}).get('name')} ({said.get('model', {}).get('fingerprint')})"
    yield "versions", ", ".join(f"{name} {version}" for name, version in said.get("versions", {}).items())
    for method in said.get("methods", ()):
        for name, value in _settings(method):
            yield f"{method['name']}: {name}", value


def _settings(method: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for group in (
        method.get("config", {}),
        {key: value for key, value in method.items() if key not in ("name", "config")},
    ):
        for name, value in group.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield name, text if len(text) <= 200 else f"{text[:197]}..."


def check_table(checked: Sequence[Checked]) -> Table:
    """A row for each edit: how many of its prompts of each kind are right, and what the model says."""
    table = _table("edit", *_HEADS.values(), _SAID, "nats")
    for found in checked:
        (rewrite,) = found.of("rewrite")
        counts = [_share(found.of(kind)) for kind in list(_HEADS)[1:]]
        edit = found.entry.edit
        sign = Text("✓", style="green") if rewrite.success else Text("~", style="yellow")
        sign = sign if rewrite.right else Text("✗", style="red")
        said = f"{edit.target_new} → {rewrite.text}"
        _row(table, found.entry.name, sign, *counts, said, f"{rewrite.nats:.1f}")
    return table


def served_table(checked: Sequence[ServedEdit]) -> Table:
    """A row for each edit that a server was asked about: how many prompts of each kind are right, and what it says."""
    table = _table("edit", *_HEADS.values(), _SAID)
    for found in checked:
        by_kind = [[one for one in found.answers if one.kind == kind] for kind in _HEADS]
        (rewrite,) = by_kind[0]
        sign = Text("✓", style="green") if rewrite.right else Text("✗", style="red")
        counts = [f"{sum(one.right for one in some)}/{len(some)}" if some else "" for some in by_kind[1:]]
        _row(table, found.entry.name, sign, *counts, f"{found.entry.edit.target_new} → {rewrite.text}")
    return table


def fact(entry: Entry) -> str:
    """An edit as one line: ``prompt → target``."""
    return f"{entry.edit.text} → {entry.edit.target_new}"


def _share(readings: Sequence[Reading]) -> str:
    return f"{sum(reading.right for reading in readings)}/{len(readings)}" if readings else ""


def _said(event: Event) -> str:
    if isinstance(event, Added):
        after = f", computed after {', '.join(map(str, event.after))}" if event.after else ""
        return f"added step {event.number}{f' from {event.source}' if event.source else ''}{after}: {event.file.name}"
    if isinstance(event, Removed):
        return "removed " + ", ".join(f"{step}/{name}" for step, name in event.edits)
    return f"undid event {event.undoes}"


def _other(conflict: Conflict, entry: Entry) -> Entry:
    return conflict.second if conflict.first.place == entry.place else conflict.first


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _table(*heads: str) -> Table:
    """An empty table with these column heads; words of usual length fit into 80 columns."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(cell if isinstance(cell, Text) else Text(one_line(str(cell))) for cell in cells))


_ARCS: dict[ConflictKind, int] = {"contradiction": 1, "duplicate": 4, "near keys": 3}  # places in `COLOURS`
_NAMED = 40  # with more edits, their names would not be legible


def draw_ledger(ledger: Listed, path: str | Path) -> Path:
    """Draw a bar for each edit (the norm of its change) and an arc for each conflict.

    Raises:
        OutputError: the file can't be written, or is no .svg, .png or .pdf.
    """
    from kg_edit.evaluate.plots import figure, save_figure

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
    from kg_edit.evaluate.plots import COLOURS

    axes.bar(range(len(shown)), norms, color=COLOURS[0])
    known = [norm for norm in norms if norm]
    if known:
        limit = MEDIANS * median(known)
        axes.axhline(limit, color=COLOURS[1], lw=0.8, ls=":", label=f"{MEDIANS:g} times the median")
        axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    axes.set_ylabel("norm of the change", fontsize=8)
    axes.tick_params(labelsize=8)
    if len(shown) <= _NAMED:
        names = [entry.name.replace("$", r"\$") for entry in shown]
        axes.set_xticks(range(len(shown)), labels=names, rotation=90, fontsize=7)
    else:
        axes.set_xlabel("edits, in the order in which they were made", fontsize=8)


def _draw_arcs(axes: Axes, shown: Sequence[Entry], found: Sequence[Conflict]) -> None:
    from matplotlib.patches import Arc

    from kg_edit.evaluate.plots import COLOURS

    column = {entry.place: index for index, entry in enumerate(shown)}
    for conflict in found:
        one, two = column[conflict.first.place], column[conflict.second.place]
        arc = Arc(((one + two) / 2, 0), two - one, 2, theta1=0, theta2=180, color=COLOURS[_ARCS[conflict.kind]], lw=1.2)
        axes.add_patch(arc)
    for kind, place in _ARCS.items():
        if count := sum(conflict.kind == kind for conflict in found):
            axes.plot([], [], color=COLOURS[place], label=f"{kind}: {count}")
    axes.set_ylim(0, 1.1)
    axes.set_yticks([])
    axes.set_title("conflicts between edits", fontsize=8, loc="left")
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
