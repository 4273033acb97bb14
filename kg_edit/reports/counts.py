"""How many prompts of a report are right before and after: the numbers of the verdict, report.json and the page."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from kg_edit.reports.rows import ProbeKind, ReportRow

COUNTED: dict[ProbeKind, str] = {"paraphrase": "paraphrases", "portability": "portability", "locality": "locality"}


class Count(BaseModel):
    """How many of some prompts are right with the unedited and with the edited model."""

    model_config = ConfigDict(frozen=True)

    prompts: int
    unedited: int
    edited: int

    @property
    def fell(self) -> bool:
        """Whether fewer are right with the edited model."""
        return self.edited < self.unedited

    def __str__(self) -> str:
        return f"{self.unedited} → {self.edited} of {self.prompts}"


def count_rows(rows: Sequence[ReportRow]) -> dict[str, Count]:
    """Count the rows of each kind but the edits' own prompts, by the names of `COUNTED`; a kind without rows is out."""
    counts = {}
    for kind, name in COUNTED.items():
        of_kind = [row for row in rows if row.probe.kind == kind]
        if of_kind:
            unedited = sum(row.unedited.right for row in of_kind)
            edited = sum(row.edited.right for row in of_kind)
            counts[name] = Count(prompts=len(of_kind), unedited=unedited, edited=edited)
    return counts
