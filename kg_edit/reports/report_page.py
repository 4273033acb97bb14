"""The report of an edit run as one self-contained HTML page: the texts before and after, edit by edit.

`report_page` shows a table of all edits, the size of the change beside that of each weight, and for each edit its
probes, its loss curve and its subgraph. With many edits these are folded. All text is escaped, and only the page's own
script may run (its hash is in the page's content security policy). The templates are in `kg_edit/reports/page`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import networkx as nx

from kg_edit.callbacks import LossStep
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import Changes, change_norm, changes_of, columns
from kg_edit.reports.before_after import Kind, Reading, ReportRow
from kg_edit.reports.charts import line_chart, sparkline
from kg_edit.reports.report import TITLES, Verdict, form, headline, note, sign
from kg_edit.text.display import one_line
from wikidata_cache.view import svg

Curve = Sequence[LossStep]
Graphs = Mapping[str, nx.MultiDiGraph | str]

_PLACE = re.compile("@@([A-Z]+)@@")
_OPEN = 3  # up to this many edits are shown unfolded
_MOST = 60  # statements of a subgraph to draw, at most
_CLASSES = {"✓": "good", "~": "warn", "✗": "bad"}
_KEYS = (
    '<p class="keys"><span class="node-key s">subject</span><span class="node-key new">new object, by the edit</span>'
    '<span class="node-key old">old object, not in the graph</span></p>'
)
_COUNTED: dict[Kind, str] = {"paraphrase": "paraphrases", "follows": "what follows", "neighbour": "neighbours"}


def report_page(
    rows: Sequence[ReportRow], patch: Patch, *, curves: Mapping[str, Curve] | None = None, graphs: Graphs | None = None
) -> str:
    """The page of a run with the probes ``rows``, in the order of its edits.

    ``curves``: the losses by edit, or by batch. ``graphs``: each edit's subgraph, or a text why there is none.
    """
    entries = _entries(rows, patch, curves or {}, graphs or {})
    kinds = [kind for kind in _COUNTED if any(row.probe.kind == kind for row in rows)]
    largest = max((share for entry in entries for size in entry.sizes if (share := size.share)), default=None)
    script = _template("report.js")
    parts = {
        "TITLE": escape(headline(patch)),
        "VERDICT": _verdict(entries),
        "SUMMARY": _text(patch.summary),
        "TILES": "".join(_tiles(entries, kinds)),
        "HEAD": _head(entries, kinds),
        "ROWS": "\n".join(_line(entry, kinds, entries) for entry in entries),
        "NOTE": _text(note(rows)),
        "WEIGHTS": _weights(patch),
        "BATCHES": "".join(_batches(curves or {}, {entry.id for entry in entries})),
        "EDITS": "\n".join(_edit(entry, largest, is_open=len(entries) <= _OPEN) for entry in entries),
        "MADE": escape(_made(patch)),
        "STYLE": _template("report.css") + svg.STYLE,
        "SCRIPT": script,
        "HASH": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return _PLACE.sub(lambda match: parts[match[1]], _template("report.html"))


@dataclass(frozen=True, kw_only=True)
class _Size:
    """The norm of a weight's change, and the norm of the weight itself if it is known."""

    weight: str
    change: float
    own: float | None

    @property
    def share(self) -> float | None:
        """The change's norm divided by the weight's norm."""
        return self.change / self.own if self.own else None


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The data of one edit on the page."""

    number: int
    id: str
    rows: Sequence[ReportRow]
    record: Mapping[str, Any]
    sizes: Sequence[_Size]
    curve: Curve
    graph: nx.MultiDiGraph | str | None

    @property
    def own(self) -> ReportRow:
        """The row of the edit's own prompt."""
        return self.rows[0]

    @property
    def mark(self) -> tuple[str, str]:
        """Whether the edit is said, as a class of the style sheet and as words; "good" only if it is also right."""
        if self.own.after.said:
            return ("good" if self.own.after.right else "warn"), "said"
        return ("warn", "likelier, not said") if self.own.after.right else ("bad", "not said")

    def of(self, kind: Kind) -> list[ReportRow]:
        """The edit's probes of one kind."""
        return [row for row in self.rows if row.probe.kind == kind]


