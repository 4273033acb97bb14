"""GLAME beyond the paper against ROME and against itself on a wrong graph; goes on where it stopped.

python pipelines/glame_plus_table.py --data dev.json --graph wikidata.nt.gz --limit 200

The runs named allowed may learn statements that share a word with a question's answer, and are compared apart.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from kg_edit.cli.console import friendly
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import as_record
from kg_edit.evaluate import compare, evaluate
from kg_edit.evaluate.reports import write_comparison
from kg_edit.graphs.wrong_graph import WrongGraph
from kg_edit.methods import EditingMethod
from kg_edit.methods.glame_plus.method import GlamePlus, GlamePlusConfig
from kg_edit.methods.rank_one.rome import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import WikidataCache

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
METRICS = ("portability.nll", "portability.choice", "efficacy.prob", "paraphrase.prob", "neighborhood.prob")

log = logging.getLogger("glame_plus_table")


def main() -> None:
    """Five runs, and three comparisons: all with ROME, and each right graph with its wrong one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "counterfact_plus" / "dev.json")
    parser.add_argument("--graph", default=str(SHARED / "wikidata" / "wikidata.nt.gz"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--preset", default="default", help="of glame-plus: default, or fast (bfloat16)")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "glame_plus")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # 1. The same records for all; the wrong graph says of o* what is true of other records' o*.
    records = find_dataset("counterfact-plus")(options.data)
    model, graph = LanguageModel.load(options.model), WikidataCache(options.graph)
    wrong = WrongGraph(graph, tuple(edit for record in records for edit in as_record(record).edits))

    # 2. The methods. Only the last two may learn what the questions ask for.
    plus = GlamePlusConfig.preset(options.preset)
    allowed = GlamePlusConfig.preset(options.preset, {"exclude_answers": False})
    methods: dict[str, EditingMethod] = {
        "rome": Rome(model, RomeConfig()),
        "glame-plus": GlamePlus(model, plus, graph=graph),
        "wrong-graph": GlamePlus(model, plus, graph=wrong),
        "allowed": GlamePlus(model, allowed, graph=graph),
        "allowed-wrong-graph": GlamePlus(model, allowed, graph=wrong),
    }

    # 3. Each run is finished or gone on with. ROME's has the ceilings: the fact, and the relation, in the prompt.
    for name, method in methods.items():
        evaluate(method, model, records[: options.limit], out=options.out / name, pool=records, ceilings=name == "rome")

    # 4. Paired differences with intervals and p-values.
    pairs = {"rome": [*methods], "wrong-graph": ["glame-plus", "wrong-graph"]}
    pairs["allowed-wrong-graph"] = ["allowed", "allowed-wrong-graph"]
    for against, names in pairs.items():
        made = compare([options.out / name for name in names], against=against, metrics=METRICS)
        log.info("%s", write_comparison(made, options.out / f"against-{against}.md"))


if __name__ == "__main__":
    with friendly():
        main()
