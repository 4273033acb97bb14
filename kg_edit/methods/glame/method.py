"""GLAME (Zhang et al., EMNLP 2024, arXiv 2402.13593): a relational GNN over the edit's subgraph makes the value.

1. The subgraph of an edit (s, r, o*): s -r-> o*, and at most m statements at each node up to n hops from s (their
   section 4.1, `kg_edit.graphs.source`).
2. Its nodes and relations as the model's early hidden states of their labels, [d] each (`kg_edit.graphs.encoding`).
3. n layers of an R-GNN give the subject's vector z_s^n [d]    (Eq. 5, `kg_edit.graphs.rgnn`).
4. m* = m + z_s^n                                              (Eq. 6, `GraphDelta`).
5. AdamW trains the edit's own R-GNN on the loss of m*         (Eq. 7, `kg_edit.locate_then_edit.objective`).
6. m* is written as in ROME                                    (Eq. 8, `kg_edit.methods.rome.method`).

`GraphValues` is the mixin that makes such values, for GLAME and for GLAME in batches (`kg_edit.methods.glame.batch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from kg_edit.edits.edit import Edit
from kg_edit.engine import chosen_engine
from kg_edit.engine.cuda_graphs import RepeatedInPlace
from kg_edit.graphs.encoding import EncodedSubgraph, Pooling, encode_subgraph
from kg_edit.graphs.source import check_graph
from kg_edit.locate_then_edit.descent import Delta
from kg_edit.locate_then_edit.objective import FurtherRow, Request
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import Trains, Workload
from kg_edit.methods.entries import method_entry
from kg_edit.methods.graph_reader import GraphReader, GraphSettings, fetch_subgraph
from kg_edit.methods.rome.method import FAST, PUBLISHED, RankOneConfig, RankOneMethod
from kg_edit.patches.base import Patch
from kg_edit.storage.setting_fields import Seed

if TYPE_CHECKING:
    from kg_edit.graphs.rgnn import RGNN
    from kg_edit.methods.composed_facts import ComposedFact

_REPRESENTATION_DEPTH = 0.1  # the paper says an early layer; as a fraction of the number of blocks
# For the setting ``graph_rows``, the defaults of GLAME-plus:
_STATEMENTS = 500  # statements of o* to choose from
_SHOWN = 3  # facts about other things before a question


class GraphConfig(GraphSettings):
    """Settings of the R-GNN, and of the subgraph that it reads."""

    learning_rate: float = Field(0.01, gt=0, description="learning rate of AdamW, for the R-GNN")
    weight_decay: float = Field(0.1, ge=0, description="weight decay of AdamW, for the R-GNN")
    representation_layer: int | None = Field(
        None, ge=0, description="k: block whose output represents the labels, 0-based; default 0.1 of the depth"
    )
    pooling: Pooling = Field(
        "last", description="vector of a label: its last token (paper), the mean of its tokens (public code), or both"
    )
    start_token: bool = Field(True, description="put the start-of-document token and a line break before a label")
    hops: PositiveInt = Field(2, description="n: number of hops of the subgraph, and of layers of the R-GNN")
    per_node: PositiveInt = Field(20, description="m: number of statements sampled at a node")
    aggregation: Literal["sum", "mean"] = Field(
        "mean", description="how the messages of a node's neighbours are combined (paper: sum)"
    )
    relations: bool = Field(True, description="messages include the relation; false: the paper's ablation w/ GNN")
    use_graph: bool = Field(True, description="use messages at all; false: the paper's ablation w/ MLP")
    final_activation: bool = Field(False, description="apply the activation g after the last layer too (paper)")
    slope: float = Field(0.0, ge=0, lt=1, description="slope of g below 0; the public program: 11/48")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after g while the R-GNN is trained (public program)")
    keep_lowest: bool = Field(
        False,
        description="end with the change of the lowest loss, if the last loss is more than 0.1 above it (public "
        "program); always so with dropout",
    )
    self_loops: bool = Field(False, description="each node is its own neighbour too (public program)")
    warm_start: bool = Field(
        False,
        description="start from the previous edit's R-GNN (public program); edits then depend on their order, and on "
        "where a run was stopped and continued",
    )
    normalise: bool = Field(True, description="scale the labels' vectors to root mean square 1")
    gate: bool = Field(
        True, description="multiply z by a learned number that starts at 0, so that step 0 is the unedited model"
    )
    clamp_norm_factor: float = Field(2.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|; published: 4")
    seed: Seed = Field(0, description="random seed of the contexts and of all other sampling")

    def idle(self) -> dict[str, str]:
        """Return the settings that only messages read, if none is sent.

        ``aggregation`` and ``self_loops`` are not among them although only messages read them: GLAME's presets set
        them, and glame-mlp, which sends no messages, takes these presets. They would raise an error there.
        """
        idle = dict(super().idle())
        if not self.use_graph:
            for name in ("relations", "per_node"):
                idle[name] = "use_graph=false sends no messages"
        return idle

    @property
    def subgraph_hops(self) -> int:
        """The number of hops of the subgraph: one for each layer of the R-GNN."""
        return self.hops

    def workload(self, *, edits: int) -> Workload:
        """Return the workload of the method, with an R-GNN instead of a free change."""
        return replace(super().workload(edits=edits), hops=self.hops)


class GraphValues(GraphReader):
    """Mixin for methods whose change of a value, m* - m or z - h, is the subject's vector z_s^n of an R-GNN.

    In the bases of `Glame` it stands before `RankOneMethod`, in those of `GlameBatch` before `Memit`. So ``super()``
    here reaches the method that it is mixed into, whose `_find_values_together` calls `propose` for the edits of a
    descent.
    """

    trains: ClassVar[Trains] = "graph network"
    config: GraphConfig
    _drawn: RGNN | None = None  # the R-GNN before any training, from which each edit starts
    _previous: RGNN | None = None  # the R-GNN of the edit before, from which an edit starts with ``warm_start``

    def propose(self, edits: Sequence[Edit], values: Tensor) -> tuple[Delta, list[dict[str, Any]]]:
        """Return the edits' changes, each by a new R-GNN on the edit's subgraph, and notes on the subgraphs.

        ``values`` are m, or in `GlameBatch` h, [edits, d].
        """
        deltas = list[GraphDelta]()
        notes = list[dict[str, Any]]()
        for edit, value in zip(edits, values, strict=True):
            encoded, subgraph_notes = self.encode(edit)
            notes.append(subgraph_notes)
            rgnn = self.start_rgnn(value)
            deltas.append(GraphDelta(encoded.to(value.device), value, self.config, rgnn=rgnn))
        return GraphDelta.together(deltas), notes

    def start_rgnn(self, value: Tensor) -> RGNN:
        """Return the R-GNN of a new edit: as it is drawn, or with ``warm_start`` as the previous edit left it."""
        if self._drawn is None:  # drawn once: in a large model, drawing takes longer than a step through its blocks
            self._drawn = new_rgnn(len(value), self.config).to(value.device)
        rgnn = deepcopy(self._drawn)
        if not self.config.warm_start:
            return rgnn
        if self._previous is not None:
            rgnn.load_state_dict(self._previous.state_dict())
        # The descent trains a joint R-GNN. `GraphDelta.together` makes the weights of this one views of the joint ones,
        # so they are trained too. The next edit finds this one trained, because `make_each` then ends each edit before
        # it begins the next.
        self._previous = rgnn
        return rgnn

    def encode(self, edit: Edit) -> tuple[EncodedSubgraph, dict[str, Any]]:
        """Return the edit's subgraph with hidden states as node vectors, and notes on it for the patch's record."""
        subgraph = self.subgraph(edit)
        encoded = encode_subgraph(
            self.model,
            subgraph,
            layer=self.representation_layer,
            pooling=self.config.pooling,
            start_token=self.config.start_token,
        )
        about_graph = dict(subgraph.graph)  # networkx keeps here what the source says of the subgraph, such as its kind
        notes = {"graph": about_graph, "nodes": len(subgraph), "edges": subgraph.number_of_edges()}
        if self.config.normalise:
            encoded = encoded.normalised()
        if self.config.self_loops:
            encoded = encoded.with_self_loops()
        return encoded, notes

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained for an edit: the weights of its R-GNN, two matrices [d, d] for each hop."""
        return 2 * self.config.hops * self.model.width**2

    @property
    def representation_layer(self) -> int:
        """k, the block (0-based) whose output represents the labels."""
        layer = self.config.representation_layer
        if layer is None:
            return round(_REPRESENTATION_DEPTH * len(self.model.blocks))
        return layer

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Make each edit alone, all in one descent.

        With ``warm_start`` there is a descent for each edit, in order, because it starts from the previous edit's
        R-GNN.
        """
        if not self.config.warm_start:
            return super().make_each(edits, before=before)
        results = list[Patch | Exception]()
        for edit in edits:
            results += super().make_each([edit], before=before)
        return tuple(results)

    def start_anew(self) -> None:
        """Forget the R-GNN of the previous edit."""
        self._previous = None

    def prepare(self) -> None:
        """Check that the representation layer exists, and prepare what the method needs: contexts and covariances."""
        self._check_representation_layer()
        super().prepare()

    def check(self, edits: Sequence[Edit]) -> None:
        """Check the prompts, the representation layer and the subgraph of each edit, before any edit is made."""
        super().check(edits)
        self._check_representation_layer()
        for edit in edits:
            with annotate_errors(edit):
                check_graph(self.subgraph(edit))

    def _check_representation_layer(self) -> None:
        """Raise an error if the model has no such block."""
        self.model.block(self.representation_layer)


def new_rgnn(width: int, config: GraphConfig) -> RGNN:
    """Return an R-GNN for vectors [``width``], with weights drawn by the settings' seed."""
    from kg_edit.graphs.rgnn import RGNN  # here, as PyTorch Geometric takes a second to import

    return RGNN(
        width,
        layers=config.hops,
        aggregation=config.aggregation,
        relations=config.relations,
        messages=config.use_graph,
        final_activation=config.final_activation,
        slope=config.slope,
        dropout=config.dropout,
        seed=config.seed,
    )


