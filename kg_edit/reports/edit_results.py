"""What became of each edit of a run: its own prompts, judged by the texts that the edited model generates.

`EditResult` is the result of one edit, or of one prompt. `judge_prompt` makes it from a row of the report;
`judge_edits` makes those of all edits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.reports.counts import Count, count_rows
from kg_edit.reports.rows import ReportRow, find_worst

LONG = 12  # tokens of a target above which one value rarely suffices (docs/limits.md)


class EditResult(BaseModel):
    """What became of one edit. That of a paraphrase or a neighborhood prompt is an `EditResult`, too.

    Attributes:
        edit: the edit's id.
        prompt: its prompt.
        target: what the model should generate after it.
        generated: what the edited model generates.
        succeeded: whether that begins with the target; of a neighborhood prompt, what `judge_neighbor` says.
        likelier: whether the target is more likely than the old object.
        known: whether the unedited model generates the target, so that there was nothing to edit.
        tokens: the number of the target's tokens; None: not counted.
        alone: of a failed edit, whether it succeeds when it is made alone; None: it was not tried.
        counts: how many of its paraphrases, questions and neighborhood prompts are right, by kind.
        subject: its subject.
        paragraph: whether the target is a ``target_text``.
        both: whether the edit is made in plain text and in chat form; the other attributes are then those of the form
            with the worse result (`rows.find_worst`).
        chat: whether the prompt is asked in chat form.
    """

    model_config = ConfigDict(frozen=True)

    edit: str
    prompt: str
    target: str
    generated: str
    succeeded: bool
    likelier: bool
    known: bool
    tokens: int | None = None
    alone: bool | None = None
    counts: dict[str, Count] = {}
    # Not in report.json: these are for the advice, whose lines are there
    subject: str = Field("", exclude=True)
    paragraph: bool = Field(False, exclude=True)
    both: bool = Field(False, exclude=True)
    chat: bool = Field(False, exclude=True)

    @property
    def is_long(self) -> bool:
        """Whether the target has more tokens than one value usually suffices for; false if they were not counted."""
        return self.tokens is not None and self.tokens > LONG

    @property
    def is_spoiled(self) -> bool:
        """Whether the edit fails, and succeeds when it is made alone: the other edits of the run spoil it."""
        return not self.succeeded and bool(self.alone)


@dataclass(frozen=True, kw_only=True)
class EditDetails:
    """What a run knows of an edit besides the rows of its report: the attributes of `EditResult` with these names."""

    subject: str = ""
    tokens: int | None = None
    alone: bool | None = None


def judge_edits(rows: Sequence[ReportRow], details: Mapping[str, EditDetails]) -> tuple[EditResult, ...]:
    """Return the results of the edits' own prompts; ``details`` are by the edits' ids."""
    rows_by_edit = dict[str, list[ReportRow]]()
    for row in rows:
        rows_by_edit.setdefault(row.edit, []).append(row)
    edits = []
    for name, rows_of_edit in rows_by_edit.items():
        own_rows = [row for row in rows_of_edit if row.probe.kind == "rewrite"]
        if not own_rows:
            continue
        result = _judge_forms(own_rows)
        detail = details.get(name, EditDetails())
        further = {"subject": detail.subject, "tokens": detail.tokens, "counts": count_rows(rows_of_edit)}
        if not result.succeeded:
            further["alone"] = detail.alone
        edits.append(result.model_copy(update=further))
    return tuple(edits)


def judge_prompt(row: ReportRow) -> EditResult:
    """Return what became of one prompt."""
    return EditResult(
        edit=row.edit,
        prompt=row.probe.prompt,
        target=row.probe.wanted,
        generated=row.edited.text,
        succeeded=row.edited.success,
        likelier=row.edited.right,
        known=row.unedited.success,
        paragraph=row.probe.several_lines,
        chat=row.probe.chat,
    )


def judge_neighbor(row: ReportRow) -> EditResult:
    """Return what became of a neighborhood prompt, whose target is the old object.

    It succeeds unless the unedited model generates or prefers the old object and the edited model does not.
    """
    stopped_generating = row.unedited.success and not row.edited.success
    stopped_preferring = row.unedited.right and not row.edited.right
    return judge_prompt(row).model_copy(update={"succeeded": not stopped_generating and not stopped_preferring})


def _judge_forms(own_rows: Sequence[ReportRow]) -> EditResult:
    """Return the one result of an edit: the worse one, if it is made in both forms and so has two rows."""
    result = judge_prompt(find_worst(own_rows))
    is_known = all(row.unedited.success for row in own_rows)
    return result.model_copy(update={"both": len(own_rows) > 1, "known": is_known})
