"""The report of an edit run as one self-contained HTML page: the texts of the unedited and the edited model.

`report_page` shows a table of all edits, the size of the change of each weight (both only where there are several
edits), and for each edit its probes, its loss curve, its subgraph and the facts of it that were edited too. With many
edits these are folded. On a phone the cells of a row are one below the other, and a subgraph is a list. All text is
escaped, and only the page's own script may run (its hash is in the page's content security policy). The templates are
in `kg_edit/reports/page`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import Any

import networkx as nx

from kg_common.terminal import number_of
from kg_edit.callbacks import LossStep
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import change_norm, changes_of, columns
from kg_edit.reports.charts import line_chart, sparkline
from kg_edit.reports.counts import COUNTED, Count, count_rows
from kg_edit.reports.differences import (
    PromptDifference,
    count_unchanged,
    counted,
    difference_rows,
    fill_template,
    page_file,
)
from kg_edit.reports.report import headline, label, note, sign
from kg_edit.reports.rows import ProbeKind, Reading, ReportRow
from kg_edit.reports.verdict import Verdict
from kg_edit.text.display import one_line
from wikidata_cache.view import svg
from wikidata_cache.view.content import with_old_edge

Curve = Sequence[LossStep]
Graphs = Mapping[str, nx.MultiDiGraph | str]

_OPEN = 3  # up to this many edits are shown unfolded
_LINKS = 10  # failed edits that the verdict links to, at most
_MOST = 60  # statements of a subgraph to draw, at most
_NORMS = ("norm of the change", "of the weight", "share")
_CLASSES = {"✓": "good", "~": "warn", "✗": "bad"}
_KEYS = (
    '<p class="keys"><span class="node-key s">subject</span><span class="node-key new">new object, by the edit</span>'
    '<span class="node-key old">old object, not in the graph</span></p>'
)


@dataclass(frozen=True, kw_only=True)
class _Size:
    """The norm of a weight's change, and the norm of the weight itself if it is known."""

    weight: str
    change: float
    norm: float | None

    @property
    def share(self) -> float | None:
        """The change's norm divided by the weight's norm."""
        return self.change / self.norm if self.norm else None


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
    def rewrite(self) -> ReportRow:
        """The row of the edit's own prompt; of an edit in both forms, that of the form which fails if one does."""
        return min(self.of("rewrite"), key=lambda row: (row.edited.success, row.edited.right))

    @property
    def shares(self) -> list[float]:
        """The known shares of the changes in their weights."""
        return [size.share for size in self.sizes if size.share is not None]

    @property
    def badge(self) -> str:
        """Whether the edit succeeded; green only if its target is also the more likely one."""
        right = self.rewrite.edited.right
        if self.rewrite.edited.success:
            kind = "good" if right else "warn"
            return f'<span class="badge {kind}">success</span>'
        if right:
            return '<span class="badge warn">more likely, failed</span>'
        return '<span class="badge bad">failed</span>'

    def of(self, kind: ProbeKind) -> list[ReportRow]:
        """Return the edit's probes of one kind."""
        return [row for row in self.rows if row.probe.kind == kind]


