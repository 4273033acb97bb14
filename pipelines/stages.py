"""What the scripts glame, rome, rome_kg, memit and memit_kg share: options, a run that resumes, and printed tables."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import networkx as nx

from kg_common.progress import Bar
from kg_edit.callbacks import LossLines, StepNotes, send_losses
from kg_edit.cli.method_plan import parse_settings, warn_of_edits_without_facts
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.graphs.source import open_named
from kg_edit.locate_then_edit.descent import Descent
from kg_edit.methods import EditingMethod
from kg_edit.methods.base import annotate_errors
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.guards import refuse_disabling
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import PARTIAL, run_edits, run_settings, warn_of_other_code
from kg_edit.reports.finished_run import LOSSES
from kg_edit.storage.run_folder import PATCH, check_folder, claim
from kg_edit.version import folder_sha256

SHOWN = 8  # statements of a subgraph that are printed
log = logging.getLogger("pipelines")
Method = TypeVar("Method", bound=EditingMethod)


@dataclass
class Run(Generic[Method]):
    """The edits of a script and the patch so far, in a folder in which a stopped run continues.

    Attributes:
        method: holds the settings, and what all edits share: contexts and covariances.
        model: the unedited model.
        edits: all edits of the file.
        out: the folder.
        force: accept an edit that would probably break the model.
        patch: the edits made so far.
    """

    method: Method
    model: LanguageModel
    edits: Sequence[Edit]
    out: Path
    force: bool
    patch: Patch
    losses: LossLines = field(default_factory=LossLines)

    @property
    def remaining(self) -> list[Edit]:
        """The edits that are not in the patch."""
        made = {record["edit"]["id"] for record in self.patch.edits}
        return [edit for edit in self.edits if edit.id not in made]

    @contextmanager
    def editing(self, *edits: Edit) -> Iterator[None]:
        """Compute ``edits`` in the ``with`` block: on the model with the earlier ones, which is restored after it."""
        # The blocks of five `with` statements; they end in the opposite order.
        with ExitStack() as stack:
            stack.enter_context(annotate_errors(*edits))  # an error names the edit
            bar = stack.enter_context(Bar(title="descent", unit="edit", total=len(edits), leave=False))
            notes = StepNotes(bar.note, most=self.method.config.most_steps)
            # `descend` sends the loss of each step to the file of losses and to the bar.
            stack.enter_context(send_losses([self.losses, notes], [edit.id for edit in edits]))
            stack.enter_context(self.patch.applied(self.model))  # the earlier edits
            stack.enter_context(keep_untouched(self.model))  # no gradients of weights, no dropout
            yield

    def add(self, patch: Patch) -> None:
        """Add the patch of new edits, and save all."""
        patch.check_finite()
        patch = patch.with_weight_norms(self.model)
        if not self.force:
            refuse_disabling(patch, [self.patch], self.model)
        self.patch = self.patch + patch
        self.out.mkdir(parents=True, exist_ok=True)
        self.losses.append_to(self.out / LOSSES)
        self.patch.save(self.out / PARTIAL)

    def report(self) -> None:
        """Ask every edit's prompts before and after, and write the patch and the report."""
        run = run_edits(self.method, self.model, self.edits, self.out, force=self.force, alone=False)
        for row in run.rows:
            unedited = row.unedited.text
            edited = row.edited.text
            log.info("%-11s %s\n  unedited: %s\n  edited:   %s", row.probe.kind, row.probe.prompt, unedited, edited)
        log.info("%s", run.verdict)
        warn_of_edits_without_facts(self.method)


def start(
    method_class: type[Method], about: str, arguments: Sequence[str] | None = None, *, preset: str = "default"
) -> Run[Method]:
    """Read the options, check the edits, load the model, and continue the run of the folder if there is one.

    ``preset`` is the preset that the script takes unless another one is given.
    """
    options = read_options(method_class, about, arguments, preset=preset)
    check_folder(options.out)  # refuses a folder of anything else, before the work
    graph = open_named(options.graph)  # also has the labels of ids in the triplets
    edits = read_edits(options.triplets, labels=graph).edits
    settings = parse_settings(options.set)
    config = method_class.config_class.preset(options.preset, settings, method=method_class.name)
    method_class.check_inputs(config, graph, edits)  # mistakes are found before the model is loaded

    model = LanguageModel.load(options.model)
    method = method_class(model, config, graph=graph)
    method.check(edits)
    identity = run_settings(method, model, edits)
    check_folder(options.out, identity)  # refuses a run with other settings or edits
    method.prepare()  # contexts and covariances, on the unedited model
    options.out.mkdir(parents=True, exist_ok=True)
    claim(options.out, identity)

    script = folder_sha256(Path(__file__).parent)  # the patch says by which state of the scripts it was made
    patch = method.empty_patch().with_records([], {"script_sha256": script})
    for name in (PARTIAL, PATCH):  # of a run that was stopped, or is complete
        if (options.out / name).is_file():
            patch = Patch.load(options.out / name)
            warn_of_other_code(patch, options.out / name, script_sha256=script)
    return Run(method=method, model=model, edits=edits, out=options.out, force=options.force, patch=patch)


def read_options(
    method_class: type[EditingMethod], about: str, arguments: Sequence[str] | None, *, preset: str
) -> argparse.Namespace:
    """Read the options of a script; the arguments are those of `start`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("triplets", type=Path, help="CSV, TSV, JSONL or JSON: triplets, or edits with prompts")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument(
        "--graph", default="extract", help="facts (head, relation, tail) as CSV or TSV, or a Wikidata graph"
    )
    parser.add_argument(
        "--preset", default=preset, help=f"default, fast, paper, or the name of a model (default: {preset})"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    out = Path("out") / method_class.name
    parser.add_argument("--out", type=Path, default=out, help=f"folder of the patch and the report (default: {out})")
    parser.add_argument("--force", action="store_true", help="accept an edit that would probably break the model")
    return parser.parse_args(arguments)


def show_subgraph(graph: nx.MultiDiGraph) -> None:
    """Print a subgraph: s -r-> o*, and what the graph states about o*."""
    labels = dict(graph.nodes(data="label"))
    log.info("1. subgraph: %d nodes, %d statements", len(graph), graph.number_of_edges())
    for subject, target, relation in list(graph.edges(data="label"))[:SHOWN]:
        log.info("     %s -- %s -> %s", labels[subject], relation, labels[target])
    more = graph.number_of_edges() - SHOWN
    if more > 0:
        log.info("     and %d more", more)


def show_descent(stage: str, descent: Descent, *, size: float) -> None:
    """Print what a descent came to: |change|, with |m| or |h| as its ``size``, and the terms of the loss."""
    total, nll, kl = descent.losses[0]
    last_total, last_nll, last_kl = descent.losses[-1]
    evaluations = len(descent.losses)
    log.info("%s %.2f, its change %.2f, after %d evaluations", stage, size, float(descent.change.norm()), evaluations)
    log.info("     loss %.2f -> %.3f: -log p(o*) %.2f -> %.3f", total, last_total, nll, last_nll)
    log.info("     KL of the essence prompt %.3f -> %.3f", kl, last_kl)


def show_update(stage: int, patch: Patch) -> None:
    """Print the updates of a patch, by weight."""
    assert isinstance(patch, WeightPatch)
    for name, update in patch.factors.items():
        log.info("%d. update of %s: rank %d, norm %.3f", stage, name, update.rank, update.norm)