class GraphDelta(nn.Module, Delta):
    """The change m* - m of one edit, whose R-GNN is trained by AdamW (Eq. 6); or of many edits at once (`together`).

        z      = a |m| / sqrt(d) z_s^n             a: the gate, a learned number that starts at 0; without it z = z_s^n
        m* - m = z min(1, clamp_norm_factor |m| / |z|)

    The shapes are [d], and for many edits [edits, d], with weights [edits, d, d]. `descend` calls `change` for each
    evaluation of the loss, `learn` after its backward pass, and `settle` when an edit ends:

        change = delta.change()
        loss(change).backward()
        delta.learn()

    `__init__` decides in which of two ways these lines work:

    - On a CPU, with the plain engine or with dropout, `change` runs `forward`. The backward pass gives the R-GNN its
      gradients, and `learn` takes the step of AdamW.
    - On CUDA the kernels of `forward` and of its gradient are recorded at the first call (`RepeatedInPlace`). `change`
      replays `forward`, and autograd knows nothing of that: the backward pass ends at ``change``. `learn` replays the
      gradient of `forward`, which gives the R-GNN its gradients, and then takes the step.
    """

    def __init__(self, encoded: EncodedSubgraph, value: Tensor, config: GraphConfig, *, rgnn: RGNN) -> None:
        super().__init__()
        self._encoded = encoded
        self._value = value  # m
        self._config = config
        self.rgnn = rgnn
        self.keeps_lowest = config.keep_lowest or config.dropout > 0
        self._value_norm = value.norm(dim=-1, keepdim=True)  # |m|, [..., 1]
        self.gate = None
        if config.gate:
            self.gate = nn.Parameter(torch.zeros_like(self._value_norm[..., 0]))  # [...]: one number for each edit
        # Dropout is drawn on the CPU, so that it is the same on all devices; a CUDA graph can't contain that.
        on_gpu = value.device.type == "cuda" and chosen_engine() == "fast"
        self._replay = RepeatedInPlace(capture=on_gpu and not config.dropout)

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW for the parameters, made at the first `learn`; so changes that `together` joins never have one."""
        config = self._config
        fused = None  # PyTorch's default
        if self._value.device.type == "cuda":
            fused = True  # one pass over the weights instead of a dozen
        return torch.optim.AdamW(
            self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused
        )

    @classmethod
    def together(cls, deltas: Sequence[GraphDelta]) -> GraphDelta:
        """Return the changes of many edits as one, whose R-GNNs take their steps together.

        The parameters of ``deltas`` become parts of the joint ones, in the same memory, so that they are trained too.
        """
        from kg_edit.graphs.rgnn import RGNN, share_memory

        joint = cls(
            EncodedSubgraph.together([delta._encoded for delta in deltas]),
            torch.stack([delta._value for delta in deltas]),
            deltas[0]._config,
            rgnn=RGNN.together([delta.rgnn for delta in deltas]),
        )
        if joint.gate is not None:
            share_memory("gate", joint, deltas)
        return joint

    def change(self) -> Tensor:
        """Return the present change m* - m, shaped like the value: the result of `forward`, run or replayed."""
        parameters = dict(self.named_parameters())

        # What is recorded has to be a function of tensors, so the parameters are its arguments.
        def run_forward(*tensors: Tensor) -> Tensor:
            by_name = dict(zip(parameters, tensors, strict=True))
            result: Tensor = functional_call(self, by_name, ())
            return result

        return self._replay(run_forward, *parameters.values())

    def forward(self) -> Tensor:
        """Compute m* - m, shaped like the value; gradients flow through the rescaling."""
        encoded = self._encoded
        nodes = self.rgnn(encoded.nodes, encoded.edges, encoded.relations, encoded.sizes)  # [..., nodes, d]
        all_nodes = nodes.flatten(0, -2)  # [nodes, d]; of many edits [edits * nodes, d], one edit after the other
        # z_s^n, [d] or [edits, d]: ``subject`` is a row of ``all_nodes``, or one row for each edit.
        subject_vector: Tensor = all_nodes[encoded.subject]
        z = subject_vector
        if self.gate is not None:  # z = a |m| / sqrt(d) z_s^n, a: the gate
            z = subject_vector * (self.gate[..., None] * self._value_norm / subject_vector.shape[-1] ** 0.5)
        # m* - m = z min(1, clamp_norm_factor |m| / |z|)
        limit = self._config.clamp_norm_factor * self._value_norm
        norm = z.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        change: Tensor = z * (limit / norm).clamp(max=1.0)
        return change

    @torch.no_grad()
    def settle(self) -> Tensor | None:
        """Return the changes without dropout, shaped like the value; None if there is no dropout."""
        if not self._config.dropout:
            return None
        self.eval()  # without dropout
        change: Tensor = self()  # runs `forward`
        self.train()
        return change

    def describe(self, edits: Sequence[int]) -> list[dict[str, Any]]:
        """Return for each edit, layer by layer, the share of the subject's vector that comes by messages (Eq. 5)."""
        if not self._config.use_graph:
            return super().describe(edits)
        encoded = self._encoded
        traced = self.rgnn.trace(encoded.nodes, encoded.edges, encoded.relations, encoded.subject)
        shares = torch.stack([terms.share_by_messages for terms in traced], dim=-1)  # [..., layers]
        shares = shares.reshape(-1, len(traced))  # [edits, layers]
        notes = list[dict[str, Any]]()
        for edit in edits:
            rounded = [round(share, 4) for share in shares[edit].tolist()]  # one for each layer
            notes.append({"share_by_messages": rounded})
        return notes

    def learn(self) -> None:
        """Take one step of AdamW on the R-GNN's weights and the gate, after the backward pass of the loss."""
        # If `change` was replayed, the parameters get their gradients here; else they have them already.
        self._replay.pass_on(self.parameters())
        self._optimizer.step()
        self._optimizer.zero_grad()


