"""The prompts that both models answered, with their texts: a file of them, and tables of what else an edit changed.

`kg_edit.reports.prompt_comparison` asks them, and says what *unchanged* means. Nothing here needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kg_common.terminal import number_of
from kg_edit.languages import ENGLISH
from kg_edit.patches.walks import ShownWalk
from kg_edit.reports.counts import Count
from kg_edit.reports.prompts import AskedPrompt
from kg_edit.reports.rows import LINE_BREAK
from kg_edit.reports.walks import walk_lines, walk_markdown
from kg_edit.text.display import escaped_markdown, markdown_table, one_line

_HEADER = ("", "prompt", "unedited", "edited", "answer")


class PromptDifference(BaseModel):
    """A prompt with the texts of both models and the probabilities of its answers; a line of ``locality.jsonl``.

    ``walk`` has the statements that `graph-memory` put before the prompt; None without such a patch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    asked: AskedPrompt
    unchanged: bool
    unedited: str
    edited: str
    unedited_probabilities: tuple[float, ...] = ()
    edited_probabilities: tuple[float, ...] = ()
    walk: ShownWalk | None = Field(None, exclude_if=lambda walk: walk is None)

    @property
    def verdict(self) -> str:
        """In words: unchanged, changed, or no answer."""
        if not self.answered:
            return "no answer"
        if self.unchanged:
            return "unchanged"
        return "changed"

    @property
    def answered(self) -> bool:
        """Whether a model writes something; where both end their text at once there is nothing to compare."""
        return bool(self.unedited or self.edited)

    @property
    def probabilities(self) -> tuple[str, ...]:
        """Each answer with its probability on the unedited and on the edited model: "Rome 0.91 → 0.12"."""
        pairs = zip(self.asked.answer, self.unedited_probabilities, self.edited_probabilities, strict=True)
        return tuple(f"{name} {old:.2f} → {new:.2f}" for name, old, new in pairs)


