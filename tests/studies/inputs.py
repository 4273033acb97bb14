"""What the studies of edits of CounterFactPlus read, made small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.kg_edit.evaluation.datasets.rows import COUNTERFACT
from tests.kg_edit.tiny import save_larger
from tests.pages import ROOT


def write_inputs(folder: Path, *, records: int) -> None:
    """Write dev.json with so many records, the model larger/, and a copy of results/ into a folder."""
    rewrite = COUNTERFACT["requested_rewrite"]
    rows = []
    for number in range(records):
        named = {**rewrite, "subject": f"LeBron James {number}"}
        rows.append({**COUNTERFACT, "case_id": number, "requested_rewrite": named})
    (folder / "dev.json").write_text(json.dumps(rows))
    shutil.copytree(ROOT / "results", folder / "results")
    save_larger(folder / "larger")