_PAPER: dict[str, Any] = {
    **PUBLISHED,
    "aggregation": "sum",
    "start_token": False,
    "final_activation": True,
    "slope": 11 / 48,
    "keep_lowest": True,
    "normalise": False,
    "gate": False,
}


class GlameConfig(GraphConfig, RankOneConfig):
    """GLAME's settings, and ``graph_rows``, which puts what the graph states into the loss as well.

    Presets:

    - ``default``: the change starts at 0, that is, at the unedited model.
    - ``paper``: the paper's equations. What the paper does not say is as in the public code (the learning rate, the
      clamp, `keep_lowest`, and as g a leaky ReLU: after a ReLU, m* - m could have no negative coordinate) or as in ROME
      (the contexts and 20 steps; the public code has 25 to 50 steps, by data set, and so have the presets of models).
    - ``code``: the settings of the public code for GPT-J on CounterFact. The layers are the default ones, and
      ``per_node`` is the paper's 20 for GPT-2 XL (the code has 19 there, and 34 for GPT-J). `RGNN` lists where that
      code differs from the paper. Two differences from the code remain. The clamp rescales the change in every
      evaluation, also in the first, and gradients flow through it. The statements are a seeded sample, and not the
      first ones of a file.
    """

    graph_rows: NonNegativeInt = Field(
        0,
        description="maximum number of statements of o* that the R-GNN learns as questions about s, besides the edit "
        "itself as two questions; published: 0, no such rows",
    )
    graph_weight: float = Field(2.0, ge=0, description="weight of the mean loss of these rows")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": FAST,
        "paper": _PAPER,
        "code": {
            **_PAPER,
            "aggregation": "mean",
            "context_lengths": ((5, 10), (10, 10), (20, 10)),
            "steps": 35,
            "stop_below": 0.04,
            "pooling": "mean",
            "dropout": 0.15,
            "self_loops": True,
            "warm_start": True,
        },
    }

    def idle(self) -> dict[str, str]:
        """Return the settings without effect: those of `GraphConfig`, and the weight of rows if there are none."""
        idle = super().idle()
        if not self.graph_rows:
            idle["graph_weight"] = "graph_rows=0 puts no row into the loss"
        return idle

    def workload(self, *, edits: int) -> Workload:
        """Return the workload of the R-GNN, with a row for each statement and two for the edit as questions."""
        workload = super().workload(edits=edits)
        if not self.graph_rows:
            return workload
        return replace(workload, rows=workload.rows + self.graph_rows + 2)