def _entries(
    rows: Sequence[ReportRow], patch: Patch, curves: Mapping[str, Curve], graphs: Graphs
) -> tuple[_Entry, ...]:
    found: dict[str, list[ReportRow]] = {}
    for row in rows:
        found.setdefault(row.edit, []).append(row)
    records = {str(record["edit"]["id"]): record for record in patch.edits}
    sizes = _sizes(changes_of(patch))
    return tuple(
        _Entry(
            number=number,
            id=name,
            rows=own,
            record=records.get(name, {}),
            sizes=sizes.get(name, ()),
            curve=curves.get(name, ()),
            graph=graphs.get(name),
        )
        for number, (name, own) in enumerate(found.items(), 1)
    )


def _sizes(changes: Changes) -> dict[str, tuple[_Size, ...]]:
    """Each edit's change of each weight, by the edit's id; {} if the changes can't be attributed to single edits."""
    own = columns(changes)
    if own is None:
        return {}
    return {
        str(record["edit"]["id"]): tuple(
            _Size(weight=name, change=change_norm(pair, places), own=changes.weight_norms.get(name))
            for name, pair in changes.factors.items()
        )
        for record, places in zip(changes.edits, own, strict=True)
    }


def _verdict(entries: Sequence[_Entry]) -> str:
    """The number of edits that are said, in the colour of the outcome; links to the others."""
    verdict = Verdict.of([row for entry in entries for row in entry.rows])
    kind = "good" if not verdict.missed else "warn" if verdict.said else "bad"
    counted = f'<span class="{kind}">{len(verdict.said)} of {len(entries)} said</span>'
    missed = [entry for entry in entries if not entry.own.after.said]
    if not missed:
        return counted
    links = ", ".join(f'<a href="#edit-{entry.number}">{_text(entry.id)}</a>' for entry in missed[:10])
    return f"{counted}; {len(missed)} not: {links}" + (f" and {len(missed) - 10} more" if len(missed) > 10 else "")


def _tiles(entries: Sequence[_Entry], kinds: Sequence[Kind]) -> Iterator[str]:
    for kind in kinds:
        rows = [row for entry in entries for row in entry.of(kind)]
        before, after = (sum(getattr(row, when).right for row in rows) for when in ("before", "after"))
        yield f"<li><b>{before} → {after} of {len(rows)}</b><span>{_COUNTED[kind]} right</span></li>"


def _head(entries: Sequence[_Entry], kinds: Sequence[Kind]) -> str:
    heads = ["", "edit", "", "before", "after", *(_COUNTED[kind] for kind in kinds)]
    heads += ["change / weight"] if _sized(entries) else []
    heads += ["loss"] if _curved(entries) else []
    return "".join(f'<th scope="col">{name}</th>' for name in heads)


def _sized(entries: Sequence[_Entry]) -> bool:
    return any(size.share is not None for entry in entries for size in entry.sizes)


def _curved(entries: Sequence[_Entry]) -> bool:
    return any(entry.curve for entry in entries)


def _line(entry: _Entry, kinds: Sequence[Kind], entries: Sequence[_Entry]) -> str:
    """An edit's row of the table."""
    kind, words = entry.mark
    cells = [
        f'<td class="number soft">{entry.number}</td>',
        f'<td class="fact"><a href="#edit-{entry.number}">{_fact(entry.own)}</a></td>',
        f'<td><span class="badge {kind}">{words}</span></td>',
        *(f'<td class="text"><span class="clip">{_answer(told)}</span></td>' for told in _both(entry.own)),
        *(_share(entry.of(kind)) for kind in kinds),
    ]
    shares = [size.share for size in entry.sizes if size.share is not None]
    cells += [f'<td class="number">{_percent(max(shares)) if shares else ""}</td>'] if _sized(entries) else []
    cells += [f"<td>{sparkline([step.loss for step in entry.curve])}</td>"] if _curved(entries) else []
    return f'<tr data-said="{"yes" if entry.own.after.said else "no"}">{"".join(cells)}</tr>'


