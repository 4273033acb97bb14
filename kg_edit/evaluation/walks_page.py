"""The page of a run with `graph-memory`: from which statements each answer of the edited model comes."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from kg_common.terminal import number_of
from kg_edit.evaluation.records import EDITED, Entry
from kg_edit.patches.walks import ShownWalk
from kg_edit.reports.differences import fill_template, page_file
from kg_edit.reports.walks import WALK_LEGEND, walk_html
from kg_edit.text.display import one_line
from wikidata_cache.view import svg

WALKS = "walks.html"
_MOST = 500  # answers on the page: with a picture each, more would make a page of megabytes


def walks_page(entries: Iterable[Entry]) -> str | None:
    """Return the page of a run's phases; None if no walk was made.

    It has the first `_MOST` answers that got statements, and counts the others.
    """
    asked = 0
    shown = list[str]()
    walked = 0
    for entry in entries:
        if entry.phase != EDITED or EDITED not in entry.sections:
            continue
        section = entry.sections[EDITED]
        if section.texts and not section.walks:  # the method makes no walks, for this record as for all others
            return None
        asked += len(section.walks)
        for prompt, walk in section.walks.items():
            if not walk:
                continue
            walked += 1
            if walked <= _MOST:
                shown.append(_show(entry.id, prompt, section.texts[prompt], walk))
    if not asked:
        return None
    count = f"{walked} of {number_of(asked, 'answer')} of the edited model got statements of the graph"
    if walked > _MOST:
        count += f"; the first {_MOST} are shown"
    others = "The other prompts name no edited thing, or ask for nothing that an edit changes. They stay as they are."
    parts = {
        "STYLE": page_file("report.css") + svg.STYLE,
        "VERDICT": count,
        "TITLE": others,
        "LEGEND": WALK_LEGEND,
        "ANSWERS": "\n".join(shown),
    }
    return fill_template("walks.html", parts)


def _show(record: str, prompt: str, answer: str, walk: ShownWalk) -> str:
    """Return a prompt with its answer, and its walk as a picture and as a list."""
    question = escape(one_line(prompt))
    name = f'<span class="soft small">{escape(one_line(record))}</span>'
    title = f"The statements that lead to the answer of: {prompt}"
    return f'<p dir="auto">{question} <b>{escape(one_line(answer))}</b> {name}</p>{walk_html(walk, title=title)}'
