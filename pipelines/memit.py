"""MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229) on one page: read it from top to bottom, copy it, change it.

All edits (s, r, o -> o*) of the file become one update of several MLPs' down-projections. For each edit a state z of
the last of these blocks is found that makes the model say o*; then each block in turn, from the lowest, takes its share
of what is still missing, in a least-squares solution over the keys of all edits, of their prompts' other tokens and of
ordinary text (covariance C).
The results are those of `kg-edit edit --method memit`.

python pipelines/memit.py edits.jsonl --out out/
python pipelines/memit.py edits.jsonl --preset paper --set 'layers=[4, 5, 6]' --out out/
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import find_covariances
from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.edits.files import read_edits
from kg_edit.locate_then_edit.descent import FreeDelta, descent_model, optimise_values
from kg_edit.locate_then_edit.joint import joint_directions
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty, tokens_within
from kg_edit.locate_then_edit.states import OtherTokens, refuse_norm_after_mlp, subject_states
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.memit.method import MemitConfig
from kg_edit.methods.memit.records import VALUE, Fact, FactValue, new_record, with_updates
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.sampling import started_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.reports.edit_run import run_edits

log = logging.getLogger("memit")
AT_ONCE = 32  # number of states that are found together; it affects the memory, not the result


class Memit(EditingMethod):
    """The method, which `main` runs. To measure your changes, pass it to `kg_edit.evaluate.evaluate`."""

    name, paper = "memit", "Meng et al., ICLR 2023, arXiv 2210.07229"  # the name is written into every patch
    about = "mass editing: a batch of facts, spread over several layers"
    joint = True  # `make` gets all edits of a call
    config_class = MemitConfig  # all settings, with their defaults: kg-edit methods memit
    config: MemitConfig

    # Shared by all edits: the edited layers, the contexts around a prompt, the covariances.

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The indices of the blocks whose down-projections are edited, from 0, in ascending order."""
        return self.config.written_layers(len(self.model.blocks))

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around a prompt: the bare {}, then texts that the model writes after "The", "Therefore", …"""
        starts, tokens = self.config.context_starts, self.config.context_tokens
        return started_contexts(self.model, starts=starts, tokens=tokens, seed=self.config.seed)

    @cached_property
    def covariances(self) -> Mapping[int, Covariance]:
        """C = E[k k^T] of the inputs of each W over ordinary text, [d_ff, d_ff]; measured once per model, then read."""
        return find_covariances(self.model, self.layers, self.config.covariance)

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every prompt, so that errors come before any other work."""
        for edit in edits:
            with annotate_errors(edit):
                Request.of(self.model, edit, ["{}"])

    def prepare(self) -> None:
        """Sample and measure before the first edit."""
        with untouched(self.model):
            refuse_norm_after_mlp(self.model, self.layers[-1])
            _ = self.contexts, self.covariances

    # All edits of a call, on the model with the edits of all earlier calls.

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make the patch of all edits: find their states, then one update per layer."""
        refuse_clash(edits)
        with untouched(self.model):  # frozen, evaluation mode; restores flags and random states
            # 1. Prompts: "{context} {s} {r}" with o* as its target, and "{s} is a", whose output should stay.
            requests = [Request.of(self.model, edit, self.contexts) for edit in edits]

            # 2. z = h + delta for each edit: found by gradient descent.
            targets = [
                target
                for start in range(0, len(edits), AT_ONCE)
                for target in self.states(requests[start : start + AT_ONCE])
            ]
            facts = [Fact(edit=edit, prompts=asked) for edit, asked in zip(edits, requests, strict=True)]
            records = [
                new_record(self.name, fact.edit, [fact], [own]) for fact, own in zip(facts, targets, strict=True)
            ]

            # 3. The layers, in ascending order.
            wanted = torch.stack([target.wanted for target in targets])  # [edits, d]
            update = self.write(requests, wanted)

        # 4. The patch: {name of a weight: update}, the provenance, and each z, with which an edit can be removed again.
        squares = [(own.left.norm(dim=0) * own.right.norm(dim=0)).square().cpu() for own in update.factors.values()]
        said = with_updates(records, torch.stack(squares).sum(0).sqrt())
        provenance = {**self.provenance(), "edits": said}
        return WeightPatch(factors=update.factors, provenance=provenance, state={VALUE: wanted.T})

    def states(self, requests: Sequence[Request]) -> list[FactValue]:
        """Find for each edit h, [d], the last edited block's output at the subject's last token, and delta, [d].

        Adam finds the delta that makes o* likely after every prompt and changes the output after "{s} is a" little;
        |delta| is at most clamp_norm_factor |h|.
        """
        config, layer = self.config, self.layers[-1]
        _, states = subject_states(self.model, [request.rewrites[0] for request in requests], layer=layer, last=layer)
        model = descent_model(self.model, config.descent_dtype)  # the model, or a copy of it in bfloat16
        objective = Objective(
            model,
            layer,
            requests,
            kl_weight=config.kl_weight,
            penalty=partial(norm_penalty, weight=config.weight_decay),
            forward=partial(TailForward, contexts=SharedContexts.of(model, self.contexts)),  # what a change affects
            tokens=tokens_within(self.model, layer, self.memory),
        )
        objective.value = states  # the norm penalty is relative to these states
        deltas = [FreeDelta(state, config) for state in states]
        found = optimise_values(objective, deltas, config)
        return [FactValue(state=state, descent=descent) for state, descent in zip(states, found, strict=True)]

    @torch.no_grad()
    def write(self, requests: Sequence[Request], wanted: Tensor) -> WeightPatch:
        """Compute the updates that bring the last edited block's outputs to ``wanted``, [edits, d] (Algorithm 1)."""
        rows = [row for request in requests for row in request.rewrites]
        counts = [len(request.rewrites) for request in requests]
        done = WeightPatch(factors={})
        for number, layer in enumerate(self.layers):
            # a. With the updates of the lower layers: keys (a row per prompt), and outputs of the last edited block.
            with done.stacked_on(self.model):
                keys, states = subject_states(self.model, rows, layer=layer, last=self.layers[-1])
                read = requests if self.config.hold else ()
                held = OtherTokens(self.model, read, [layer], memory=0.0).at(layer)  # H: keys of other tokens
            means = [(own[0] + own[1:].mean(0)) / 2 if len(own) > 1 else own[0] for own in keys.split(counts)]
            mean_keys = torch.stack(means, 1).double()  # K, [d_ff, edits]

            # b. This layer's share R, [d, edits], of the remaining difference.
            bare = torch.stack([own[0] for own in states.split(counts)])
            missing = (wanted.to(states.device) - bare).T / (len(self.layers) - number)

            # c. W + R K^T (lambda (C + hold H) + K K^T)^-1 (Eq. 14, with H).
            weight = self.config.mom2_weight or len(mean_keys) / 10
            solved = self.covariances[layer].solve(mean_keys, others=held, weight=self.config.hold)
            right = joint_directions(mean_keys, solved, weight=weight).float()
            update = Factors(left=missing.to(right.device), right=right)
            done = WeightPatch(factors={**done.factors, self.model.weight_name(layer): update})
        done.check_finite()
        return done

    def provenance(self) -> dict[str, Any]:
        """The model, the versions and the settings; with what these led to."""
        said = super().provenance()
        found = {str(layer): {"id": own.id, "tokens": own.tokens} for layer, own in self.covariances.items()}
        said["methods"][0] |= {"layers": list(self.layers), "contexts": list(self.contexts), "covariances": found}
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
    config = MemitConfig.preset(options.preset, parse_settings(options.set), method="memit")

    # 2. The model.
    model = LanguageModel.load(options.model)

    # 3. `make` for all edits at once.
    rows = run_edits(Memit(model, config), model, edits, options.out)

    # 4. A report on what changed. The model itself is unchanged; Patch.load(...).applied(model) gives the edited one.
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )


if __name__ == "__main__":
    with friendly():
        main()