def report_page(
    rows: Sequence[ReportRow],
    patch: Patch,
    *,
    verdict: Verdict | None = None,
    curves: Mapping[str, Curve] | None = None,
    graphs: Graphs | None = None,
    differences: Sequence[PromptDifference] = (),
) -> str:
    """Return the page of a run as HTML.

    Args:
        rows: the probes, in the order of the edits.
        patch: the change.
        verdict: the verdict; by default that of the rows alone.
        curves: the losses by edit, or by batch (``first..last``).
        graphs: each edit's subgraph, or a text why there is none.
        differences: the locality prompts and the unrelated prompts, as both models answered them.
    """
    curves = curves or {}
    entries = _entries(rows, patch, curves, graphs or {})
    several = len(entries) > 1  # a single edit is described once
    provenance = {name: patch.provenance[name] for name in ("model", "versions", "methods") if name in patch.provenance}
    # Edits that one descent made have a curve together
    ids = {entry.id for entry in entries}
    batches = {name: curve for name, curve in curves.items() if ".." in name and name not in ids}
    script = page_file("report.js")
    parts = {
        "TITLE": escape(headline(patch)),
        "VERDICT": _verdict(entries, verdict or Verdict.of(rows)),
        "SUMMARY": _text(patch.summary),
        "TILES": _tiles(rows, differences),
        "OVERVIEW": _overview(entries) if several else "",
        "NOTE": _text(note(rows)),
        "DIFFERENCES": _differences(differences, forms=any(row.probe.chat for row in rows)),
        "WEIGHTS": _weights(patch) if several else "",
        "EACH": "Each edit" if several else "The edit",
        "BATCHES": "".join(
            f"<section><h2>The loss of the batch {_text(name)}</h2>{_chart(curve)}</section>"
            for name, curve in batches.items()
        ),
        "EDITS": "\n".join(_edit(entry, is_open=len(entries) <= _OPEN) for entry in entries),
        "MADE": escape(json.dumps(provenance, indent=1, ensure_ascii=False, sort_keys=True)),
        "STYLE": page_file("report.css") + svg.STYLE,
        "SCRIPT": script,
        "HASH": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return fill_template("report.html", parts)


def _entries(
    rows: Sequence[ReportRow], patch: Patch, curves: Mapping[str, Curve], graphs: Graphs
) -> tuple[_Entry, ...]:
    by_edit: dict[str, list[ReportRow]] = {}
    for row in rows:
        by_edit.setdefault(row.edit, []).append(row)
    records = {str(record["edit"]["id"]): record for record in patch.edits}
    changes = changes_of(patch)
    sizes: dict[str, list[_Size]] = {}
    edit_columns = columns(changes)
    if edit_columns is not None:  # without columns of its own, the part of an edit in a change is not known
        for record, indices in zip(changes.edits, edit_columns, strict=True):
            sizes[str(record["edit"]["id"])] = [
                _Size(weight=name, change=change_norm(pair, indices), norm=changes.weight_norms.get(name))
                for name, pair in changes.factors.items()
            ]
    return tuple(
        _Entry(
            number=number,
            id=name,
            rows=edit_rows,
            record=records.get(name, {}),
            sizes=sizes.get(name, ()),
            curve=curves.get(name, ()),
            graph=graphs.get(name),
        )
        for number, (name, edit_rows) in enumerate(by_edit.items(), 1)
    )


def _verdict(entries: Sequence[_Entry], verdict: Verdict) -> str:
    """Return the number of edits that succeeded, in the colour of the result, links to the others, and the advice."""
    if not verdict.failed:
        kind = "good"
    elif verdict.succeeded:
        kind = "warn"
    else:
        kind = "bad"
    counted = f'<span class="{kind}">{verdict.counted}</span>'
    failed = [entry for entry in entries if not entry.rewrite.edited.success]
    advice = "".join(f"<li>{_text(line)}</li>" for line in verdict.remarks)
    advice = f'<ul class="advice soft">{advice}</ul>' if advice else ""
    if verdict.commands:
        commands = "\n".join(_text(command) for command in verdict.commands)
        advice += f"<pre>{commands}</pre>"
    if not failed:
        return f'<p class="verdict">{counted}</p>{advice}'
    links = ", ".join(f'<a href="#edit-{entry.number}">{_text(entry.id)}</a>' for entry in failed[:_LINKS])
    more = f" and {len(failed) - _LINKS} more" if len(failed) > _LINKS else ""
    return f'<p class="verdict">{counted}; {len(failed)} failed: {links}{more}</p>{advice}'


def _tiles(rows: Sequence[ReportRow], differences: Sequence[PromptDifference]) -> str:
    tiles = [f"<li><b>{count}</b><span>{name} right</span></li>" for name, count in count_rows(rows).items()]
    unchanged = count_unchanged(differences).values()
    if unchanged:
        kept = sum(count.edited for count in unchanged)
        prompts = sum(count.prompts for count in unchanged)
        tiles.append(f"<li><b>{kept} of {prompts}</b><span>other prompts unchanged</span></li>")
    return "".join(tiles)


def _differences(differences: Sequence[PromptDifference], *, forms: bool) -> str:
    """Return the section with the prompts that should not change, the changed ones first; ``forms`` as in `counted`."""
    if not differences:
        return ""
    table = f'<table class="probes">{difference_rows(sorted(differences, key=lambda row: row.unchanged))}</table>'
    is_open = len(differences) <= _OPEN or not all(row.unchanged for row in differences)
    opened = " open" if is_open else ""
    return (
        '<section aria-labelledby="other"><h2 id="other">What else changed?</h2>'
        f'<p class="soft">{counted(differences, forms=forms)}</p>'
        f"<details{opened}><summary>Prompts that should not change</summary>"
        f"{_wide(table, 'prompts that should not change')}</details></section>"
    )


def _overview(entries: Sequence[_Entry]) -> str:
    """Return the section with the table of all edits; columns without a value are left out."""
    counts_of = {entry.number: count_rows(entry.rows) for entry in entries}
    found = set(chain.from_iterable(counts_of.values()))
    names = [name for name in COUNTED.values() if name in found]
    sized = any(entry.shares for entry in entries)
    curved = any(entry.curve for entry in entries)
    heads = ["", "edit", "", "unedited", "edited", *names]
    if sized:
        heads.append("change / weight")
    if curved:
        heads.append("loss")
    lines = []
    for entry in entries:
        cells = [
            f'<td class="number soft">{entry.number}</td>',
            f'<td class="fact"><a href="#edit-{entry.number}">{_fact(entry.rewrite)}</a></td>',
            f"<td>{entry.badge}</td>",
            f'<td class="text" data-label="unedited"><span class="clip">{_answer(entry.rewrite.unedited)}</span></td>',
            f'<td class="text" data-label="edited"><span class="clip">{_answer(entry.rewrite.edited)}</span></td>',
        ]
        for name in names:
            cells.append(_count_cell(name, counts_of[entry.number].get(name)))
        if sized:
            size = _percent(max(entry.shares)) if entry.shares else ""
            cells.append(f'<td class="number" data-label="change / weight">{size}</td>')
        if curved:
            cells.append(f'<td data-label="loss">{sparkline([step.loss for step in entry.curve])}</td>')
        success = "yes" if entry.rewrite.edited.success else "no"
        lines.append(f'<tr data-success="{success}">{"".join(cells)}</tr>')
    counts = (
        '<p class="soft small">The columns with counts have the prompts whose target is more likely than the other '
        "object, or whose answer is in the text.</p>"
    )
    parts = {"HEADS": _heads(heads), "ROWS": "\n".join(lines), "COUNTS": counts if names else ""}
    return fill_template("overview.html", parts)


def _count_cell(name: str, count: Count | None) -> str:
    """Return the cell of a count; empty if the edit has no such prompts."""
    if count is None:
        return f'<td class="number" data-label="{name}"></td>'
    worse = " bad" if count.fell else ""
    title = f'title="unedited: {count.unedited}" data-label="{name}"'
    return f'<td class="number{worse}" {title}>{count.edited}/{count.prompts}</td>'


def _heads(names: Sequence[str]) -> str:
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def _weights(patch: Patch) -> str:
    """Return the whole change of each weight over all edits, and the weight's own norm."""
    changes = changes_of(patch)
    sizes = [
        _Size(weight=name, change=change_norm(pair), norm=changes.weight_norms.get(name))
        for name, pair in changes.factors.items()
    ]
    if not sizes:
        return ""
    return f'<section aria-labelledby="size"><h2 id="size">The change of all edits</h2>{_size_table(sizes)}</section>'


def _size_table(sizes: Sequence[_Size]) -> str:
    """Return the norms of changes and weights, and their ratio as a bar that is full where they are equal."""
    rows = []
    for size in sizes:
        name = _text(size.weight).replace(".", ".<wbr>")  # a line may break after a dot
        norm = "" if size.norm is None else f"{size.norm:.4g}"
        share = "" if size.share is None else _percent(size.share)
        meter = ""
        if size.share:
            width = min(100.0, 100 * size.share)
            meter = f'<div class="meter" title="a full bar is 100 %"><i style="width: {width:.1f}%"></i></div>'
        cells = zip(_NORMS, (f"{size.change:.3g}", norm, share), strict=True)
        numbers = "".join(f'<td class="number" data-label="{label}">{cell}</td>' for label, cell in cells)
        rows.append(f"<tr><td><code>{name}</code></td>{numbers}<td>{meter}</td></tr>")
    names = "".join(f'<th scope="col" class="number">{name}</th>' for name in _NORMS)
    heads = f'<th scope="col">weight</th>{names}<th class="soft">0 to 100 %</th>'
    table = f'<table class="sizes"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return _wide(table, "sizes of the change")


def _wide(table: str, name: str) -> str:
    """Return a table that is scrolled sideways where it is wider than the page; its edge then has a shadow."""
    return f'<div class="wide" role="region" aria-label="Table: {name}" tabindex="0">{table}</div>'


def _edit(entry: _Entry, *, is_open: bool) -> str:
    """Return the section of one edit, which can be folded: texts, probes, loss, sizes and subgraph."""
    row = entry.rewrite
    texts = (
        f'<div class="pair"><div class="answer"><span>unedited</span><p dir="auto">{_answer(row.unedited)}</p></div>'
        f'<div class="answer {_CLASSES[sign(row.edited)]}"><span>edited</span>'
        f'<p dir="auto">{_answer(row.edited)}</p></div></div>'
    )
    two = f'<div class="two">{_losses(entry)}{_sizes(entry)}</div>'
    opened = " open" if is_open else ""
    return (
        f'<details class="edit" id="edit-{entry.number}"{opened}><summary>'
        f'{entry.badge}<span class="words">{_fact(row)}</span><span class="id">{_text(entry.id)}</span></summary>'
        f'<div class="inside">{texts}{_probes(entry.rows)}{two}{_drawing(entry)}'
        f"{_further(entry)}</div></details>"
    )


def _probes(rows: Sequence[ReportRow]) -> str:
    lines = []
    for row in rows:
        readings: list[str] = []
        for reading, kind in ((row.unedited, "soft"), (row.edited, _CLASSES[sign(row.edited)])):
            mark = f'<span class="{kind}">{sign(reading)}</span>'
            state = "edited" if readings else "unedited"
            readings.append(f'<td class="sign" data-label="{state}" dir="auto">{mark} {_answer(reading)}</td>')
        lines.append(
            f'<tr><td>{label(row.probe)}</td><td dir="auto">{_text(row.probe.prompt)}</td>'
            f'<td data-label="target" dir="auto">{_text(row.probe.wanted)}</td>{"".join(readings)}'
            f'<td class="number" data-label="nats/token">{row.unedited.nats:.1f} → {row.edited.nats:.1f}</td></tr>'
        )
    heads = _heads(("", "prompt", "target", "unedited", "edited")) + '<th scope="col" class="number">nats/token</th>'
    table = f'<table class="probes"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return _wide(table, "prompts of the edit")


def _losses(entry: _Entry) -> str:
    if entry.curve:
        return f"<div><h3>Loss, step by step</h3>{_chart(entry.curve)}</div>"
    if {"loss_before", "loss_after", "steps"} <= entry.record.keys():
        ends = f"{entry.record['loss_before']:.4g} → {entry.record['loss_after']:.4g} in {entry.record['steps']} steps"
        return f'<div><h3>Loss</h3><p class="soft">{ends}; the steps in between were not saved.</p></div>'
    return '<div><h3>Loss</h3><p class="soft">This method reports no separate loss for this edit.</p></div>'


def _chart(curve: Curve) -> str:
    """Return the objective at every evaluation, with its terms if they are known."""
    lines = {"objective": [(float(step.step), step.loss) for step in curve]}
    for field, name in (("nll", "nll of the target"), ("kl", "kl, unweighted")):
        values = [(float(step.step), getattr(step, field)) for step in curve]
        points = [(step, value) for step, value in values if value is not None]
        if points:
            lines[name] = points
    ends = f"from {curve[0].loss:.4g} to {curve[-1].loss:.4g} nats in {len(curve)} evaluations"
    chart = line_chart(lines, title=f"The loss falls {ends}", x_label="evaluation", y_label="nats")
    return f'{chart}<p class="soft small">{ends}</p>'


def _sizes(entry: _Entry) -> str:
    if entry.sizes:
        return f"<div><h3>The change compared with its weight</h3>{_size_table(entry.sizes)}</div>"
    together = "The patch has no separate change of weights for this edit."
    return f'<div><h3>The change</h3><p class="soft">{together}</p></div>'


def _drawing(entry: _Entry) -> str:
    """Return the subgraph that the method read, or why there is none; as a drawing and, for a phone, as a list."""
    if isinstance(entry.graph, str):
        return f'<div><h3>Subgraph</h3><p class="soft">{_text(entry.graph)}</p></div>'
    if entry.graph is None or not len(entry.graph):
        return ""
    count = entry.graph.number_of_edges()
    counted = number_of(count, "statement") if count <= _MOST else f"{_MOST} of {count} statements"
    title = one_line(f"The statements of the graph around: {entry.rewrite.probe.prompt}")
    shown = svg.nearest(entry.graph, _MOST)
    picture = svg.inline_svg(shown, title=title, most=_MOST)
    return f'<div><h3>Subgraph: {counted}</h3>{_KEYS}<div class="drawing">{picture}</div>{_list(shown)}</div>'


def _further(entry: _Entry) -> str:
    """Return the facts of the subgraph that were edited in beside the edit, as by ROME-KG; "" if there are none."""
    facts = [request["edit"] for request in entry.record.get("requests", ())]
    if not facts:
        return ""
    texts = ((_text(fact["prompt"].replace("{}", fact["subject"])), _text(fact["target_new"])) for fact in facts)
    lines = (f'<li dir="auto">{text} <span class="target">{target}</span></li>' for text, target in texts)
    title = f"Also edited: {number_of(len(facts), 'fact')} of the subgraph"
    return f'<div><h3>{title}</h3><ul class="small">{"".join(lines)}</ul></div>'


def _list(graph: nx.MultiDiGraph) -> str:
    """Return the statements that are drawn as a list, those of one subject together."""
    shown = with_old_edge(graph)
    by_subject = dict[str, list[str]]()
    for subject, target, data in shown.edges(data=True):
        kind = {"edit": "target", "old": "old"}.get(data.get("role", ""), "")
        name = _text(str(shown.nodes[target].get("label", target)))
        rule = f' <span class="soft">follows by {_text(data["rule"])}</span>' if "rule" in data else ""
        statement = f'<dd dir="auto">{_text(str(data.get("label", "")))} <span class="{kind}">{name}</span>{rule}</dd>'
        by_subject.setdefault(subject, []).append(statement)
    groups = "".join(
        f'<dt dir="auto">{_text(str(shown.nodes[subject].get("label", subject)))}</dt>{"".join(statements)}'
        for subject, statements in by_subject.items()
    )
    return f'<dl class="statements">{groups}</dl>'


def _fact(row: ReportRow) -> str:
    prompt = _text(row.probe.prompt)
    target = _text(row.probe.wanted)
    arrow = '<span class="arrow">→</span>'
    return f'<span dir="auto">{prompt}</span> {arrow} <span class="target" dir="auto">{target}</span>'


def _answer(reading: Reading) -> str:
    return _text(reading.text) or '<span class="soft">(nothing)</span>'


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _text(text: str) -> str:
    """Return an external text on one line, escaped."""
    return escape(one_line(text).strip())
