"""What a run comes to: means with intervals, before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kg_edit.errors import OutputError
from kg_edit.evaluate.bootstrap import Estimate, counts, estimates
from kg_edit.evaluate.metrics import METRICS, PORTABILITY
from kg_edit.evaluate.records import RunRecord
from kg_edit.files import write_json

Estimates = dict[str, Estimate]


class Summary(BaseModel):
    """The file ``summary.json``: for each metric its mean over those of the ``n`` records that have it.

    ``provenance`` holds the run's settings, how many edits ``failed`` (scored as the unedited model, and part of the
    means), and ``counts``: for each section and metric the records behind its mean.
    The two ceilings are the unedited model's, with the edited fact (and the relation that leads to the answer) told
    before the question; None where they were not asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    base: Estimates
    edited: Estimates
    fact_in_prompt: Estimates | None = None
    fact_and_relation_in_prompt: Estimates | None = None
    seconds_per_edit: float | None
    provenance: dict[str, Any]

    @property
    def sections(self) -> dict[str, Estimates]:
        """The sections that are there, by name."""
        found = {name: getattr(self, name) for name in SECTIONS}
        return {name: section for name, section in found.items() if section is not None}

    def save(self, path: Path) -> Path:
        """Write the summary as JSON, atomically."""
        absent = set(SECTIONS) - set(self.sections)
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


SECTIONS: Mapping[str, Iterable[str]] = {
    "base": METRICS,
    "edited": METRICS,
    "fact_in_prompt": PORTABILITY,
    "fact_and_relation_in_prompt": PORTABILITY,
}


def summarise(
    records: Iterable[RunRecord], *, sections: Iterable[str], seed: int, provenance: Mapping[str, Any]
) -> Summary:
    """The means of ``sections`` over the records; a section that a record lacks is missing there."""
    found = list(records)
    rows = {name: [_scores(record, name) for record in found] for name in sections}
    metrics = {name: tuple(SECTIONS[name]) for name in rows}
    seconds = [record.seconds for record in found if record.seconds is not None]
    return Summary(
        n=len(found),
        seconds_per_edit=fmean(seconds) if seconds else None,
        provenance={
            **provenance,
            "failed": sum(record.error is not None for record in found),
            "counts": {name: counts(rows[name], names=metrics[name]) for name in rows},
        },
        **{name: estimates(rows[name], names=metrics[name], seed=seed) for name in rows},
    )


def _scores(record: RunRecord, name: str) -> Mapping[str, float | None]:
    section = record.sections.get(name)
    return section.scores if section else {}