def _share(rows: Sequence[ReportRow]) -> str:
    """The number of probes of a kind that are right afterwards; marked if more were right before."""
    before, after = (sum(getattr(row, when).right for row in rows) for when in ("before", "after"))
    worse = " bad" if after < before else ""
    return f'<td class="number{worse}" title="before: {before}">{f"{after}/{len(rows)}" if rows else ""}</td>'


def _weights(patch: Patch) -> str:
    """The whole change of each weight over all edits, beside the weight."""
    changes = changes_of(patch)
    sizes = [
        _Size(weight=name, change=change_norm(pair), own=changes.weight_norms.get(name))
        for name, pair in changes.factors.items()
    ]
    if not sizes:
        return ""
    table = _size_table(sizes, max((size.share or 0.0 for size in sizes), default=None))
    return f'<section aria-labelledby="size"><h2 id="size">The change of the weights, all edits</h2>{table}</section>'


def _size_table(sizes: Sequence[_Size], largest: float | None) -> str:
    rows = "".join(
        f'<tr><td><code>{_breakable(size.weight)}</code></td><td class="number">{size.change:.3g}</td>'
        f'<td class="number">{"" if size.own is None else f"{size.own:.4g}"}</td>'
        f'<td class="number">{"" if size.share is None else _percent(size.share)}</td>'
        f"<td>{_meter(size.share, largest)}</td></tr>"
        for size in sizes
    )
    names = ("norms", "change", "weight", "share")
    heads = "".join(
        f'<th scope="col"{" class=number" if place else ""}>{name}</th>' for place, name in enumerate(names)
    )
    return f'<div class="wide"><table><thead><tr>{heads}<th></th></tr></thead><tbody>{rows}</tbody></table></div>'


def _breakable(name: str) -> str:
    """A weight's name in which a line may break after a dot."""
    return _text(name).replace(".", ".<wbr>")


def _meter(share: float | None, largest: float | None) -> str:
    if not share or not largest:
        return ""
    title = f"a full bar is {_percent(largest)}"
    return f'<div class="meter" title="{title}"><i style="width: {min(100.0, 100 * share / largest):.1f}%"></i></div>'


def _batches(curves: Mapping[str, Curve], edits: set[str]) -> Iterator[str]:
    """Yield the loss curves of batches: edits that one descent made together."""
    for name, curve in curves.items():
        if name not in edits and ".." in name:
            yield f"<section><h2>The loss of the batch {_text(name)}</h2>{_chart(curve)}</section>"


def _edit(entry: _Entry, largest: float | None, *, is_open: bool) -> str:
    kind, words = entry.mark
    parts = [
        _answers(entry.own),
        _probes(entry.rows),
        f'<div class="two">{_losses(entry)}{_norms(entry, largest)}</div>',
    ]
    parts.append(_drawing(entry))
    return (
        f'<details class="edit" id="edit-{entry.number}"{" open" if is_open else ""}><summary>'
        f'<span class="badge {kind}">{words}</span><span class="words">{_fact(entry.own)}</span>'
        f'<span class="id">{_text(entry.id)}</span></summary><div class="inside">{"".join(parts)}</div></details>'
    )


def _answers(row: ReportRow) -> str:
    """The model's continuation of the edit's own prompt, before and after."""
    before, after = map(_answer, _both(row))
    mark = _CLASSES[sign(row.after)]
    return (
        f'<div class="pair"><div class="said"><span>before</span><p dir="auto">{before}</p></div>'
        f'<div class="said {mark}"><span>after</span><p dir="auto">{after}</p></div></div>'
    )


def _probes(rows: Sequence[ReportRow]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("", "prompt", "should say", "before", "after"))
    body = "".join(_probe(row) for row in rows)
    last = '<th scope="col" class="number">nats a token</th>'
    table = f'<table class="probes"><thead><tr>{heads}{last}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>'


def _probe(row: ReportRow) -> str:
    probe = row.probe
    told = (_marked(row.before, coloured=False), _marked(row.after, coloured=True))
    return (
        f'<tr><td>{TITLES[probe.kind]}{form(probe)}</td><td dir="auto">{_text(probe.prompt)}</td>'
        f'<td dir="auto">{_text(probe.wanted)}</td>{"".join(told)}'
        f'<td class="number">{row.before.nats:.1f} → {row.after.nats:.1f}</td></tr>'
    )


