"""ROME-KG, a baseline of GLAME's paper (arXiv 2402.13593), on a triplet file, stage by stage.

The facts of the graph around an edit become further ROME edits.

The triplets file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files
of edits with prompts are read too. `kg-edit methods rome-kg` lists the settings.

python pipelines/rome_kg.py triplets.csv --out out/
python pipelines/rome_kg.py triplets.csv --preset paper --set statements=3 --out out/
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.methods.rome.method import EditValue
from kg_edit.methods.rome_kg.method import RomeKg, RomeKgConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("rome_kg")
SHOWN = 8  # statements that are printed


class ShownRomeKg(RomeKg):
    """ROME-KG, with the result of each stage in the log. The stages are the library's own."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make one edit and its facts on the model with the earlier edits (``before``)."""
        (edit,) = edits

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

        # 3. ROME makes the edit, then one fact after the other, each on the model with the earlier ones.
        return super().make(edits, before=before)

    def write(self, edit: Edit, found: EditValue) -> Patch:
        """Write the value m* of one fact: W + (m* - m) u^T / (k . u) with u = C^-1 k* (ROME's Eq. 2)."""
        patch, losses = super().write(edit, found), found.descent.losses
        assert isinstance(patch, WeightPatch)
        (update,) = patch.factors.values()
        log.info(
            "3. %s %s: loss %.2f -> %.3f, norm of the update %.3f",
            edit.text,
            edit.target_new,
            losses[0][0],
            losses[-1][0],
            update.left.norm() * update.right.norm(),
        )
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
    config = RomeKgConfig.preset(options.preset, parse_settings(options.set), method="rome-kg")
    ShownRomeKg.check_inputs(config, graph, edits)  # mistakes are found before the model is loaded
    model = LanguageModel.load(options.model)
    method = ShownRomeKg(model, config, graph=graph)
    rows = run_edits(method, model, edits, options.out)  # saves the patch after every edit, then asks every prompt
    for row in rows:
        unedited, edited = row.unedited.text, row.edited.text
        log.info("%-10s %s\n  unedited: %s\n  edited:   %s", row.probe.kind, row.probe.prompt, unedited, edited)


if __name__ == "__main__":
    with friendly():
        main()
