"""GLAME (Zhang et al., EMNLP 2024, arXiv 2402.13593) on a triplet file, stage by stage.

The triplets file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files
of edits with prompts are read too. `kg-edit methods glame` lists the settings.

python pipelines/glame.py triplets.csv --out out/
python pipelines/glame.py triplets.csv --graph wikidata.nt.gz --preset paper --set hops=1 --out out/
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
from kg_edit.methods.glame.method import Glame, GlameConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("glame")
SHOWN = 8  # statements that are printed


class ShownGlame(Glame):
    """GLAME, with the result of each stage in the log. The stages are the library's own."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make one edit on the model with the earlier edits (``before``)."""
        (edit,) = edits

        # 1. The subgraph: s -r-> o*, and what the graph states about o*.
        graph = self.subgraph(edit)
        labels = dict(graph.nodes(data="label"))
        log.info("%s -> %s", edit.text, edit.target_new)
        log.info("1. subgraph: %d nodes, %d statements", len(graph), graph.number_of_edges())
        for start, end, relation in list(graph.edges(data="label"))[:SHOWN]:
            log.info("     %s -- %s -> %s", labels[start], relation, labels[end])

        # 2. Hidden states of an early block represent the labels: the R-GNN's input.
        encoded, _ = self.encode(edit)
        log.info(
            "2. hidden states of block %d: nodes %s, relations %s",
            self.representation_layer,
            list(encoded.nodes.shape),
            list(encoded.relations.shape),
        )

        # 3. m* (Eq. 4): the value with which the model predicts o* after every prompt. m* - m is the
        # subject's vector after the R-GNN (Eq. 6), whose weights AdamW trains.
        request = self.request(edit)
        (value,) = self.find_values([edit], [request])
        first, last = value.descent.losses[0], value.descent.losses[-1]
        log.info(
            "3. m*: |m| %.2f, |m* - m| %.2f; loss %.2f -> %.3f in %d evaluations, over %d prompts",
            value.clean.norm(),
            value.descent.change.norm(),
            first[0],
            last[0],
            len(value.descent.losses),
            len(request.rewrites),
        )

        # 4. The update (Eq. 2): W + (m* - m) u^T / (k . u) with u = C^-1 k*, in one patch with its provenance.
        patch = self.write(edit, value)
        assert isinstance(patch, WeightPatch)
        for name, update in patch.factors.items():
            log.info("4. update of %s: rank %d, norm %.3f", name, update.rank, update.left.norm() * update.right.norm())
        return patch


def main(arguments: Sequence[str] | None = None) -> None:
    """Read triplets and a graph; show each stage; write a patch and a report. An interrupted run resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", type=Path, help="CSV, TSV, JSONL or JSON: triplets, or edits with prompts")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument("--graph", default=str(packaged_extract()), help="N-Triples, TSV, folder or SPARQL URL")
    parser.add_argument("--preset", default="default", help="default, fast, paper, code, or the name of a model")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the patch and the report")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    graph = WikidataCache(options.graph)
    edits = read_edits(options.triplets, labels=graph).edits
    config = GlameConfig.preset(options.preset, parse_settings(options.set), method="glame")
    ShownGlame.check_inputs(config, graph, edits)  # mistakes are found before the model is loaded
    model = LanguageModel.load(options.model)
    method = ShownGlame(model, config, graph=graph)
    rows = run_edits(method, model, edits, options.out)  # saves the patch after every edit, then asks every prompt
    for row in rows:
        unedited, edited = row.unedited.text, row.edited.text
        log.info("%-10s %s\n  unedited: %s\n  edited:   %s", row.probe.kind, row.probe.prompt, unedited, edited)


if __name__ == "__main__":
    with friendly():
        main()
