"""Report what an edit run changed: the verdict, a table for the terminal, and Markdown.

`kg_edit.reports.report_page` shows the same as an HTML page, with pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kg_edit.patches.base import Patch
from kg_edit.reports.probes import Reading, ReportProbe, ReportRow
from kg_edit.text.display import escaped_markdown, markdown_row, one_line

_NAMED = 10  # failed edits that a verdict names, at most
_LONG = 100  # characters of a text in a verdict; the table has all of it


@dataclass(frozen=True)
class Verdict:
    """The edits that succeeded and those that failed: "4 of 5 edits succeeded; 1 failed: row-3 (…)"."""

    succeeded: tuple[ReportRow, ...]
    failed: tuple[ReportRow, ...]

    @classmethod
    def of(cls, rows: Sequence[ReportRow]) -> Verdict:
        """Return the verdict over the edits' own prompts among ``rows``."""
        own = [row for row in rows if row.probe.kind == "rewrite"]
        return cls(tuple(row for row in own if row.edited.success), tuple(row for row in own if not row.edited.success))

    @property
    def counted(self) -> str:
        """Return the verdict without the failed edits."""
        return f"{len(self.succeeded)} of {len(self.succeeded) + len(self.failed)} edits succeeded"

    def __str__(self) -> str:
        if not self.failed:
            return self.counted
        named = []
        for row in self.failed[:_NAMED]:
            texts = (row.probe.prompt, row.probe.wanted, row.edited.text)
            prompt, target, text = (text if len(text) <= _LONG else f"{text[: _LONG - 1]}…" for text in texts)
            likelier = ", though the target is more likely than the old one" if row.edited.right else ""
            named.append(f"{row.edit} ({prompt!r}: target {target!r}, generated {text!r}{likelier})")
        more = f"; and {len(self.failed) - _NAMED} more" if len(self.failed) > _NAMED else ""
        return f"{self.counted}; {len(self.failed)} failed: {'; '.join(named)}{more}"


_HEADER = ("", "prompt", "target", "unedited", "edited", "nats/token")
_SHORT_HEADER = ("", "prompt → target", "unedited", "edited", "nats")
_COLOURS = {"✓": "green", "~": "yellow", "✗": "red"}
_NOTE = (
    "✓: the generated text begins with the target, which is also more likely than the other one; for a portability "
    "question, the answer is in the text. ~: the target is more likely than the other one, but is not generated. "
    "✗: anything else. For locality prompts the target is the old object, which must not change. nats/token: the cost "
    "per token of the target, unedited → edited; lower is better."
)
_CHAT_NOTE = " Chat: asked as a user's turn, where ✓ needs the target in the answer's first sentence."


def terminal_table(rows: Sequence[ReportRow]) -> Table:
    """Return the rows as a table for a rich console, with a line between edits; usual words fit into 80 columns."""
    table = Table(title="unedited → edited", caption=note(rows), caption_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.padding = False, (0, 1, 0, 0)
    for name in _SHORT_HEADER:
        table.add_column(name, no_wrap=name == "nats", overflow="fold")
    for index, row in enumerate(rows):
        # A line ends the section of an edit
        last = index + 1 == len(rows) or rows[index + 1].edit != row.edit
        kind, prompt, target, unedited, edited, nats = _cells(row)
        cells = [Text(cell) for cell in (kind, f"{prompt} → {target}", unedited)]
        table.add_row(*cells, Text(edited, style=_COLOURS[sign(row.edited)]), nats, end_section=last)
    return table


def headline(patch: Patch) -> str:
    """Return a line about what was done: "3 edits of smollm2-135m by rome"."""
    methods = ", ".join(sorted({str(edit["method"]) for edit in patch.provenance["edits"]}))
    count = len(patch.provenance["edits"])
    return one_line(f"{count} edit{'s' if count > 1 else ''} of {patch.provenance['model']['name']} by {methods}")


def markdown(rows: Sequence[ReportRow], patch: Patch) -> str:
    """Return the report as Markdown, with `headline` as its title."""
    verdict = f"**{escaped_markdown(one_line(str(Verdict.of(rows))))}**"
    lines = [f"# {escaped_markdown(headline(patch))}", "", verdict, "", escaped_markdown(patch.summary), ""]
    lines += [markdown_row(_HEADER), "|---" * len(_HEADER) + "|"]
    lines += [markdown_row(map(escaped_markdown, _cells(row))) for row in rows]
    return "\n".join([*lines, "", escaped_markdown(note(rows)), ""])


def note(rows: Sequence[ReportRow]) -> str:
    """Return the explanation of the signs and the nats in a report of these rows."""
    return _NOTE + (_CHAT_NOTE if any(row.probe.chat for row in rows) else "")


def label(probe: ReportProbe) -> str:
    """Return a probe's kind, and "chat" if it is asked as a user's turn."""
    return probe.kind + (", chat" if probe.chat else "")


def _cells(row: ReportRow) -> tuple[str, ...]:
    texts = [f"{sign(reading)} {reading.text}" for reading in (row.unedited, row.edited)]
    nats = f"{row.unedited.nats:.1f} → {row.edited.nats:.1f}"
    return tuple(
        one_line(cell).strip() for cell in (label(row.probe), row.probe.prompt, row.probe.wanted, *texts, nats)
    )


def sign(reading: Reading) -> str:
    """Return ✓, ~ or ✗, as explained in `note`.

    ``~`` (more likely, but not generated) only occurs for statements with another target; for other probes, right means
    success.
    """
    if not reading.right:
        return "✗"
    return "✓" if reading.success else "~"
