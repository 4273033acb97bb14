"""MEMIT-KG, a baseline of GLAME's paper (arXiv 2402.13593), on a triplet file, stage by stage.

The facts of the graph around the edits become further requests of the same MEMIT batch.

The triplets file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files
of edits with prompts are read too. `kg-edit methods memit-kg` lists the settings.

python pipelines/memit_kg.py triplets.csv --out out/
python pipelines/memit_kg.py triplets.csv --preset paper --set statements=3 --out out/
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.methods.memit.records import Fact, FactValue, Record
from kg_edit.methods.memit_kg.method import MemitKg, MemitKgConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("memit_kg")
SHOWN = 8  # statements that are printed


class ShownMemitKg(MemitKg):
    """MEMIT-KG, with the result of each stage in the log. The stages are the library's own."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make all edits and their facts in one batch."""
        for edit in edits:
            self.show_facts(edit)
        return super().make(edits, before=before)

    def show_facts(self, edit: Edit) -> None:
        """Log the edit's subgraph, and the facts of it that are written beside the edit."""
        # 1. The subgraph: s -r-> o*, and what the graph states about o*.
        graph = self.subgraph(edit)
        labels = dict(graph.nodes(data="label"))
        log.info("%s -> %s", edit.text, edit.target_new)
        log.info("1. subgraph: %d nodes, %d statements", len(graph), graph.number_of_edges())
        for start, end, relation in list(graph.edges(data="label"))[:SHOWN]:
            log.info("     %s -- %s -> %s", labels[start], relation, labels[end])

        # 2. The facts of the graph that are edited in too, in words.
        facts = self.further_edits(edit)
        log.info("2. %d facts of the graph are edited in as well", len(facts))
        for fact in facts:
            log.info("     %s %s", fact.text, fact.target_new)

    def find_values(self, facts: Sequence[Fact]) -> list[FactValue]:
        """Find z of each fact: the state of the last written block with which the model predicts o*."""
        values = super().find_values(facts)
        for fact, value in zip(facts, values, strict=True):
            losses = value.descent.losses
            log.info(
                "3. z of %s %s: |h| %.2f, |z - h| %.2f, loss %.2f -> %.3f",
                fact.edit.text,
                fact.target,
                value.state.norm(),
                value.descent.change.norm(),
                losses[0][0],
                losses[-1][0],
            )
        return values

    def write(self, facts: Sequence[Fact], wanted: Tensor, records: Sequence[Record], before: Patch) -> Patch:
        """Move the states h towards z, an equal share in each block: W + R (lambda C + K K^T)^-1 K (Eq. 14)."""
        patch = super().write(facts, wanted, records, before)
        assert isinstance(patch, WeightPatch)
        for name, update in patch.factors.items():
            log.info("4. update of %s: rank %d, norm %.3f", name, update.rank, update.product.norm())
        return patch


def main(arguments: Sequence[str] | None = None) -> None:
    """Read triplets and a graph; show each stage; write a patch and a report. An interrupted run resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", type=Path, help="CSV, TSV, JSONL or JSON: triplets, or edits with prompts")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument("--graph", default=str(packaged_extract()), help="N-Triples, TSV, folder or SPARQL URL")
    parser.add_argument("--preset", default="default", help="default, fast, paper, or the name of a model")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the patch and the report")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    graph = WikidataCache(options.graph)
    edits = read_edits(options.triplets, labels=graph).edits
    config = MemitKgConfig.preset(options.preset, parse_settings(options.set), method="memit-kg")
    ShownMemitKg.check_inputs(config, graph, edits)  # mistakes are found before the model is loaded
    model = LanguageModel.load(options.model)
    method = ShownMemitKg(model, config, graph=graph)
    rows = run_edits(method, model, edits, options.out)  # saves the patch after every batch, then asks every prompt
    for row in rows:
        unedited, edited = row.unedited.text, row.edited.text
        log.info("%-10s %s\n  unedited: %s\n  edited:   %s", row.probe.kind, row.probe.prompt, unedited, edited)


if __name__ == "__main__":
    with friendly():
        main()