def _marked(reading: Reading, *, coloured: bool) -> str:
    mark = sign(reading)
    kind = f" {_CLASSES[mark]}" if coloured else " soft"
    return f'<td class="sign" dir="auto"><span class="{kind.strip()}">{mark}</span> {_answer(reading)}</td>'


def _losses(entry: _Entry) -> str:
    if entry.curve:
        return f"<div><h3>Loss, step by step</h3>{_chart(entry.curve)}</div>"
    if {"loss_before", "loss_after", "steps"} <= entry.record.keys():
        said = f"{entry.record['loss_before']:.4g} → {entry.record['loss_after']:.4g} in {entry.record['steps']} steps"
        return f'<div><h3>Loss</h3><p class="soft">{said}; the steps in between were not saved.</p></div>'
    return '<div><h3>Loss</h3><p class="soft">This method reports no separate loss for this edit.</p></div>'


def _chart(curve: Curve) -> str:
    """The objective at every evaluation, with its terms if they are known."""
    lines = {"objective": [(float(step.step), step.loss) for step in curve]}
    for name, said in (("nll", "nll of the target"), ("kl", "kl, unweighted")):
        known = [(float(step.step), value) for step in curve if (value := getattr(step, name)) is not None]
        lines |= {said: known} if known else {}
    said = f"from {curve[0].loss:.4g} to {curve[-1].loss:.4g} in {len(curve)} evaluations"
    return line_chart(lines, title=f"The loss falls {said}", x_label="evaluation", y_label="nats") + (
        f'<p class="soft small">{said}</p>'
    )


def _norms(entry: _Entry, largest: float | None) -> str:
    told = ", ".join(
        f"{_text(str(name))} {value:.4g}"
        for name, value in sorted(entry.record.get("norms", {}).items())
        if isinstance(value, int | float)
    )
    noted = f'<p class="soft small">Norms: {told}</p>' if told else ""
    if entry.sizes:
        return f"<div><h3>The change compared with its weight</h3>{_size_table(entry.sizes, largest)}{noted}</div>"
    together = '<p class="soft">The patch has no separate change of weights for this edit.</p>'
    return f"<div><h3>The change</h3>{together}{noted}</div>"


def _drawing(entry: _Entry) -> str:
    """The subgraph that the method read."""
    if entry.graph is None or (not isinstance(entry.graph, str) and not len(entry.graph)):
        return ""
    if isinstance(entry.graph, str):
        return f'<div><h3>Subgraph</h3><p class="soft">{_text(entry.graph)}</p></div>'
    count = entry.graph.number_of_edges()
    counted = f"{count} statements" if count <= _MOST else f"{_MOST} of {count} statements"
    picture = svg.inline_svg(
        entry.graph, title=one_line(f"What the graph says around: {entry.own.probe.prompt}"), most=_MOST
    )
    return f'<div><h3>Subgraph: {counted}</h3>{_KEYS}<div class="drawing">{picture}</div></div>'


def _fact(row: ReportRow) -> str:
    prompt, target = _text(row.probe.prompt), _text(row.probe.wanted)
    arrow = '<span class="arrow">→</span>'
    return f'<span dir="auto">{prompt}</span> {arrow} <span class="target" dir="auto">{target}</span>'


def _both(row: ReportRow) -> tuple[Reading, Reading]:
    return row.before, row.after


def _answer(reading: Reading) -> str:
    return _text(reading.text) or '<span class="soft">(nothing)</span>'


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _text(text: str) -> str:
    """An external text on one line, escaped."""
    return escape(one_line(text).strip())


def _made(patch: Patch) -> str:
    told = {name: patch.provenance[name] for name in ("model", "versions", "methods") if name in patch.provenance}
    return json.dumps(told, indent=1, ensure_ascii=False, sort_keys=True)


def _template(name: str) -> str:
    return (files("kg_edit") / "reports" / "page" / name).read_text(encoding="utf-8")
