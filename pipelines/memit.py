"""MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229) on a triplet file, stage by stage.

All rows are one batch: they are written together, over several blocks.

The triplets file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files
of edits with prompts are read too. `kg-edit methods memit` lists the settings.

python pipelines/memit.py triplets.csv --out out/
python pipelines/memit.py triplets.csv --preset paper --set 'layers=[4,5,6]' --out out/
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.edits.files import read_edits
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.memit.records import Fact, FactValue, Record
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("memit")


class ShownMemit(Memit):
    """MEMIT, with the result of each stage in the log. The stages are the library's own."""

    def prepare(self) -> None:
        """Sample the contexts, and load or measure C of every written block."""
        super().prepare()
        log.info("1. blocks %s; C from %d tokens", list(self.layers), self.covariances[self.layers[0]].tokens)

    def find_values(self, facts: Sequence[Fact]) -> list[FactValue]:
        """Find z of each fact: the state of the last written block with which the model predicts o*."""
        values = super().find_values(facts)
        for fact, value in zip(facts, values, strict=True):
            losses = value.descent.losses
            log.info(
                "2. z of %s %s: |h| %.2f, |z - h| %.2f, loss %.2f -> %.3f",
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
            log.info("3. update of %s: rank %d, norm %.3f", name, update.rank, update.product.norm())
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
    config = MemitConfig.preset(options.preset, parse_settings(options.set), method="memit")
    ShownMemit.check_inputs(config, None, edits)  # mistakes are found before the model is loaded
    model = LanguageModel.load(options.model)
    method = ShownMemit(model, config)
    rows = run_edits(method, model, edits, options.out)  # saves the patch after every batch, then asks every prompt
    for row in rows:
        unedited, edited = row.unedited.text, row.edited.text
        log.info("%-10s %s\n  unedited: %s\n  edited:   %s", row.probe.kind, row.probe.prompt, unedited, edited)


if __name__ == "__main__":
    with friendly():
        main()
