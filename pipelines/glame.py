"""GLAME, from a file of edits to an edited model. Read it from top to bottom, copy it, change it.

python pipelines/glame.py edits.jsonl --model smollm2-135m --graph wikidata.nt.gz --out out/
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from kg_edit.cli.console import friendly
from kg_edit.edits.files import read_edits
from kg_edit.jobs.edit_run import draw_subgraph, run_edits
from kg_edit.methods.glame.glame import Glame, GlameConfig
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("glame")


def main() -> None:
    """Edits and a graph in, a patch and its proof out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, help="JSONL, JSON, CSV or TSV; plain triplets too")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--graph", default=str(packaged_extract()), help="N-Triples, TSV, folder, or SPARQL URL")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # 1. The facts to change, and the knowledge around them.
    graph = WikidataCache(options.graph)
    edits = read_edits(options.edits, labels=graph).edits

    # 2. The model, and the method with its settings; GlameConfig.preset("paper") has the paper's.
    model = LanguageModel.load(options.model)
    glame = Glame(model, GlameConfig(), graph=graph)

    # 3. For each edit: subgraph -> hidden states -> R-GNN -> m* -> one rank-one update. Saved after every edit.
    rows = run_edits(glame, model, edits, options.out)
    draw_subgraph(glame, edits[0], options.out)

    # 4. What changed. The model itself is as it was; Patch.load(...).applied(model) gives the edited one.
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )


if __name__ == "__main__":
    with friendly():
        main()
