"""A finished run of the same inputs is read as it was returned, without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import write_edits
from kg_edit.methods.rome.method import Rome
from kg_edit.models.language_model import LanguageModel
from kg_edit.reports.advice import EDITS, FAILED
from kg_edit.reports.edit_run import run_edits
from kg_edit.reports.finished_run import LOCALITY, LOSSES, PAGE, REPORT, note_inputs, read_finished
from kg_edit.reports.retry import ALONE
from kg_edit.reports.rows import RECORDS
from kg_edit.reports.verdict import VERDICT
from kg_edit.storage.run_folder import PATCH
from tests.kg_edit.methods.test_methods import EDIT

INPUTS = {"code": "1", "method": "rome"}
PARAPHRASED = Edit.model_validate(EDIT.model_dump() | {"paraphrases": ["{}'s team is the"]})
READ = """
import sys
from pathlib import Path
from kg_edit.edits.files import read_edits
from kg_edit.reports.finished_run import read_finished
folder = Path(sys.argv[1])
print(read_finished(folder / "out", read_edits(folder / "edits.jsonl").edits, {"code": "1", "method": "rome"}))
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_finished_run_is_read_as_it_was_returned(smollm2: LanguageModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = run_edits(Rome.on(smollm2, preset="fast"), smollm2, [PARAPHRASED], out, progress=False)
    assert not run.verdict.failed
    assert read_finished(out, [PARAPHRASED], INPUTS) is None, "nothing says what it was computed from"
    note_inputs(out, INPUTS)
    again = read_finished(out, [PARAPHRASED], INPUTS)
    assert again is not None
    assert (str(again), again.rows, again.differences, again.files) == (
        str(run),
        run.rows,
        run.differences,
        run.files,
    )

    write_edits(tmp_path / "edits.jsonl", [PARAPHRASED])
    process = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, text=True, check=False)
    assert process.returncode == 0 and process.stdout.startswith(str(run)), process.stderr

    assert read_finished(out, [PARAPHRASED], {**INPUTS, "code": "2"}) is None, "other code made it"
    assert read_finished(out, [EDIT.model_copy(update={"id": "other"})], INPUTS) is None
    report = (out / VERDICT).read_text()
    (out / VERDICT).write_text(report.replace('"succeeded": true', '"succeeded": false'))
    assert read_finished(out, [PARAPHRASED], INPUTS) is None, "a failed edit needs advice"
    (out / VERDICT).write_text(report)
    (out / REPORT).unlink()
    assert read_finished(out, [PARAPHRASED], INPUTS) is None, "it is not finished"


def test_the_page_names_every_file_of_a_run() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "runs.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w.*-]+)` \|", page.split("\n**Edits that fail.**")[0], re.MULTILINE)
    written = {PATCH, RECORDS, LOCALITY, LOSSES, ALONE, FAILED, EDITS, VERDICT, REPORT, PAGE}
    assert set(named) == written | {"run.json", "layer.json", "subgraph-*.svg"}