class Glame(GraphValues, RankOneMethod):
    """m* = m + z_s^n (Eq. 6), where z_s^n is the subject's vector after n layers of the R-GNN.

    With ``graph_rows`` the loss is Eq. 7 + graph_weight * the mean over the rows of -log p(o'): for a statement
    o* -r'-> o' of the graph the row "Q: What is the r' of the r of s? A:" o' (`kg_edit.methods.composed_facts`), and
    the edit as two questions.
    """

    entry = method_entry("glame")
    config_class = GlameConfig
    config: GlameConfig

    def request(self, edit: Edit) -> Request:
        """Return the prompts of the edit, and with ``graph_rows`` the graph's facts as further rows and in the notes.

        An unusable subgraph raises here, before any expensive work.
        """
        check_graph(self.subgraph(edit))
        request = super().request(edit)
        if not self.config.graph_rows:
            return request
        facts = self.find_stated_facts(edit)
        # A fact's `hop` is a phrase, not a number of hops: {"currency of the country of origin": "yen"}.
        learned = {fact.hop: fact.target for fact in facts}
        return replace(request, further=self.make_rows(edit, facts), notes={"learned": learned})

    def find_stated_facts(self, edit: Edit) -> list[ComposedFact]:
        """Return what the graph states of o*, and the edit itself, as facts about s.

        They are chosen from up to `_STATEMENTS` statements of o*, not only from those that are sampled for the R-GNN.
        No fact has the answer of a test question.
        """
        from kg_edit.methods.composed_facts import stated_facts  # here, as the published form has no rows

        assert self.graph is not None  # noqa: S101 - needs_graph
        wide_settings = self.config.model_copy(update={"per_node": _STATEMENTS})
        subgraph = fetch_subgraph(self.graph, edit, wide_settings)
        return stated_facts(self.model, edit, subgraph, most=self.config.graph_rows, exclude=self.test_answers(edit))

    def make_rows(self, edit: Edit, facts: Sequence[ComposedFact]) -> tuple[FurtherRow, ...]:
        """Return ``facts`` as questions about s, whose weights in the loss sum to ``graph_weight``."""
        from kg_edit.methods.composed_facts import rows_of

        with_answers = [(fact, None) for fact in facts]  # None: the row predicts the fact's target
        rows = rows_of(self.model, edit.subject, with_answers, shown=_SHOWN)
        return tuple(replace(row, weight=self.config.graph_weight / len(rows)) for row in rows)
