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
from kg_edit.reports.before_after import Reading, ReportProbe, ReportRow
from kg_edit.text.display import escaped_markdown, markdown_row, one_line

_NAMED = 10  # missed edits that a verdict names, at most
_LONG = 100  # characters of a text in a verdict; the table has all of it


@dataclass(frozen=True)
class Verdict:
    """The edits that the edited model says, and those that it does not: "4 of 5 said; 1 not: row-3 ..."."""

    said: tuple[ReportRow, ...]
    missed: tuple[ReportRow, ...]

    @classmethod
    def of(cls, rows: Sequence[ReportRow]) -> Verdict:
        """The verdict over the edits' own prompts among ``rows``."""
        asked = [row for row in rows if row.probe.kind == "rewrite"]
        said = tuple(row for row in asked if row.after.said)
        return cls(said, tuple(row for row in asked if not row.after.said))

    def __str__(self) -> str:
        counted = f"{len(self.said)} of {len(self.said) + len(self.missed)} said"
        if not self.missed:
            return counted
        named = "; ".join(map(_miss, self.missed[:_NAMED]))
        more = f"; and {len(self.missed) - _NAMED} more" if len(self.missed) > _NAMED else ""
        return f"{counted}; {len(self.missed)} not: {named}{more}"


def _miss(row: ReportRow) -> str:
    likelier = ", though it is likelier than the old target" if row.after.right else ""
    prompt, wanted, said = map(_start, (row.probe.prompt, row.probe.wanted, row.after.text))
    return f"{row.edit} ({prompt!r} should say {wanted!r}, says {said!r}{likelier})"


def _start(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


TITLES = {"rewrite": "rewrite", "paraphrase": "paraphrase", "follows": "what follows", "neighbour": "neighbour"}
_HEADER = ("", "prompt", "should say", "before", "after", "nats/token")
_SHORT_HEADER = ("", "prompt → wanted", "before", "after", "nats")
_COLOURS = {"✓": "green", "~": "yellow", "✗": "red"}
_NOTE = (
    "✓: the text begins with what should be said, which is also more likely than the other target; for what follows, "
    "the answer is in the text. ~: it is more likely than the other target, but not said. ✗: anything else. "
    "nats/token: the cost per token of what should be said, before → after; lower is better."
)
_CHAT_NOTE = " Chat: asked as a user's turn, where ✓ wants it in the answer's first sentence."


def terminal_table(rows: Sequence[ReportRow]) -> Table:
    """The rows as a table for a rich console, with a line between edits; words of usual length fit into 80 columns."""
    table = Table(title="before → after", caption=note(rows), caption_justify="left", box=SIMPLE_HEAD)
    table.show_edge, table.padding = False, (0, 1, 0, 0)
    for name in _SHORT_HEADER:
        table.add_column(name, no_wrap=name == "nats", overflow="fold")
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1].edit != row.edit
        _, prompt, wanted, before, after, nats = _cells(row)
        cells = [row.probe.kind + form(row.probe), f"{prompt} → {wanted}", before, after, nats]
        table.add_row(*map(Text, cells[:3]), Text(after, style=_COLOURS[sign(row.after)]), nats, end_section=last)
    return table


def headline(patch: Patch) -> str:
    """A line about what was done: "3 edits of smollm2-135m by rome"."""
    methods = ", ".join(sorted({str(edit["method"]) for edit in patch.provenance["edits"]}))
    count = len(patch.provenance["edits"])
    return one_line(f"{count} edit{'s' if count > 1 else ''} of {patch.provenance['model']['name']} by {methods}")


def markdown(rows: Sequence[ReportRow], patch: Patch) -> str:
    """The report as Markdown, with `headline` as its title."""
    verdict = f"**{escaped_markdown(one_line(str(Verdict.of(rows))))}**"
    lines = [f"# {escaped_markdown(headline(patch))}", "", verdict, "", escaped_markdown(patch.summary), ""]
    lines += [markdown_row(_HEADER), "|---" * len(_HEADER) + "|"]
    lines += [markdown_row(map(escaped_markdown, _cells(row))) for row in rows]
    return "\n".join([*lines, "", escaped_markdown(note(rows)), ""])


def note(rows: Sequence[ReportRow]) -> str:
    """The explanation of the signs and the nats in a report of these rows."""
    return _NOTE + (_CHAT_NOTE if any(row.probe.chat for row in rows) else "")


def form(probe: ReportProbe) -> str:
    """The text after a probe's kind that says how it is asked."""
    return ", chat" if probe.chat else ""


def _cells(row: ReportRow) -> tuple[str, ...]:
    probe = row.probe
    nats = f"{row.before.nats:.1f} → {row.after.nats:.1f}"
    cells = (TITLES[probe.kind] + form(probe), probe.prompt, probe.wanted, _mark(row.before), _mark(row.after), nats)
    return tuple(one_line(cell).strip() for cell in cells)


def _mark(reading: Reading) -> str:
    return f"{sign(reading)} {reading.text}"


def sign(reading: Reading) -> str:
    """✓, ~ or ✗, as explained in `note`.

    ``~`` (more probable, but not said) only occurs for statements with another target; for other probes, right means
    said.
    """
    if not reading.right:
        return "✗"
    return "✓" if reading.said else "~"
