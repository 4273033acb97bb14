"""MEMIT-KG (Zhang et al., EMNLP 2024) on one page: read it from top to bottom, copy it, change it.

MEMIT (memit.py) for all edits (s, r, o -> o*) of the file and each fact that the knowledge graph has around their o*,
in one batch: facts of o* itself ("Los Angeles Lakers has its headquarters in"), and of s over the edited relation ("The
sports team of LeBron James has its headquarters in"). For each a state z of the last edited block is found that makes
the model say it; then each block in turn takes its share of what is still missing, by least squares.
The results are those of `kg-edit edit --method memit-kg`.

python pipelines/memit_kg.py edits.jsonl --graph wikidata.nt.gz --out out/
python pipelines/memit_kg.py edits.jsonl --set statements=0 --set composed=10 --out out/
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
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.memit.records import VALUE, Fact, FactValue, new_record, with_updates
from kg_edit.methods.memit_kg.method import MemitKgConfig
from kg_edit.methods.rome_kg.method import GraphRequestMethod
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.sampling import started_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.reports.edit_run import draw_subgraph, run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("memit_kg")
AT_ONCE = 32  # number of states that are found together; it affects the memory, not the result


class MemitKg(GraphRequestMethod):
    """The method, which `main` runs. To measure your changes, pass it to `kg_edit.evaluate.evaluate`."""

    name, paper = "memit-kg", "Zhang et al., EMNLP 2024, arXiv 2402.13593"  # the name is written into every patch
    about = "MEMIT, and the facts of the edit's subgraph as further requests in the same batch"
    joint = True  # `make` gets all edits of a call
    config_class = MemitKgConfig  # all settings, with their defaults: kg-edit methods memit-kg
    config: MemitKgConfig

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
        """Encode every prompt, also those of the facts, so that errors come before any other work."""
        for edit in edits:
            with annotate_errors(edit):
                for fact in self.facts(edit, edits):
                    Request.of(self.model, fact, ["{}"])

    def prepare(self) -> None:
        """Sample and measure before the first edit."""
        with untouched(self.model):
            refuse_norm_after_mlp(self.model, self.layers[-1])
            _ = self.contexts, self.covariances

    # All edits of a call, on the model with the edits of all earlier calls.

    def facts(self, edit: Edit, edits: Sequence[Edit]) -> list[Edit]:
        """Return the edit and the facts around it, in words of relation templates, unless they contradict an edit."""
        facts = self.further_edits(edit)  # numbers per kind: config.statements, composed, chained
        wanted = {own.text: own.target_new for own in edits}
        return [edit, *(fact for fact in facts if wanted.get(fact.text, fact.target_new) == fact.target_new)]

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make the patch of all edits: collect their facts, find the states, then one update per layer."""
        refuse_clash(edits)
        with untouched(self.model):  # frozen, evaluation mode; restores flags and random states
            # 1. Facts, and their prompts: "{context} {s} {r}" with o* as its target, and "{s} is a", which should stay.
            batch = [self.facts(edit, edits) for edit in edits]
            requests = [Request.of(self.model, fact, self.contexts) for facts in batch for fact in facts]

            # 2. z = h + delta for each fact: found by gradient descent.
            targets = [
                target
                for start in range(0, len(requests), AT_ONCE)
                for target in self.states(requests[start : start + AT_ONCE])
            ]
            found = iter(targets)
            pairs = zip([fact for facts in batch for fact in facts], requests, strict=True)
            written = (Fact(edit=fact, prompts=asked) for fact, asked in pairs)
            records = [
                new_record(self.name, edit, [next(written) for _ in facts], [next(found) for _ in facts])
                | self.notes(edit)
                for edit, facts in zip(edits, batch, strict=True)
            ]

            # 3. The layers, in ascending order.
            wanted = torch.stack([target.wanted for target in targets])  # [facts, d]
            update = self.write(requests, wanted)

        # 4. The patch: {name of a weight: update}, the provenance, and each z, with which an edit can be removed again.
        squares = [(own.left.norm(dim=0) * own.right.norm(dim=0)).square().cpu() for own in update.factors.values()]
        said = with_updates(records, torch.stack(squares).sum(0).sqrt())
        provenance = {**self.provenance(), "edits": said}
        return WeightPatch(factors=update.factors, provenance=provenance, state={VALUE: wanted.T})

    def states(self, requests: Sequence[Request]) -> list[FactValue]:
        """Find for each fact h, [d], the last edited block's output at the subject's last token, and delta, [d].

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
        """Compute the updates that bring the last edited block's outputs to ``wanted``, [facts, d] (Algorithm 1)."""
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
            mean_keys = torch.stack(means, 1).double()  # K, [d_ff, facts]

            # b. This layer's share R, [d, facts], of the remaining difference.
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
    """Read edits and a graph; write a patch and a report on its effect. An interrupted run resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, help="JSONL, JSON, CSV or TSV; plain triplets too")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument("--graph", default=str(packaged_extract()), help="N-Triples, TSV, folder, or SPARQL URL")
    parser.add_argument("--preset", default="default", help="named settings: default, paper, a model's")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # 1. The facts to change, the knowledge around them, and the settings.
    graph = WikidataCache(options.graph)
    edits = read_edits(options.edits, labels=graph).edits
    config = MemitKgConfig.preset(options.preset, parse_settings(options.set), method="memit-kg")

    # 2. The model.
    MemitKg.check_inputs(config, graph, edits)  # fetches every fact from the graph before the model is loaded
    model = LanguageModel.load(options.model)
    memit_kg = MemitKg(model, config, graph=graph)

    # 3. `make` for all edits at once.
    rows = run_edits(memit_kg, model, edits, options.out)
    draw_subgraph(memit_kg, edits[0], options.out)

    # 4. A report on what changed. The model itself is unchanged; Patch.load(...).applied(model) gives the edited one.
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )


if __name__ == "__main__":
    with friendly():
        main()
