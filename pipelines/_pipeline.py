"""What the short scripts here share. `rome.py` and `glame.py` say the same at length: read those first."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from kg_edit.cli.console import friendly
from kg_edit.edits.files import read_edits
from kg_edit.jobs.edit_run import draw_subgraph, run_edits
from kg_edit.jobs.method_plan import parse_settings
from kg_edit.methods import EditingMethod, find_method
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("pipeline")


def run(name: str, doc: str | None) -> None:
    """Edits in, a patch and its proof out, by the method ``name``; ``doc`` is the script's own text."""
    with friendly():
        _run(find_method(name), _parser(find_method(name), doc).parse_args())


def _parser(method: type[EditingMethod], doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, help="JSONL, JSON, CSV or TSV; plain triplets too")
    parser.add_argument("--model", default="smollm2-135m")
    graph = str(packaged_extract()) if method.needs_graph else None
    parser.add_argument("--graph", default=graph, help="N-Triples, TSV, folder, or SPARQL URL")
    parser.add_argument("--preset", default="default", help="named settings of the method")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"))
    return parser


def _run(method: type[EditingMethod], options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = method.config_class.preset(options.preset, parse_settings(options.set), method=method.name)
    graph = WikidataCache(options.graph) if options.graph else None
    edits = read_edits(options.edits, labels=graph).edits
    method.check_inputs(config, graph, edits)
    model = LanguageModel.load(options.model)
    made = method(model, config, graph=graph)
    rows = run_edits(made, model, edits, options.out)
    draw_subgraph(made, edits[0], options.out)
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )
