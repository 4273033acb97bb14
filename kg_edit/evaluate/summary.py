"""What a run comes to: means with intervals, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kg_edit.errors import OutputError
from kg_edit.evaluate.curve import CurvePoint
from kg_edit.evaluate.records import RunRecord
from kg_edit.evaluate.statistics import Estimate, counts, estimates, metric_names
from kg_edit.storage.atomic import write_json

Estimates = dict[str, Estimate]
JUST_EDITED = "just_edited"


class Summary(BaseModel):
    """The file ``summary.json``: for each metric its mean over those of the ``n`` records that have it.

    ``provenance`` holds the run's settings, how many records ``failed`` (those whose edit could not be made are scored
    on the model as it was without it, and part of the means), and ``counts``: for each section and metric the records
    behind its mean. The two ceilings are the unedited model's, with the edited fact (and the relation that leads to
    the answer) told before the question; None where they were not asked for. Where edits accumulate, ``just_edited``
    is right after a record's own edit, ``edited`` after all of its sequence, and ``curve`` the way between; a curve
    is there as well where general ability was asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    base: Estimates
    just_edited: Estimates | None = None
    edited: Estimates
    fact_in_prompt: Estimates | None = None
    fact_and_relation_in_prompt: Estimates | None = None
    curve: tuple[CurvePoint, ...] | None = None
    seconds_per_edit: float | None
    provenance: dict[str, Any]

    @property
    def sections(self) -> dict[str, Estimates]:
        """The sections that are there, by name."""
        found = {name: getattr(self, name) for name in SECTIONS}
        return {name: section for name, section in found.items() if section is not None}

    def save(self, path: Path) -> Path:
        """Write the summary as JSON, atomically."""
        absent = {name for name in ("curve", *SECTIONS) if getattr(self, name) is None}
        return write_json(path, self.model_dump(mode="json", exclude=absent))

    @classmethod
    def load(cls, path: Path) -> Summary:
        """Read what `save` wrote.

        Raises:
            OutputError: the file can't be read, or is no summary.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise OutputError(f"can't read the summary {path}: {error}; finish the run that writes it") from error


CEILINGS = ("fact_in_prompt", "fact_and_relation_in_prompt")
SECTIONS = ("base", JUST_EDITED, "edited", *CEILINGS)


def summarise(
    records: Sequence[RunRecord],
    *,
    sections: Sequence[str],
    seed: int,
    provenance: Mapping[str, Any],
    curve: tuple[CurvePoint, ...] | None = None,
) -> Summary:
    """The means of ``sections`` over the records; a section that a record lacks is missing there."""
    rows = {name: [record.scores.get(name, {}) for record in records] for name in sections}
    metrics = {name: metric_names(found) for name, found in rows.items()}
    seconds = [record.seconds for record in records if record.seconds is not None]
    return Summary(
        n=len(records),
        seconds_per_edit=fmean(seconds) if seconds else None,
        curve=curve,
        provenance={
            **provenance,
            "failed": sum(record.error is not None for record in records),
            "counts": {name: counts(rows[name], names=metrics[name]) for name in rows},
        },
        **{name: estimates(rows[name], names=metrics[name], seed=seed) for name in rows},
    )
