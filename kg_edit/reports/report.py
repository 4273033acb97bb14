"""Report what a patch changed: ask the unedited and the edited model, and put the answers into tables.

`kg_edit.reports.report_page` shows the same as an HTML page, with pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kg_common.terminal import number_of
from kg_edit.reports.differences import PromptDifference, difference_markdown
from kg_edit.reports.rows import LINE_BREAK, Reading, ReportProbe, ReportRow
from kg_edit.reports.verdict import Verdict
from kg_edit.reports.walks import walk_markdown
from kg_edit.storage.frames import frame_of
from kg_edit.text.display import escaped_markdown, markdown_row, one_line

if TYPE_CHECKING:
    import pandas as pd

    from kg_edit.patches.base import Patch


class BeforeAfter(tuple[ReportRow, ...]):
    """The rows of `before_and_after`, one for each prompt of each edit; a notebook shows them as a table."""

    def __repr__(self) -> str:
        return f"BeforeAfter({number_of(len(self), 'prompt')}: {Verdict.of(self).counted})"

    def _repr_markdown_(self) -> str:
        return "\n".join(_table(self))

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas.DataFrame with one row per prompt.

        Columns: edit, kind, prompt, target; for both models the generated text, whether it succeeds, whether the target
        is more likely than the other object (``right``), and the target's nats per token (see `Reading`).

        Raises:
            ConfigError: pandas is not installed.
        """
        rows = []
        for row in self:
            cells: dict[str, object] = {
                "edit": row.edit,
                "kind": label(row.probe),
                "prompt": row.probe.prompt,
                "target": row.probe.wanted,
            }
            for name, reading in (("unedited", row.unedited), ("edited", row.edited)):
                cells[name] = reading.text
                cells[f"{name} success"] = reading.success
                cells[f"{name} right"] = reading.right
                cells[f"{name} nats"] = reading.nats
            rows.append(cells)
        return frame_of(rows)


_HEADER = ("", "prompt", "target", "unedited", "edited", "nats/token")
_SHORT_HEADER = ("", "prompt → target", "unedited", "edited", "nats")
_COLOURS = {"✓": "green", "~": "yellow", "✗": "red"}


def terminal_table(rows: Sequence[ReportRow]) -> Table:
    """Return the rows as a table for a rich console, with a line between edits; usual words fit into 80 columns."""
    table = Table(title="unedited → edited", caption=note(rows), caption_justify="left", box=SIMPLE_HEAD)
    table.show_edge = False
    table.padding = (0, 1, 0, 0)
    for name in _SHORT_HEADER:
        table.add_column(name, no_wrap=name == "nats", overflow="fold")
    for index, row in enumerate(rows):
        is_last_of_edit = index + 1 == len(rows) or rows[index + 1].edit != row.edit
        kind, prompt, target, unedited, edited, nats = _cells(row)
        table.add_row(
            Text(kind),
            Text(f"{prompt} → {target}"),
            Text(unedited),
            Text(edited, style=_COLOURS[sign(row.edited)]),
            nats,
            end_section=is_last_of_edit,  # draws a line
        )
    return table


def headline(patch: Patch) -> str:
    """Return a line about what was done: "3 edits of smollm2-135m by rome"."""
    methods = ", ".join(sorted({str(edit["method"]) for edit in patch.provenance["edits"]}))
    count = number_of(len(patch.provenance["edits"]), "edit")
    return one_line(f"{count} of {patch.provenance['model']['name']} by {methods}")


def markdown(
    rows: Sequence[ReportRow],
    patch: Patch,
    verdict: Verdict | None = None,
    differences: Sequence[PromptDifference] = (),
) -> str:
    """Return the report as Markdown, with `headline` as its title.

    Args:
        rows: the rows of the report.
        patch: the change.
        verdict: the verdict; by default that of the rows alone.
        differences: the locality prompts and the unrelated prompts, as both models answered them.
    """
    verdict = verdict or Verdict.of(rows)
    lines = [f"# {escaped_markdown(headline(patch))}", "", f"**{escaped_markdown(one_line(str(verdict)))}**", ""]
    if verdict.remarks:
        lines += [f"- {escaped_markdown(one_line(line))}" for line in verdict.remarks]
        lines.append("")
    if verdict.commands:
        commands = [one_line(command) for command in verdict.commands]
        lines += ["```", *commands, "```", ""]
    lines += [escaped_markdown(patch.summary), ""]
    lines += [*_table(rows), "", escaped_markdown(note(rows)), ""]
    lines += _list_walks(rows)
    if differences:
        some_in_chat = any(row.probe.chat for row in rows)
        lines.append(difference_markdown(differences, name_forms=some_in_chat))
    return "\n".join(lines)


def _table(rows: Sequence[ReportRow]) -> list[str]:
    """Return the lines of the Markdown table."""
    lines = [markdown_row(_HEADER), "|---" * len(_HEADER) + "|"]
    for row in rows:
        lines.append(markdown_row([escaped_markdown(cell) for cell in _cells(row)]))
    return lines


def _list_walks(rows: Sequence[ReportRow]) -> list[str]:
    """Return the lines of the section that shows the walk of each answer; [] if the patch makes no walks."""
    items = []
    for row in rows:
        if row.edited.walk is not None:
            items.append(walk_markdown(row.probe.prompt, row.edited.text, row.edited.walk))
    if not items:
        return []
    return ["## Where each answer comes from", "", *items, ""]


def note(rows: Sequence[ReportRow]) -> str:
    """Return the explanation of the signs and the nats in a report of these rows."""
    kinds = {row.probe.kind for row in rows}
    parts = ["✓ begins with the target and prefers it to the other object; ~ only one of the two; ✗ neither."]
    if "portability" in kinds:
        parts.append("Portability: ✓ mentions the answer.")
    if "locality" in kinds:
        parts.append("In rows of locality the target is the old object.")
    parts.append("nats: cost of the target per token; lower is better.")
    if any(row.probe.prompt.startswith(LINE_BREAK) for row in rows):
        parts.append(f"{LINE_BREAK}: a line break, because this model does not read the first token of a text.")
    if any(row.probe.chat for row in rows):
        parts.append("Chat: asked as a user's turn, where ✓ needs the target in the answer's first sentence.")
    return " ".join(parts)


def label(probe: ReportProbe) -> str:
    """Return a probe's kind, and "chat" if it is asked as a user's turn."""
    if probe.chat:
        return f"{probe.kind}, chat"
    return probe.kind


def _cells(row: ReportRow) -> tuple[str, ...]:
    """Return the cells of a row, by `_HEADER`."""
    cells = (
        label(row.probe),
        row.probe.prompt,
        row.probe.wanted,
        f"{sign(row.unedited)} {row.unedited.text}",
        f"{sign(row.edited)} {row.edited.text}",
        f"{row.unedited.nats:.1f} → {row.edited.nats:.1f}",
    )
    return tuple(one_line(cell).strip() for cell in cells)


def sign(reading: Reading) -> str:
    """Return ✓, ~ or ✗, as explained in `note`.

    ``~`` only occurs for a probe with another object to compare with; for others, right means success.
    """
    if reading.success and reading.right:
        return "✓"
    if reading.success or reading.right:
        return "~"
    return "✗"
