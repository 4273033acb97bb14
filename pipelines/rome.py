"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262) on one page: read it from top to bottom, copy it, change it.

An edit (s, r, o -> o*) becomes one rank-one update of one MLP's down-projection W: it answers the subject's key k with
m* instead of m, where m* makes the model say o*, and the covariance C of its other inputs keeps the rest as it was.
The results are those of `kg-edit edit --method rome`.

python pipelines/rome.py edits.jsonl --model smollm2-135m --out out/
python pipelines/rome.py edits.jsonl --preset paper --set layer=5 --out out/
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import find_covariance
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.locate_then_edit.descent import Descent, FreeDelta, descent_model, optimise_values
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty, tokens_within
from kg_edit.locate_then_edit.states import other_keys
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.rome.method import RomeConfig, rank_one_update
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.sampling import sample_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import run_edits

log = logging.getLogger("rome")


class Rome(EditingMethod):
    """The method, which `main` runs for each edit. To measure your changes, pass it to `kg_edit.evaluate.evaluate`."""

    name, paper = "rome", "Meng et al., NeurIPS 2022, arXiv 2202.05262"  # both are written into every patch
    about = "rank-one model editing: one fact, one layer, no graph"
    config_class = RomeConfig  # all settings, with their defaults: kg-edit methods rome
    config: RomeConfig

    # Shared by all edits: the layer of W, the contexts around a prompt, the covariance.

    @cached_property
    def layer(self) -> int:
        """The index of the block whose down-projection is edited, from 0."""
        return self.config.layer_in(len(self.model.blocks))

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around a prompt: the bare {}, then texts sampled from the model, each followed by {}."""
        return sample_contexts(self.model, lengths=self.config.context_lengths, seed=self.config.seed)

    @cached_property
    def covariance(self) -> Covariance:
        """C = E[k k^T] of W's inputs over ordinary text, [d_ff, d_ff]; measured once per model, then reused."""
        return find_covariance(self.model, self.layer, self.config.covariance)

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every prompt, so that errors come before any other work."""
        self.model.block(self.layer)
        for edit in edits:
            with annotate_errors(edit):
                Request.of(self.model, edit, ["{}"])

    def prepare(self) -> None:
        """Sample and measure before the first edit."""
        with untouched(self.model):
            _ = self.contexts, self.covariance

    # One edit, on the model with all earlier edits.

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make the patch of one edit: compute its key k*, its value m* and the update of W."""
        (edit,), model, layer = edits, self.model, self.layer
        with untouched(model):  # frozen, evaluation mode; restores flags and random states
            # 1. Prompts: "{context} {s} {r}" with o* as its target, and "{s} is a", whose output should stay.
            request = Request.of(model, edit, self.contexts)

            # 2. The loss. From the forward pass without the change, at the subject's last token: k* [d_ff], the mean of
            # W's inputs over the contexts (ROME's Eq. 3); k [d_ff] and m [d], W's input and output in the bare prompt.
            loss = self.loss(model, request)
            mean_key, bare_key, value = loss.mean_key[0], loss.bare_key[0], loss.value[0]

            # 3. m* - m, [d]: found by gradient descent.
            found = self.optimise(loss, request, FreeDelta(value, self.config))

            # 4. The closed form: W + (m* - m) / (k . u) u^T, where u is C^-1 k*, scaled to norm 1;
            # C includes the keys of the other tokens of the prompts, whose outputs should stay the same (`hold`).
            update = rank_one_update(
                change=found.change,
                mean_key=mean_key,
                bare_key=bare_key,
                covariance=self.covariance,
                weight=weight_matrix(model.down_projection(layer)),
                variant=self.config.key,
                others=other_keys(model, request.rewrites, layer) if self.config.hold else None,
                hold=self.config.hold,
            )

        # 5. The patch: {name of the weight: update}, and its provenance.
        norms = {
            "value": value.norm(),
            "change": found.change.norm(),
            "update": update.left.norm() * update.right.norm(),
        }
        record = {
            "edit": edit.model_dump(mode="json", exclude_defaults=True),
            "method": self.name,
            "norms": {name: round(float(norm), 6) for name, norm in norms.items()},
            **found.summary,
        }
        return WeightPatch(
            factors={model.weight_name(layer): update}, provenance={**self.provenance(), "edits": [record]}
        )

    def loss(self, model: LanguageModel, request: Request) -> Objective:
        """The loss of m* (ROME's Eq. 4): -log p(o*) after every prompt, plus the change of output after "{s} is a"."""
        return Objective(
            model,
            self.layer,
            [request],
            kl_weight=self.config.kl_weight,
            penalty=partial(norm_penalty, weight=self.config.weight_decay),  # factor of |m* - m| / |m|^2
            forward=partial(TailForward, contexts=SharedContexts.of(model, self.contexts)),  # what a change affects
            tokens=tokens_within(model, self.layer, self.memory),
        )

    def optimise(self, loss: Objective, request: Request, delta: FreeDelta) -> Descent:
        """Find m* - m, [d], by Adam on m* - m itself, starting at 0; its norm is at most clamp_norm_factor |m|."""
        rough = descent_model(self.model, self.config.descent_dtype)  # the model, or a copy of it in bfloat16
        objective = loss if rough is self.model else self.loss(rough, request)
        objective.value = loss.value  # m of the original model, not of the copy
        (found,) = optimise_values(objective, [delta], self.config)
        found.check_finite()
        return found

    def provenance(self) -> dict[str, Any]:
        """The model, the versions and the settings; with what these led to."""
        said = super().provenance()
        covariance = {"id": self.covariance.id, "tokens": self.covariance.tokens}
        said["methods"][0] |= {"layer": self.layer, "contexts": list(self.contexts), "covariance": covariance}
        return said


def main(arguments: Sequence[str] | None = None) -> None:
    """Read edits; write a patch and a report on its effect. An interrupted run resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, help="JSONL, JSON, CSV or TSV")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument("--preset", default="default", help="named settings: default, fast, paper, a model's")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # 1. The facts to change, and the settings.
    edits = read_edits(options.edits).edits
    config = RomeConfig.preset(options.preset, parse_settings(options.set), method="rome")

    # 2. The model.
    model = LanguageModel.load(options.model)

    # 3. `make` for each edit, on the model with the earlier edits; the patch is saved after every edit.
    rows = run_edits(Rome(model, config), model, edits, options.out)

    # 4. A report on what changed. The model itself is unchanged; Patch.load(...).applied(model) gives the edited one.
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )


if __name__ == "__main__":
    with friendly():
        main()
