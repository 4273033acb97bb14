"""A user's own edits as a data set: the files that `kg-edit edit` reads, read in the same way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kg_edit.datasets.building import built, probe, without_null
from kg_edit.datasets.reading import Dataset, FileContent, Problem, RawRecord
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import LabelSource, read_rows, unit_of
from kg_edit.edits.rows import to_edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.storage.packaged import HUB

OWN = "edits"


def record_of(edit: Edit) -> BenchmarkRecord:
    """Return the record of an edit; its locality prompts that have an answer become probes."""
    asked = [probe("locality", one.prompt, (one.names,), form="sentence") for one in edit.locality if one.names]
    return built(edit.id, [edit], [query for some in asked for query in some], form=OWN)


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
    measures=("locality",),
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases", "neighborhood", "questions"),
    precedence=-1,  # a benchmark's rows may look like edits
)