def read_differences(path: Path) -> tuple[PromptDifference, ...]:
    """Return the prompts of a ``locality.jsonl``; () if there is none, or it can't be read."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return tuple(PromptDifference.model_validate_json(line) for line in lines if line)
    except (OSError, ValueError, ValidationError):
        return ()


def count_in_words(differences: Sequence[PromptDifference], *, name_forms: bool = False) -> str:
    """Return how many prompts are unchanged, those of the edits apart from others.

    For example: "1 of 2 locality prompts, 28 of 30 unrelated prompts unchanged". Prompts that neither model answers are
    counted apart; if there are no others, theirs is the only count. The form in which the prompts were asked is named
    if one was asked in chat form, or if ``name_forms`` is set.
    """
    name_forms = name_forms or any(row.asked.chat for row in differences)
    by_name: dict[str, list[bool]] = {}  # for each answered prompt whether it is unchanged
    silent = []
    for row in differences:
        if not row.answered:
            silent.append(row)
            continue
        name = group_name(row)
        if name_forms and row.asked.chat:
            name += " in chat form"
        elif name_forms:
            name += " in plain text"
        by_name.setdefault(name, []).append(row.unchanged)
    parts = []
    if by_name:
        counts = [f"{sum(flags)} of {len(flags)} {name}" for name, flags in by_name.items()]
        parts.append(f"{', '.join(counts)} unchanged")
    if silent:
        parts.append(f"{number_of(len(silent), 'prompt')} without an answer: both models end their text at once")
        if any(not row.asked.chat for row in silent):
            parts.append("in chat form (--chat) a question may get one")
    return "; ".join(parts)


def difference_table(differences: Sequence[PromptDifference]) -> Table:
    """Return the prompts as a table for a rich console: the texts of both models side by side."""
    meaning = "unchanged: the edited text gives the unedited model's answer, or begins with the same tokens."
    table = Table(title="What else changed?", caption=meaning, caption_justify="left", box=SIMPLE_HEAD)
    table.show_edge = False
    table.padding = (0, 1, 0, 0)
    has_answers = any(row.asked.answer for row in differences)
    for name in _HEADER:
        if name != "answer" or has_answers:
            table.add_column(name, overflow="fold")
    for row in differences:
        colour = {"unchanged": "green", "changed": "red", "no answer": "yellow"}[row.verdict]
        cells = [
            Text(row.verdict, style=colour),
            Text(_show(row.asked.prompt)),
            Text(_show_answer(row.unedited)),
            Text(_show_answer(row.edited), style=colour),
        ]
        if has_answers:
            cells.append(Text("\n".join(_show(text) for text in row.probabilities)))
        table.add_row(*cells)
    return table


def difference_markdown(differences: Sequence[PromptDifference], *, name_forms: bool = False) -> str:
    """Return the prompts as a section of Markdown that begins with `count_in_words`, which takes ``name_forms``."""
    rows = []
    for row in differences:
        prompt = _show(row.asked.prompt)
        probabilities = "; ".join(row.probabilities)
        cells = (row.verdict, prompt, _show_answer(row.unedited), _show_answer(row.edited), probabilities)
        rows.append([escaped_markdown(one_line(cell)) for cell in cells])
    table = markdown_table(_HEADER, rows)
    section = f"## What else changed?\n\n{count_in_words(differences, name_forms=name_forms)}\n\n{table}\n"
    walked = [walk_markdown(row.asked.prompt, row.edited, row.walk) for row in differences if row.walk]
    if walked:
        section += "\nOf these prompts, the following got statements of the graph:\n\n" + "\n".join(walked) + "\n"
    return section


def difference_rows(differences: Sequence[PromptDifference]) -> str:
    """Return the head and the body of an HTML table of the prompts."""
    lines = []
    for row in differences:
        kind = {"unchanged": "good", "changed": "bad", "no answer": "warn"}[row.verdict]
        written = text_attributes(row.asked.language)
        prompt = escape(_show(row.asked.prompt))
        unedited = escape(_show_answer(row.unedited))
        edited = escape(_show_answer(row.edited))
        if row.walk:
            lines_of_walk = "<br>".join(escape(_show(line)) for line in walk_lines(row.walk))
            edited += f'<div class="soft small">{lines_of_walk}</div>'
        answers = "<br>".join(escape(_show(text)) for text in row.probabilities)
        lines.append(
            f'<tr><td><span class="{kind}">{row.verdict}</span></td><td{written}>{prompt}</td>'
            f'<td data-label="unedited"{written}>{unedited}</td><td data-label="edited"{written}>{edited}</td>'
            f'<td data-label="answer"{written}>{answers}</td></tr>'
        )
    heads = "".join(f'<th scope="col">{name}</th>' for name in _HEADER)
    return f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"


def text_attributes(language: str) -> str:
    """Return the HTML attributes of an element with a text: its direction, and its language if it is not the page's.

    A browser chooses the font of Chinese characters by the language.
    """
    if language == ENGLISH:
        return ' dir="auto"'
    return f' dir="auto" lang="{escape(language)}"'


def difference_page(differences: Sequence[PromptDifference], *, title: str) -> str:
    """Return a self-contained HTML page of the prompts."""
    parts = {
        "TITLE": escape(title),
        "STYLE": page_file("report.css"),
        "VERDICT": count_in_words(differences),
        "TABLE": difference_rows(differences),
    }
    return fill_template("differences.html", parts)


def page_file(name: str) -> str:
    """Return the text of a file in ``kg_edit/reports/page``."""
    return (files("kg_edit") / "reports" / "page" / name).read_text(encoding="utf-8")


def fill_template(template: str, parts: Mapping[str, str]) -> str:
    """Return a template of `page_file` with ``parts`` in the place of ``@@NAME@@``."""
    # In one pass, so that a placeholder within a text that was put in is not replaced.
    return re.sub("@@([A-Z]+)@@", lambda match: parts[match[1]], page_file(template))


def _show(text: str) -> str:
    """Return a text on one line, with a sign for each line break."""
    return one_line(text.replace("\n", f"{LINE_BREAK} ")).strip()


def _show_answer(text: str) -> str:
    return _show(text) or "(nothing)"


def count_unchanged(differences: Sequence[PromptDifference]) -> dict[str, Count]:
    """Count the prompts that should not change, by `group_name`; those that are unchanged count as ``edited``.

    Prompts that neither model answers are not counted.
    """
    flags = dict[str, list[bool]]()
    for row in differences:
        if row.answered:
            flags.setdefault(group_name(row), []).append(row.unchanged)
    counts = {}
    for name, group in flags.items():
        counts[name] = Count(prompts=len(group), unedited=len(group), edited=sum(group))
    return counts


def group_name(difference: PromptDifference) -> str:
    """Return the name under which a prompt is counted: those of edits, of a file, or unrelated ones."""
    names = {"edit": "locality prompts", "file": "prompts"}
    return names.get(difference.asked.source, "unrelated prompts")
