"""ROME, from a file of edits to an edited model: GLAME without its graph. Read it, copy it, change it.

python pipelines/rome.py edits.jsonl --model smollm2-135m --out out/
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from kg_edit.cli.console import friendly
from kg_edit.edits.files import read_edits
from kg_edit.jobs.edit_run import run_edits
from kg_edit.methods.rank_one.rome import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel

log = logging.getLogger("rome")


def main() -> None:
    """Edits in, a patch and its proof out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, help="JSONL, JSON, CSV or TSV")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # 1. The facts to change.
    edits = read_edits(options.edits).edits

    # 2. The model, and the method with its settings.
    model = LanguageModel.load(options.model)
    rome = Rome(model, RomeConfig())

    # 3. For each edit: descend to m*, then one rank-one update. Saved after every edit.
    rows = run_edits(rome, model, edits, options.out)

    # 4. What changed. The model itself is as it was; Patch.load(...).applied(model) gives the edited one.
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )


if __name__ == "__main__":
    with friendly():
        main()
