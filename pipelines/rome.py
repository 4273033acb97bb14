"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262) on a triplet file, stage by stage.

The triplets file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files
of edits with prompts are read too. `kg-edit methods rome` lists the settings.

python pipelines/rome.py triplets.csv --out out/
python pipelines/rome.py triplets.csv --preset paper --set layer=5 --out out/
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
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("rome")


class ShownRome(Rome):
    """ROME, with the result of each stage in the log. The stages are the library's own."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make one edit on the model with the earlier edits (``before``)."""
        (edit,) = edits
        log.info("%s -> %s", edit.text, edit.target_new)

        # 1. C [d_ff, d_ff], the second moment of W's inputs over ordinary text: what the update must leave alone.
        shape, tokens = list(self.covariance.moment.shape), self.covariance.tokens
        log.info("1. C of block %d: %s, from %d tokens", self.layer, shape, tokens)

        # 2. The contexts in front of the prompt: what the value has to survive.
        log.info("2. contexts: %s", ", ".join(map(repr, self.contexts[:3])) + ", …")

        # 3. m* (Eq. 4): the value with which the model predicts o* after every prompt. Adam on
        # m* - m itself.
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
    """Read triplets; show each stage; write a patch and a report. An interrupted run resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", type=Path, help="CSV, TSV, JSONL or JSON: triplets, or edits with prompts")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument("--graph", default=str(packaged_extract()), help="labels of ids: file, folder or SPARQL URL")
    parser.add_argument("--preset", default="default", help="default, fast, paper, or the name of a model")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the patch and the report")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    graph = WikidataCache(options.graph)
    edits = read_edits(options.triplets, labels=graph).edits
    config = RomeConfig.preset(options.preset, parse_settings(options.set), method="rome")
    ShownRome.check_inputs(config, None, edits)  # mistakes are found before the model is loaded
    model = LanguageModel.load(options.model)
    method = ShownRome(model, config)
    rows = run_edits(method, model, edits, options.out)  # saves the patch after every edit, then asks every prompt
    for row in rows:
        unedited, edited = row.unedited.text, row.edited.text
        log.info("%-10s %s\n  unedited: %s\n  edited:   %s", row.probe.kind, row.probe.prompt, unedited, edited)


if __name__ == "__main__":
    with friendly():
        main()
