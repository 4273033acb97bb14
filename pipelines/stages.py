"""What the scripts glame, rome, rome_kg, memit and memit_kg share: their options, and the stages that look alike."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.graphs.source import open_named
from kg_edit.methods import EditingMethod
from kg_edit.methods.memit.method import Memit
from kg_edit.methods.memit.records import Fact, FactValue, Record
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import change_norm
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits
from kg_edit.storage.run_folder import check_folder

if TYPE_CHECKING:
    from kg_edit.methods.base import GraphReader
    from kg_edit.methods.rome.method import EditValue

SHOWN = 8  # statements of a subgraph that are printed
log = logging.getLogger("pipelines.stages")


def show_subgraph(method: GraphReader, edit: Edit) -> None:
    """Log the subgraph that a method reads: s -r-> o*, and what the graph states about o*."""
    graph = method.subgraph(edit)
    labels = dict(graph.nodes(data="label"))
    log.info("%s -> %s", edit.text, edit.target_new)
    log.info("1. subgraph: %d nodes, %d statements", len(graph), graph.number_of_edges())
    for start, end, relation in list(graph.edges(data="label"))[:SHOWN]:
        log.info("     %s -- %s -> %s", labels[start], relation, labels[end])
    if (more := graph.number_of_edges() - SHOWN) > 0:
        log.info("     and %d more", more)


def show_value(stage: int, value: EditValue) -> None:
    """Log m* (ROME's Eq. 4): its distance from m, and the loss of the descent."""
    losses, prompts = value.descent.losses, len(value.request.rewrites)
    norms = float(value.clean.norm()), float(value.descent.change.norm())
    log.info("%d. m*: |m| %.2f, |m* - m| %.2f, after %d prompts", stage, *norms, prompts)
    log.info("     loss %.2f -> %.3f in %d evaluations", losses[0][0], losses[-1][0], len(losses))


def show_update(stage: int, patch: Patch) -> None:
    """Log the updates of a patch, by weight."""
    assert isinstance(patch, WeightPatch)
    for name, update in patch.factors.items():
        log.info("%d. update of %s: rank %d, norm %.3f", stage, name, update.rank, change_norm(update))


class ShowsMemit(Memit):
    """MEMIT, with the results of its stages in the log; the first one has the number ``stage``."""

    stage = 1

    def find_values(self, facts: Sequence[Fact]) -> list[FactValue]:
        """Find z of each fact: the state of the last written block with which the model predicts o*."""
        values = super().find_values(facts)
        for fact, value in zip(facts, values, strict=True):
            norms = float(value.state.norm()), float(value.descent.change.norm())
            losses = value.descent.losses[0][0], value.descent.losses[-1][0]
            log.info("%d. z of %s %s: |h| %.2f, |z - h| %.2f", self.stage, fact.edit.text, fact.target, *norms)
            log.info("     loss %.2f -> %.3f", *losses)
        return values

    def write(self, facts: Sequence[Fact], target_states: Tensor, records: Sequence[Record], before: Patch) -> Patch:
        """Move the states h towards z, an equal share in each block: W + R (lambda C + K K^T)^-1 K (Eq. 14)."""
        patch = super().write(facts, target_states, records, before)
        show_update(self.stage + 1, patch)
        return patch


def main(method_class: type[EditingMethod], about: str, arguments: Sequence[str] | None = None) -> None:
    """Read triplets, edit a model by ``method_class``, and write a patch and a report; an interrupted run resumes."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", type=Path, help="CSV, TSV, JSONL or JSON: triplets, or edits with prompts")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument(
        "--graph", default="extract", help="facts (head, relation, tail) as CSV or TSV, or a Wikidata graph"
    )
    parser.add_argument("--preset", default="default", help="default, fast, paper, or the name of a model")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    out = Path("out") / method_class.name
    parser.add_argument("--out", type=Path, default=out, help=f"folder of the patch and the report (default: {out})")
    parser.add_argument("--force", action="store_true", help="accept an edit that would probably break the model")
    options = parser.parse_args(arguments)
    with friendly("pipelines"):
        check_folder(options.out)
        graph = open_named(options.graph)  # also has the labels of ids in the triplets
        edits = read_edits(options.triplets, labels=graph).edits
        settings = parse_settings(options.set)
        config = method_class.config_class.preset(options.preset, settings, method=method_class.name)
        method_class.check_inputs(config, graph, edits)  # mistakes are found before the model is loaded
        model = LanguageModel.load(options.model)
        method = method_class(model, config, graph=graph)
        # Saves the patch after each edit, then asks every prompt. A second try of failed edits would look like others.
        run = run_edits(method, model, edits, options.out, force=options.force, alone=False)
        for row in run.rows:
            unedited, edited = row.unedited.text, row.edited.text
            log.info("%-11s %s\n  unedited: %s\n  edited:   %s", row.probe.kind, row.probe.prompt, unedited, edited)
        log.info("%s", run.verdict)
