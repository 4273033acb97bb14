"""A user's own edits as a data set: the files that `kg-edit edit` reads, read in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg_edit.datasets.building import built, without_null
from kg_edit.datasets.reading import Dataset, FileContent, Problem, RawRecord
from kg_edit.datasets.record import BenchmarkRecord, Probe, Query
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import LabelSource, read_rows, unit_of
from kg_edit.edits.rows import to_edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.storage.packaged import HUB

OWN = "edits"


def record_of(edit: Edit) -> BenchmarkRecord:
    """Return the record of an edit; its locality prompts become probes, in a group of their own without an answer."""
    probes = [
        Probe(
            measures="locality" if one.names else "locality-text",
            queries=(Query(prompt=one.prompt, answers=(one.names,) if one.names else (), form="sentence"),),
        )
        for one in edit.locality
    ]
    return built(edit.id, [edit], probes, form=OWN)


def parse(row: RawRecord, name: str) -> BenchmarkRecord:
    """Parse an edit or a triplet as a record.

    Raises:
        EditError: a field is wrong; the message names it.
    """
    return record_of(to_edit(without_null(row), row_id=name, labels={}, templates=RelationTemplates.load()))


@dataclass(frozen=True, kw_only=True)
class OwnEdits(Dataset):
    """The data set of own edits, in JSON lines, JSON, CSV or TSV."""

    def read(self, path: Path, *, limit: int | None = None, labels: LabelSource | None = None) -> FileContent:
        """Read a file as `kg-edit edit` does; rows of a hub's data set are parsed one by one.

        Raises:
            EditFileError: the file can't be read, or has no rows.
        """
        if str(path).startswith(HUB):
            return super().read(path, limit=limit)
        file = read_rows(path, labels=labels, allow_conflicts=True, limit=limit)
        unit = unit_of(path)
        problems = (Problem(path, row, f"row-{row}", fault, unit) for _, row, fault in file.problems)
        return FileContent(tuple(map(record_of, file.edits)), tuple(problems))


OWN_EDITS = OwnEdits(
    name=OWN,
    about="your own edits, as `kg-edit edit` takes them: JSON lines, JSON, CSV or TSV",
    measures=("locality", "locality-text"),
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases", "neighborhood", "questions"),
    precedence=-1,  # a benchmark's rows may look like edits
)
