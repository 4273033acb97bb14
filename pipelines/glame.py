"""GLAME (Zhang et al., EMNLP 2024, arXiv 2402.13593) on one page: read it from top to bottom, copy it, change it.

An edit (s, r, o -> o*) becomes one rank-one update of one MLP's down-projection W: it answers the subject's key k with
m* = m + z instead of m. z is the subject's vector after a graph neural network has read what the knowledge graph says
of o*; the network is trained until m* makes the model say o*. The covariance C of W's other inputs keeps the rest as it
was. The results are those of `kg-edit edit --method glame`; without the graph it is rome.py.

python pipelines/glame.py edits.jsonl --model smollm2-135m --graph wikidata.nt.gz --out out/
python pipelines/glame.py edits.jsonl --preset paper --set hops=1 --set layer=5 --out out/
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import parse_settings
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import find_covariance
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.graphs.encoding import encode_subgraph
from kg_edit.graphs.rgnn import RGNN
from kg_edit.graphs.source import check_graph
from kg_edit.locate_then_edit.descent import Descent, descent_model, optimise_values
from kg_edit.locate_then_edit.objective import Objective, Request, tokens_within
from kg_edit.locate_then_edit.states import other_keys
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.methods.base import GraphReader, annotate_errors
from kg_edit.methods.glame.method import GlameConfig
from kg_edit.methods.rome.method import rank_one_update
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.sampling import sample_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.edit_run import draw_subgraph, run_edits
from wikidata_cache import WikidataCache, packaged_extract

log = logging.getLogger("glame")


class GraphDelta:
    """m* - m = z (Eq. 6), [d]: the subject's vector after n layers of an R-GNN (Eq. 5) that is trained for the edit."""

    def __init__(
        self,
        model: LanguageModel,
        subgraph: nx.MultiDiGraph,
        value: Tensor,
        config: GlameConfig,
        last: GraphDelta | None = None,
    ) -> None:
        layer = config.representation_layer
        layer = round(0.1 * len(model.blocks)) if layer is None else layer
        # Nodes [nodes, d] and relations [edges, d]: the model's own early hidden states of their labels.
        graph = encode_subgraph(model, subgraph, layer=layer, pooling=config.pooling, start_token=config.start_token)
        self.graph = (graph.normalised() if config.normalise else graph).to(value.device)
        # z_s' = ReLU(W_1 aggr_(r, o) (z_o + z_r) + W_2 z_s), as many layers as the subgraph has hops.
        self.rgnn = RGNN(
            len(value),
            layers=config.hops,
            aggregation=config.aggregation,
            relations=config.relations,
            graph=config.use_graph,
            final_activation=config.final_activation,
            slope=config.slope,
            dropout=config.dropout,
            self_loops=config.self_loops,
            seed=config.seed,
        ).to(value.device)
        if config.warm_start and last is not None:  # of the public program, not in the paper
            self.rgnn.load_state_dict(last.rgnn.state_dict())
        # Not in the paper: a learned factor that starts at 0, so that the first step starts from the unedited model.
        self.gate = nn.Parameter(value.new_zeros(())) if config.gate else None
        self.dropout = config.dropout
        self.size, self.limit = value.norm(), config.clamp_norm_factor * value.norm()
        learned = [*self.rgnn.parameters(), *([] if self.gate is None else [self.gate])]
        self.optimizer = torch.optim.AdamW(learned, lr=config.learning_rate, weight_decay=config.weight_decay)

    def change(self) -> Tensor:
        """Return z, [d]; its norm is at most clamp_norm_factor |m|."""
        z: Tensor = self.rgnn(self.graph.nodes, self.graph.edges, self.graph.relations)[self.graph.subject]
        if self.gate is not None:
            z = z * (self.gate * self.size / len(z) ** 0.5)
        shortened: Tensor = z * (self.limit / z.norm().clamp(min=1e-12)).clamp(max=1.0)
        return shortened

    def settled(self) -> Tensor | None:
        """Return z without dropout for the last evaluation, [d]; None if there is no dropout."""
        if not self.dropout:
            return None
        self.rgnn.eval()
        found = self.change().detach()
        self.rgnn.train()
        return found

    def learn(self) -> None:
        """Take a step of AdamW, after the gradient of `change` was computed."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class Glame(GraphReader):
    """The method, which `main` runs for each edit. To measure your changes, pass it to `kg_edit.evaluate.evaluate`."""

    name, paper = "glame", "Zhang et al., EMNLP 2024, arXiv 2402.13593"  # both are written into every patch
    about = "rank-one editing with a knowledge graph: facts that follow from the edit change too"
    config_class = GlameConfig  # all settings, with their defaults: kg-edit methods glame
    config: GlameConfig
    last: GraphDelta | None = None  # of the previous edit, for `warm_start`

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
        """Encode every prompt and fetch every subgraph, so that errors come before any other work."""
        self.model.block(self.layer)
        for edit in edits:
            with annotate_errors(edit):
                Request.of(self.model, edit, ["{}"])
                check_graph(self.subgraph(edit))

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
            # W's inputs over the contexts (Eq. 8); k [d_ff] and m [d], the input and output of W in the bare prompt.
            loss = self.loss(model, request)
            mean_key, bare_key, value = loss.mean_key[0], loss.bare_key[0], loss.value[0]

            # 3. m* - m = z, [d]: an R-GNN, trained by gradient descent, reads (s, r, o*) and the statements about o*.
            subgraph = self.subgraph(edit)
            self.last = GraphDelta(model, subgraph, value, self.config, self.last)
            found = self.optimise(loss, request, self.last)

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
            "graph": dict(subgraph.graph),
            "nodes": len(subgraph),
            "edges": subgraph.number_of_edges(),
        }
        return WeightPatch(
            factors={model.weight_name(layer): update}, provenance={**self.provenance(), "edits": [record]}
        )

    def loss(self, model: LanguageModel, request: Request) -> Objective:
        """The loss of m* (Eq. 7): -log p(o*) after every prompt, plus the change of output after "{s} is a"."""
        return Objective(
            model,
            self.layer,
            [request],
            kl_weight=self.config.kl_weight,
            forward=partial(TailForward, contexts=SharedContexts.of(model, self.contexts)),  # what a change affects
            tokens=tokens_within(model, self.layer, self.memory),
        )

    def optimise(self, loss: Objective, request: Request, delta: GraphDelta) -> Descent:
        """Find m* - m, [d], by AdamW on the weights of the R-GNN."""
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
    """Read edits and a graph; write a patch and a report on its effect. An interrupted run resumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, help="JSONL, JSON, CSV or TSV; plain triplets too")
    parser.add_argument("--model", default="smollm2-135m", help="name on the hub, folder, or GGUF file")
    parser.add_argument("--graph", default=str(packaged_extract()), help="N-Triples, TSV, folder, or SPARQL URL")
    parser.add_argument("--preset", default="default", help="named settings: default, fast, paper, a model's")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; repeatable")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    # 1. The facts to change, the knowledge around them, and the settings.
    graph = WikidataCache(options.graph)
    edits = read_edits(options.edits, labels=graph).edits
    config = GlameConfig.preset(options.preset, parse_settings(options.set), method="glame")

    # 2. The model.
    Glame.check_inputs(config, graph, edits)  # fetches every subgraph before the model is loaded
    model = LanguageModel.load(options.model)
    glame = Glame(model, config, graph=graph)

    # 3. `make` for each edit, on the model with the earlier edits; the patch is saved after every edit.
    rows = run_edits(glame, model, edits, options.out)
    draw_subgraph(glame, edits[0], options.out)

    # 4. A report on what changed. The model itself is unchanged; Patch.load(...).applied(model) gives the edited one.
    for row in rows:
        log.info(
            "%-10s %s\n  before: %s\n  after:  %s", row.probe.kind, row.probe.prompt, row.before.text, row.after.text
        )


if __name__ == "__main__":
    with friendly():
        main()
