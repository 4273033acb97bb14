"""How many prompts of a report are right before and after: the numbers of the verdict, report.json and the page."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from kg_edit.reports.rows import ProbeKind, ReportRow

COUNTED: dict[ProbeKind, str] = {"paraphrase": "paraphrases", "portability": "portability", "locality": "locality"}


class Count(BaseModel):
    """How many of some prompts are right with the unedited and with the edited model.

    Of prompts that should not change, ``edited`` is how many are unchanged, and ``unedited`` is all of them.
    """

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
    """Count the rows of each kind but the edits' own prompts, by the names of `COUNTED`; an empty kind is left out."""
    counts = {}
    for kind, name in COUNTED.items():
        matching = [row for row in rows if row.probe.kind == kind]
        if matching:
            unedited = sum(row.unedited.right for row in matching)
            edited = sum(row.edited.right for row in matching)
            counts[name] = Count(prompts=len(matching), unedited=unedited, edited=edited)
    return counts
