"""The report of an edit run as one self-contained HTML page: the texts of the unedited and the edited model.

`report_page` shows for each edit its probes, its loss curve, its subgraph and the facts of it that were edited too. If
`graph-memory` made the edit, it also shows the walk of each answer. With many edits these are folded. If there are
several edits, a table of all of them and the sizes of the weights' changes come first. On a phone the cells of a row
are one below the other, and a subgraph is a list. All text is escaped, and only the page's own script may run (its hash
is in the page's content security policy). The templates are in `kg_edit/reports/page`.

Each function returns a part of the page as HTML. The template report.html has the parts in the page's order.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import networkx as nx

from kg_common.terminal import number_of
from kg_edit.callbacks import LossStep
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import Changes, change_norm, collect_changes, columns_by_edit
from kg_edit.reports.charts import line_chart, sparkline
from kg_edit.reports.counts import COUNTED, Count, count_rows
from kg_edit.reports.differences import (
    PromptDifference,
    count_in_words,
    count_unchanged,
    difference_rows,
    fill_template,
    page_file,
    text_attributes,
)
from kg_edit.reports.report import headline, label, note, sign
from kg_edit.reports.rows import ProbeKind, Reading, ReportRow, find_worst
from kg_edit.reports.verdict import Verdict
from kg_edit.reports.walks import WALK_LEGEND, walk_html
from kg_edit.text.display import one_line
from wikidata_cache.view import svg
from wikidata_cache.view.content import with_old_edge

Curve = Sequence[LossStep]
Graphs = Mapping[str, nx.MultiDiGraph | str]

_UNFOLDED = 3  # up to this many edits, and prompts that should not change, are shown unfolded
_LINKED_FAILURES = 10  # failed edits that the verdict links to, at most
_DRAWN_STATEMENTS = 60  # statements of a subgraph to draw, at most
_CLASSES = {"✓": "good", "~": "warn", "✗": "bad"}
_SUBGRAPH_LEGEND = (
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
        """The change's norm divided by the weight's norm; None if that is not known, or 0."""
        if not self.norm:
            return None
        return self.change / self.norm


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The data of one edit on the page.

    Its rows have two results for each model, as `kg_edit.reports.rows.Reading` defines them. ``success``: the model's
    text gives the wanted answer. ``right``: the wanted answer is more probable than the other object, whether it is
    generated or not; without another object, the same as ``success``.

    Attributes:
        number: its number on the page, from 1.
        id: its id.
        rows: the rows of its probes.
        record: its record in the patch; {} if the patch has none.
        sizes: the size of its change of each weight; () if the patch does not have the changes of the edits apart.
        curve: its loss at each evaluation; () if it has no curve of its own.
        graph: its subgraph, or a text why there is none; None: nothing is shown.
    """

    number: int
    id: str
    rows: Sequence[ReportRow]
    record: Mapping[str, Any]
    sizes: Sequence[_Size]
    curve: Curve
    graph: nx.MultiDiGraph | str | None

    @property
    def rewrite(self) -> ReportRow:
        """The row of the edit's own prompt; of an edit in both forms, that of the form with the worse result."""
        return find_worst(self.rows_of("rewrite"))

    @property
    def shares(self) -> list[float]:
        """The known shares of the changes in their weights."""
        return [size.share for size in self.sizes if size.share is not None]

    @property
    def badge(self) -> str:
        """Whether the edit succeeded; green only if its target is also the more likely one."""
        reading = self.rewrite.edited
        if reading.success and reading.right:
            return '<span class="badge good">success</span>'
        if reading.success:
            return '<span class="badge warn">success</span>'
        if reading.right:
            return '<span class="badge warn">more likely, failed</span>'
        return '<span class="badge bad">failed</span>'

    def rows_of(self, kind: ProbeKind) -> list[ReportRow]:
        """Return the rows of the edit's probes of one kind."""
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
    verdict = verdict or Verdict.of(rows)
    entries = _make_entries(rows, patch, curves, graphs or {})
    provenance = {name: patch.provenance[name] for name in ("model", "versions", "methods") if name in patch.provenance}
    script = page_file("report.js")
    overview = ""
    weights = ""
    heading = "The edit"
    if len(entries) > 1:  # a single edit is described once
        overview = _overview(entries)
        weights = _weights(patch)
        heading = "Each edit"
    parts = {
        "TITLE": escape(headline(patch)),
        "VERDICT": _verdict(entries, verdict),
        "SUMMARY": _text(patch.summary),
        "TILES": _tiles(rows, differences),
        "OVERVIEW": overview,
        "NOTE": _text(note(rows)),
        "DIFFERENCES": _differences(differences, name_forms=any(row.probe.chat for row in rows)),
        "WEIGHTS": weights,
        "EACH": heading,
        "BATCHES": _batch_losses(entries, curves),
        "EDITS": "\n".join(_edit_section(entry, is_open=len(entries) <= _UNFOLDED) for entry in entries),
        "MADE": escape(json.dumps(provenance, indent=1, ensure_ascii=False, sort_keys=True)),
        "STYLE": page_file("report.css") + svg.STYLE,
        "SCRIPT": script,
        "HASH": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return fill_template("report.html", parts)


def _make_entries(
    rows: Sequence[ReportRow], patch: Patch, curves: Mapping[str, Curve], graphs: Graphs
) -> tuple[_Entry, ...]:
    """Return the data of each edit, in the order of the rows."""
    by_edit: dict[str, list[ReportRow]] = {}
    for row in rows:
        by_edit.setdefault(row.edit, []).append(row)
    records = {str(record["edit"]["id"]): record for record in patch.edits}
    sizes = _edit_sizes(patch)
    entries = []
    for number, (name, edit_rows) in enumerate(by_edit.items(), 1):
        entry = _Entry(
            number=number,
            id=name,
            rows=edit_rows,
            record=records.get(name, {}),
            sizes=sizes.get(name, ()),
            curve=curves.get(name, ()),
            graph=graphs.get(name),
        )
        entries.append(entry)
    return tuple(entries)


def _edit_sizes(patch: Patch) -> dict[str, list[_Size]]:
    """Return the sizes of the weights' changes by each edit; {} if the patch does not have them apart."""
    changes = collect_changes(patch)
    edit_columns = columns_by_edit(changes)
    if edit_columns is None:
        return {}
    sizes = {}
    for record, columns in zip(changes.edits, edit_columns, strict=True):
        sizes[str(record["edit"]["id"])] = _measure(changes, columns)
    return sizes


def _measure(changes: Changes, columns: tuple[int, ...] | None = None) -> list[_Size]:
    """Return the size of each weight's change; with ``columns``, of the part that these columns of the factors make."""
    sizes = []
    for name, factors in changes.factors.items():
        norm = changes.weight_norms.get(name)
        sizes.append(_Size(weight=name, change=change_norm(factors, columns), norm=norm))
    return sizes


def _verdict(entries: Sequence[_Entry], verdict: Verdict) -> str:
    """Return the number of edits that succeeded, in the colour of the result, links to the others, and the advice."""
    if not verdict.failed:
        css_class = "good"
    elif verdict.succeeded:
        css_class = "warn"
    else:
        css_class = "bad"
    line = f'<span class="{css_class}">{verdict.counted}</span>'
    failed = [entry for entry in entries if not entry.rewrite.edited.success]
    if failed:
        links = [f'<a href="#edit-{entry.number}">{_text(entry.id)}</a>' for entry in failed[:_LINKED_FAILURES]]
        line += f"; {len(failed)} failed: {', '.join(links)}"
    if len(failed) > _LINKED_FAILURES:
        line += f" and {len(failed) - _LINKED_FAILURES} more"
    advice = ""
    if verdict.remarks:
        remarks = "".join(f"<li>{_text(remark)}</li>" for remark in verdict.remarks)
        advice = f'<ul class="advice soft">{remarks}</ul>'
    if verdict.commands:
        commands = "\n".join(_text(command) for command in verdict.commands)
        advice += f"<pre>{commands}</pre>"
    return f'<p class="verdict">{line}</p>{advice}'


def _tiles(rows: Sequence[ReportRow], differences: Sequence[PromptDifference]) -> str:
    """Return the counts of prompts that are right or unchanged, as items of a list.

    Where the prompts have another object to compare with, right says which object is likelier, and not which one is
    generated; the verdict above the tiles counts what is generated.
    """
    compared = {COUNTED[row.probe.kind] for row in rows if row.probe.kind in COUNTED and row.probe.unwanted}
    tiles = []
    for name, count in count_rows(rows).items():
        words = "right object likelier" if name in compared else "right"
        tiles.append(f"<li><b>{count}</b><span>{name}: {words}</span></li>")
    unchanged = count_unchanged(differences).values()
    if unchanged:
        kept = sum(count.edited for count in unchanged)
        prompts = sum(count.prompts for count in unchanged)
        tiles.append(f"<li><b>{kept} of {prompts}</b><span>other prompts unchanged</span></li>")
    return "".join(tiles)


def _differences(differences: Sequence[PromptDifference], *, name_forms: bool) -> str:
    """Return the section of the prompts that should not change, the changed ones first.

    ``name_forms`` is as in `count_in_words`.
    """
    if not differences:
        return ""
    changed_first = sorted(differences, key=lambda row: row.unchanged)
    table = f'<table class="probes">{difference_rows(changed_first)}</table>'
    opened = ""
    if len(differences) <= _UNFOLDED or not all(row.unchanged for row in differences):
        opened = " open"
    return (
        '<section aria-labelledby="other"><h2 id="other">What else changed?</h2>'
        f'<p class="soft">{count_in_words(differences, name_forms=name_forms)}</p>'
        f"<details{opened}><summary>Prompts that should not change</summary>"
        f"{_scrolled_table(table, 'prompts that should not change')}</details></section>"
    )


def _overview(entries: Sequence[_Entry]) -> str:
    """Return the section with the table of all edits; columns without a value are left out."""
    found = set[str]()
    for entry in entries:
        found.update(count_rows(entry.rows))
    counted = [name for name in COUNTED.values() if name in found]
    has_sizes = any(entry.shares for entry in entries)
    has_curves = any(entry.curve for entry in entries)
    heads = ["", "edit", "", "unedited", "edited", *counted]
    if has_sizes:
        heads.append("change / weight")
    if has_curves:
        heads.append("loss")
    rows = [_overview_row(entry, counted=counted, has_sizes=has_sizes, has_curves=has_curves) for entry in entries]
    caption = ""
    if counted:
        caption = (
            '<p class="soft small">The columns with counts have the prompts whose target is more likely than the other '
            "object, or whose answer is in the text.</p>"
        )
    return fill_template("overview.html", {"HEADS": _head_cells(heads), "ROWS": "\n".join(rows), "COUNTS": caption})


def _overview_row(entry: _Entry, *, counted: Sequence[str], has_sizes: bool, has_curves: bool) -> str:
    """Return the row of an edit, with a column for each of the ``counted`` kinds, and those that the table has."""
    cells = [
        f'<td class="number soft">{entry.number}</td>',
        f'<td class="fact"><a href="#edit-{entry.number}">{_fact(entry.rewrite)}</a></td>',
        f"<td>{entry.badge}</td>",
        f'<td class="text" data-label="unedited"><span class="clip">{_answer(entry.rewrite.unedited)}</span></td>',
        f'<td class="text" data-label="edited"><span class="clip">{_answer(entry.rewrite.edited)}</span></td>',
    ]
    counts = count_rows(entry.rows)
    for name in counted:
        cells.append(_count_cell(name, counts.get(name)))
    if has_sizes:
        size = ""
        if entry.shares:
            size = _percent(max(entry.shares))
        cells.append(f'<td class="number" data-label="change / weight">{size}</td>')
    if has_curves:
        cells.append(f'<td data-label="loss">{sparkline([step.loss for step in entry.curve])}</td>')
    success = "yes" if entry.rewrite.edited.success else "no"
    return f'<tr data-success="{success}">{"".join(cells)}</tr>'


def _count_cell(name: str, count: Count | None) -> str:
    """Return the cell of a count; empty if the edit has no such prompts."""
    if count is None:
        return f'<td class="number" data-label="{name}"></td>'
    css_class = "number"
    if count.fell:
        css_class = "number bad"
    attributes = f'title="unedited: {count.unedited}" data-label="{name}"'
    return f'<td class="{css_class}" {attributes}>{count.edited}/{count.prompts}</td>'


def _head_cells(names: Sequence[str]) -> str:
    return "".join(f'<th scope="col">{name}</th>' for name in names)


def _weights(patch: Patch) -> str:
    """Return the whole change of each weight over all edits, and the weight's own norm."""
    sizes = _measure(collect_changes(patch))
    if not sizes:
        return ""
    return f'<section aria-labelledby="size"><h2 id="size">The change of all edits</h2>{_size_table(sizes)}</section>'


def _size_table(sizes: Sequence[_Size]) -> str:
    """Return the norms of changes and weights, and their ratio as a bar that is full where they are equal."""
    heads = (
        '<th scope="col">weight</th>'
        '<th scope="col" class="number">norm of the change</th>'
        '<th scope="col" class="number">of the weight</th>'
        '<th scope="col" class="number">share</th>'
        '<th class="soft">0 to 100 %</th>'
    )
    rows = "".join(_size_row(size) for size in sizes)
    table = f'<table class="sizes"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    return _scrolled_table(table, "sizes of the change")


def _size_row(size: _Size) -> str:
    """Return the row of a weight; what is not known is an empty cell."""
    name = _text(size.weight).replace(".", ".<wbr>")  # a line may break after a dot
    norm = ""
    if size.norm is not None:
        norm = f"{size.norm:.4g}"
    share = ""
    if size.share is not None:
        share = _percent(size.share)
    meter = ""
    if size.share:
        width = min(100.0, 100 * size.share)
        meter = f'<div class="meter" title="a full bar is 100 %"><i style="width: {width:.1f}%"></i></div>'
    cells = (
        f"<td><code>{name}</code></td>"
        f'<td class="number" data-label="norm of the change">{size.change:.3g}</td>'
        f'<td class="number" data-label="of the weight">{norm}</td>'
        f'<td class="number" data-label="share">{share}</td>'
        f"<td>{meter}</td>"
    )
    return f"<tr>{cells}</tr>"


def _scrolled_table(table: str, name: str) -> str:
    """Return a table that is scrolled sideways where it is wider than the page; its edge then has a shadow."""
    return f'<div class="wide" role="region" aria-label="Table: {name}" tabindex="0">{table}</div>'


def _edit_section(entry: _Entry, *, is_open: bool) -> str:
    """Return the section of one edit, which can be folded: texts, probes, loss, sizes and subgraph."""
    row = entry.rewrite
    attributes = text_attributes(row.probe.language)
    texts = (
        f'<div class="pair"><div class="answer"><span>unedited</span><p{attributes}>{_answer(row.unedited)}</p></div>'
        f'<div class="answer {_CLASSES[sign(row.edited)]}"><span>edited</span>'
        f"<p{attributes}>{_answer(row.edited)}</p></div></div>"
    )
    loss_and_size = f'<div class="two">{_losses(entry)}{_sizes(entry)}</div>'
    opened = " open" if is_open else ""
    return (
        f'<details class="edit" id="edit-{entry.number}"{opened}><summary>'
        f'{entry.badge}<span class="words">{_fact(row)}</span><span class="id">{_text(entry.id)}</span></summary>'
        f'<div class="inside">{texts}{_probes(entry.rows)}{_walks(entry.rows)}{loss_and_size}{_drawing(entry)}'
        f"{_further_facts(entry)}</div></details>"
    )


def _probes(rows: Sequence[ReportRow]) -> str:
    """Return the table of an edit's prompts, with the signs and texts of both models."""
    lines = []
    for row in rows:
        language = row.probe.language
        attributes = text_attributes(language)
        unedited = _reading_cell(row.unedited, "unedited", "soft", language)
        edited = _reading_cell(row.edited, "edited", _CLASSES[sign(row.edited)], language)
        lines.append(
            f"<tr><td>{label(row.probe)}</td><td{attributes}>{_text(row.probe.prompt)}</td>"
            f'<td data-label="target"{attributes}>{_text(row.probe.wanted)}</td>{unedited}{edited}'
            f'<td class="number" data-label="nats/token">{row.unedited.nats:.1f} → {row.edited.nats:.1f}</td></tr>'
        )
    heads = (
        _head_cells(("", "prompt", "target", "unedited", "edited")) + '<th scope="col" class="number">nats/token</th>'
    )
    table = f'<table class="probes"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return _scrolled_table(table, "prompts of the edit")


def _walks(rows: Sequence[ReportRow]) -> str:
    """Return for each answer the statements that `graph-memory` put before the prompt; "" without such a patch."""
    answers = ""
    for row in rows:
        walk = row.edited.walk
        if walk is None:
            continue
        attributes = text_attributes(row.probe.language)
        answers += f"<p{attributes}>{_text(row.probe.prompt)} <b>{_answer(row.edited)}</b></p>"
        answers += walk_html(walk, title=f"The statements that lead to the answer of: {row.probe.prompt}")
    if not answers:
        return ""
    return f'<div class="walks"><h3>Where each answer comes from</h3>{WALK_LEGEND}{answers}</div>'


def _reading_cell(reading: Reading, model: str, sign_class: str, language: str) -> str:
    """Return the cell with a model's text; ``sign_class`` is the class of its sign, ``language`` that of the text."""
    mark = f'<span class="{sign_class}">{sign(reading)}</span>'
    return f'<td class="sign" data-label="{model}"{text_attributes(language)}>{mark} {_answer(reading)}</td>'


def _batch_losses(entries: Sequence[_Entry], curves: Mapping[str, Curve]) -> str:
    """Return a section for each curve of several edits (``first..last``) that one descent made."""
    ids = {entry.id for entry in entries}
    sections = ""
    for name, curve in curves.items():
        if ".." in name and name not in ids:
            sections += f"<section><h2>The loss of the batch {_text(name)}</h2>{_chart(curve)}</section>"
    return sections


def _losses(entry: _Entry) -> str:
    """Return the loss curve of an edit, or what the patch's record says of the losses."""
    if entry.curve:
        return f"<div><h3>Loss, step by step</h3>{_chart(entry.curve)}</div>"
    if {"loss_before", "loss_after", "steps"} <= entry.record.keys():
        record = entry.record
        ends = f"{record['loss_before']:.4g} → {record['loss_after']:.4g} in {record['steps']} steps"
        return f'<div><h3>Loss</h3><p class="soft">{ends}; the steps in between were not saved.</p></div>'
    return '<div><h3>Loss</h3><p class="soft">This method reports no separate loss for this edit.</p></div>'


def _chart(curve: Curve) -> str:
    """Return the objective at every evaluation, with its terms if they are known."""
    lines = {"objective": [(float(step.step), step.loss) for step in curve]}
    for field, name in (("nll", "nll of the target"), ("kl", "kl, unweighted")):
        points = []
        for step in curve:
            value = getattr(step, field)
            if value is not None:
                points.append((float(step.step), value))
        if points:
            lines[name] = points
    ends = f"from {curve[0].loss:.4g} to {curve[-1].loss:.4g} nats in {len(curve)} evaluations"
    chart = line_chart(lines, title=f"The loss goes {ends}", x_label="evaluation", y_label="nats")
    return f'{chart}<p class="soft small">{ends}</p>'


def _sizes(entry: _Entry) -> str:
    """Return the sizes of the weights' changes by an edit, or that they are not known."""
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
    heading = number_of(count, "statement")
    if count > _DRAWN_STATEMENTS:
        heading = f"{_DRAWN_STATEMENTS} of {count} statements"
    title = one_line(f"The statements of the graph around: {entry.rewrite.probe.prompt}")
    shown = svg.nearest(entry.graph, _DRAWN_STATEMENTS)
    picture = svg.inline_svg(shown, title=title, most=_DRAWN_STATEMENTS)
    drawing = f'{_SUBGRAPH_LEGEND}<div class="drawing">{picture}</div>'
    return f"<div><h3>Subgraph: {heading}</h3>{drawing}{_messages(entry)}{_statement_list(shown)}</div>"


def _messages(entry: _Entry) -> str:
    """Return how much of the subject's vector the graph's messages made, if the patch's record says so (GLAME)."""
    shares = entry.record.get("share_by_messages")
    if not shares:
        return ""
    layers = ", ".join(f"layer {number}: {share:.0%}" for number, share in enumerate(shares, start=1))
    return (
        f'<p class="soft small">Part of the subject\'s vector that comes by messages of the graph (W<sub>1</sub> in '
        f"Eq. 5), {layers}. The rest comes from the subject itself (W<sub>2</sub> z<sub>s</sub>).</p>"
    )


def _further_facts(entry: _Entry) -> str:
    """Return the facts of the subgraph that were edited in beside the edit, as by ROME-KG; "" if there are none."""
    facts = [request["edit"] for request in entry.record.get("requests", ())]
    if not facts:
        return ""
    items = ""
    for fact in facts:
        text = _text(fact["prompt"].replace("{}", fact["subject"]))
        target = _text(fact["target_new"])
        items += f'<li dir="auto">{text} <span class="target">{target}</span></li>'
    title = f"Also edited: {number_of(len(facts), 'fact')} of the subgraph"
    return f'<div><h3>{title}</h3><ul class="small">{items}</ul></div>'


def _statement_list(graph: nx.MultiDiGraph) -> str:
    """Return the statements that are drawn as a list, those of one subject together."""
    shown = with_old_edge(graph)
    by_subject = dict[str, list[str]]()
    for subject, target, data in shown.edges(data=True):
        css_class = {"edit": "target", "old": "old"}.get(data.get("role", ""), "")
        name = _text(str(shown.nodes[target].get("label", target)))
        relation = _text(str(data.get("label", "")))
        rule = ""
        if "rule" in data:
            rule = f' <span class="soft">follows by {_text(data["rule"])}</span>'
        statement = f'<dd dir="auto">{relation} <span class="{css_class}">{name}</span>{rule}</dd>'
        by_subject.setdefault(subject, []).append(statement)
    groups = ""
    for subject, statements in by_subject.items():
        name = _text(str(shown.nodes[subject].get("label", subject)))
        groups += f'<dt dir="auto">{name}</dt>{"".join(statements)}'
    return f'<dl class="statements">{groups}</dl>'


def _fact(row: ReportRow) -> str:
    """Return a prompt with its target: "The capital of Japan is → Tokyo"."""
    prompt = _text(row.probe.prompt)
    target = _text(row.probe.wanted)
    arrow = '<span class="arrow">→</span>'
    attributes = text_attributes(row.probe.language)
    return f'<span{attributes}>{prompt}</span> {arrow} <span class="target"{attributes}>{target}</span>'


def _answer(reading: Reading) -> str:
    return _text(reading.text) or '<span class="soft">(nothing)</span>'


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _text(text: str) -> str:
    """Return an external text on one line, escaped."""
    return escape(one_line(text).strip())
