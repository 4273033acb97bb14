"""The results of `kg-edit edit` and `kg-edit demo`, and a finished run of the same inputs, read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.patches.container import read_provenance
from kg_edit.reports.advice import EDITS, FAILED
from kg_edit.reports.differences import PromptDifference, read_differences
from kg_edit.reports.report import BeforeAfter
from kg_edit.reports.rows import RECORDS, known_rows
from kg_edit.reports.verdict import VERDICT, Verdict
from kg_edit.storage.atomic import write_json
from kg_edit.storage.run_folder import PATCH

REPORT = "report.md"
LOSSES = "losses.jsonl"
PAGE = "report.html"
LOCALITY = "locality.jsonl"
_INPUTS = ".inputs.json"  # what the run in a folder was computed from


@dataclass(frozen=True)
class EditRun:
    """The result of `run_edits`. As text it is the verdict, and a line for each of its remarks and commands.

    Attributes:
        folder: the folder of the run.
        rows: the readings of every probe on the unedited and on the edited model.
        verdict: which edits succeeded, why others failed, and what helps.
        differences: the locality prompts and the unrelated prompts, as both models answered them.
    """

    folder: Path
    rows: BeforeAfter
    verdict: Verdict
    differences: tuple[PromptDifference, ...] = ()

    def __str__(self) -> str:
        return "\n".join([str(self.verdict), *self.verdict.remarks, *self.verdict.commands])

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the results in the folder; those of the subgraphs' pictures are the last."""
        pictures = sorted(file.name for file in self.folder.glob("subgraph-*.svg"))
        names = (PATCH, RECORDS, LOCALITY, LOSSES, FAILED, EDITS, VERDICT, REPORT, PAGE, *pictures)
        return tuple(name for name in names if (self.folder / name).is_file())


def note_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Write beside a finished run the hashes of everything that decides its results: see `read_finished`."""
    write_json(folder / _INPUTS, inputs)


def read_finished(folder: Path, edits: Sequence[Edit], inputs: Mapping[str, str]) -> EditRun | None:
    """Return the run in a folder, if it is finished and was computed from the same inputs; else None.

    None also if an edit failed: `run_edits` then makes those failed edits alone for which it had no time before.
    """
    try:
        noted = json.loads((folder / _INPUTS).read_bytes())
        read_provenance(folder / PATCH)  # only to see that the patch can be read
    except (OSError, ValueError, PatchError):
        return None
    rows = known_rows(folder / RECORDS, edits)
    verdict = Verdict.beside(folder / PATCH)
    if noted != inputs:
        return None
    if not rows or verdict is None or not (folder / REPORT).is_file():  # the run was not finished
        return None
    if verdict.failed:
        return None
    differences = read_differences(folder / LOCALITY)
    return EditRun(folder, BeforeAfter(rows), verdict.with_prompts_of(rows), differences)
