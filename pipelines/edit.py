"""Edits in, a patch and its proof out, by any method of the registry: `kg-edit methods` lists them, plug-ins included.

python pipelines/edit.py edits.jsonl --method alphaedit --out out/
python pipelines/edit.py edits.jsonl --method glame-plus --graph wikidata.nt.gz --out out/
python pipelines/edit.py edits.jsonl --method glame-random --set 'pool=["Q1345", "Q220"]'    # whose statements o* gets
python pipelines/edit.py edits.jsonl --method popularity-retrieval --set popularity=FILE  # else: the degree in --graph
python pipelines/edit.py edits.jsonl --method mend --set network=mend/    # of `kg-edit mend train --data … --out mend/`

`kg-edit methods NAME` says a method's settings and presets. OUT gets patch.safetensors, records.jsonl, losses.jsonl,
report.md, report.html and run.json, and the first edit's subgraph where there is a graph; started again, a run goes on
where it was stopped.
rome.py, memit.py, rome_kg.py, memit_kg.py and glame.py show what such a method does, step by step.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.edits.files import read_edits
from kg_edit.methods import find_method, method_names
from kg_edit.models.language_model import LanguageModel
from kg_edit.reports.edit_run import draw_subgraph, run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("edit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read edits, edit a model with any method, and write the patch and a report on its effect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, help="JSONL, JSON, CSV or TSV; plain triplets too")
    parser.add_argument("--method", required=True, metavar="NAME", help=", ".join(method_names()))
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument(
        "--graph", help="N-Triples, TSV, folder, or SPARQL URL; default the packaged extract, where a graph is needed"
    )
    parser.add_argument("--preset", default="default", help="named settings of the method")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # 1. The method with its settings, the graph, and the facts to change.
    found = find_method(options.method)
    config = found.config_class.preset(options.preset, parse_settings(options.set), method=options.method)
    source = options.graph or (packaged_extract() if found.needs_graph else None)
    graph = WikidataCache(source) if source else None
    edits = read_edits(options.edits, labels=graph).edits
    found.check_inputs(config, graph, edits)  # finds errors before the model is loaded

    # 2. The model.
    model = LanguageModel.load(options.model)
    method = found(model, config, graph=graph)

    # 3. The patch, saved after every edit or batch; the report on its effect; a picture of the first edit's subgraph.
    rows = run_edits(method, model, edits, options.out)
    draw_subgraph(method, edits[0], options.out)

    # 4. The model itself is unchanged; Patch.load(...).applied(model) gives the edited one.
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )


if __name__ == "__main__":
    with friendly():
        main()
