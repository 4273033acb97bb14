"""The network of `glame-net`: it maps an edit's subgraph and clean value to the change of the value.

The subgraph of an edit is s -r-> o*, o* -r'-> o'. Each label is given as x, its hidden states in several blocks of the
language model, [readings, d]. With the clean value m [d]:

    z = P x                                   [h]      for the nodes s, o*, o'; the relations r, r' have their own P
    z_s, z_o* = RGNN(z)                       [h]      Eq. 5, two layers
    y = W_2 gelu(W_1 [z_s, z_o*, P r, m^, g^]) + S x_o* + G g^    [d]      m^ = m / rms(m), g^ = g / rms(g)
    m* - m = (|m| / sqrt(d)) y, no longer than ``limit`` |m|    [d]

where g = -dL_p/dm* [d] at m* = m, in the bare prompt only, is the direction in which the loss falls fastest; MEND reads
the gradient of a weight in the same way. A network may also work without g. W_2 and S start at 0, and G at the
identity. So the untrained network takes one step of length |m| down the gradient, or without g it changes nothing. The
subgraphs of many edits are processed as one batch.

`NetTraining` has the settings of the training, `NetManifest` is the manifest of the network's file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from kg_edit.edits.edit import Edit
from kg_edit.graphs.rgnn import RGNN
from kg_edit.methods.config import ContextLengths, LayerConfig
from kg_edit.methods.glame_plus.questions import first_hop
from kg_edit.methods.trained import training
from kg_edit.methods.trained.files import NETWORK, NetworkFormat, NetworkManifest, Trained
from kg_edit.models.language_model import LanguageModel

FORMAT = NetworkFormat(key="kg_edit_glame_net", thing="network", command="kg-edit glame-net train")
_EARLY = 0.1  # depth at which GLAME reads labels, as a fraction of the blocks
_LAYERS = 2  # layers of the R-GNN, so that the statements of o* reach s
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class ReadSubgraph:
    """The subgraph of an edit as labels, for the network; ``statements`` are pairs (noun of r', label of o')."""

    subject: str
    relation: str
    target: str
    statements: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, edit: Edit, objects: Mapping[str, Sequence[str]], *, statements: int, per_relation: int
    ) -> ReadSubgraph:
        """Return the subgraph of ``edit`` with at most ``statements`` statements from ``objects``.

        Each noun contributes at most ``per_relation`` of them.
        """
        pairs = [(noun, label) for noun, labels in objects.items() for label in labels[:per_relation]]
        return cls(
            subject=edit.subject,
            relation=first_hop(edit),
            target=edit.target_new,
            statements=tuple(pairs[:statements]),
        )

    @property
    def nodes(self) -> list[str]:
        """The labels of the nodes: s, o*, and the objects of the statements."""
        return [self.subject, self.target, *(label for _, label in self.statements)]

    @property
    def edges(self) -> list[str]:
        """The nouns of the edges: r, and the relations of the statements."""
        return [self.relation, *(noun for noun, _ in self.statements)]


@dataclass(frozen=True, eq=False, kw_only=True)
class GraphBatch:
    """A batch of subgraphs as one graph.

    ``nodes`` [nodes, x], ``edges`` [2, edges] (object, subject), ``relations`` [edges, x]. ``subjects`` and ``targets``
    [edits] are indices of rows of ``nodes``, ``own`` [edits] of rows of ``relations``.
    """

    nodes: Tensor
    relations: Tensor
    edges: Tensor
    subjects: Tensor
    targets: Tensor
    own: Tensor

    @classmethod
    def of(cls, graphs: Sequence[ReadSubgraph], reading: Callable[[str], Tensor]) -> GraphBatch:
        """Return the batch of ``graphs``; ``reading`` gives the vector [x] of a label."""
        nodes: list[str] = []
        relations: list[str] = []
        edges: list[tuple[int, int]] = []
        subjects: list[int] = []
        own: list[int] = []
        for graph in graphs:
            # rows of a subgraph: s, o*, then the objects o'; edges lead from the object to the subject, o* -> s and
            # o' -> o*, so that two layers bring o' to s
            subject, target = len(nodes), len(nodes) + 1
            subjects.append(subject)
            own.append(len(relations))
            nodes += graph.nodes
            relations += graph.edges
            edges += [(target, subject), *((target + 1 + place, target) for place in range(len(graph.statements)))]
        vectors = torch.stack([reading(label) for label in nodes])
        device = vectors.device
        return cls(
            nodes=vectors,
            relations=torch.stack([reading(label) for label in relations]),
            edges=torch.tensor(edges, device=device).T,
            subjects=torch.tensor(subjects, device=device),
            targets=torch.tensor(subjects, device=device) + 1,
            own=torch.tensor(own, device=device),
        )


class ValueNetwork(nn.Module):
    """The network f. ``width`` is d, ``inputs`` the length of x, ``hidden`` is h; with ``gradient`` it reads g."""

    def __init__(
        self, *, width: int, inputs: int, hidden: int, limit: float, gradient: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self._width, self._limit = width, limit
        self.step = nn.Parameter(torch.eye(width)) if gradient else None  # G
        known = (2 if gradient else 1) * width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.node, self.relation = nn.Linear(inputs, hidden), nn.Linear(inputs, hidden)
            self.rgnn = RGNN(hidden, layers=_LAYERS, aggregation="mean", final_activation=False, seed=seed)
            self.inner = nn.Linear(3 * hidden + known, 2 * hidden)
            self.outer = nn.Linear(2 * hidden, width)
            self.direct = nn.Linear(inputs, width, bias=False)
        for weight in (self.outer.weight, self.outer.bias, self.direct.weight):
            nn.init.zeros_(weight)

    @property
    def reads_gradient(self) -> bool:
        """Whether the network reads g."""
        return self.step is not None

    def forward(self, graphs: GraphBatch, value: Tensor, downhill: Tensor | None = None) -> Tensor:
        """Return the changes m* - m [edits, d] of clean values ``value`` [edits, d]; ``downhill`` is g [edits, d]."""
        relations = self.relation(graphs.relations)  # P r, [edges, h]
        states = self.rgnn(self.node(graphs.nodes), graphs.edges, relations)  # z, [nodes, h]
        parts = [states[graphs.subjects], states[graphs.targets], relations[graphs.own], _unit_rms(value)]
        y = self.direct(graphs.nodes[graphs.targets])  # S x_o*
        if self.step is not None and downhill is not None:
            parts.append(_unit_rms(downhill))
            y = y + parts[-1] @ self.step.T  # G g^
        y = y + self.outer(nn.functional.gelu(self.inner(torch.cat(parts, -1))))  # W_2 gelu(W_1 [...])
        size = value.norm(dim=-1, keepdim=True).clamp(min=_TINY)  # |m|, [edits, 1]
        change: Tensor = y * size / self._width**0.5
        shorter: Tensor = self._limit * size / change.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        return change * shorter.clamp(max=1.0)


def _unit_rms(vectors: Tensor) -> Tensor:
    """Scale ``vectors`` [edits, d] to a root mean square of 1; zero vectors stay 0."""
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp(min=_TINY)


class NetTraining(LayerConfig, training.TrainingConfig):
    """Settings of the training and of the network."""

    hidden: PositiveInt = Field(512, description="h: hidden size of the network")
    gradient: bool = Field(True, description="the network also reads the gradient of -log p(o*) in the bare prompt")
    statements: int = Field(12, ge=0, description="maximum number of statements of o* that the network reads")
    per_relation: PositiveInt = Field(2, description="maximum number of these statements with the same relation r'")
    clamp_norm_factor: float = Field(2.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|")
    kl_weight: float = Field(0.0625, ge=0, description="weight of L_a in Eq. 7")
    ripple_weight: float = Field(1.0, ge=0, description="weight of the questions in the loss, as in glame-plus")
    own: int = Field(
        0, ge=0, description="how often a visit (an edit in a training step) asks the edit itself as a question"
    )
    composed: int = Field(1, ge=0, description="number of composed facts that a visit asks")
    shown: int = Field(3, ge=0, description="number of facts about other things before a question")
    context_lengths: ContextLengths = Field(
        (), description="(tokens, count) of the sampled contexts; a visit uses one of them"
    )
    held_out: tuple[str, ...] = Field((), description="relations r' that are not trained, only measured in validation")
    steps: PositiveInt = Field(1000, description="maximum number of steps of AdamW")
    batch: PositiveInt = Field(16, description="edits in a step")
    cached: PositiveInt = Field(8, description="number of batches whose clean states are cached at a time")
    visits: PositiveInt = Field(
        2, description="number of steps for each cached batch before the next batches replace them"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    warm_up: PositiveInt = Field(
        30, description="steps in which the learning rate rises; after them it falls as a cosine"
    )
    clip: float = Field(1.0, gt=0, description="maximum norm of the gradient")
    targets_held_out: float = Field(0.1, gt=0, lt=1, description="fraction of all o* that are used for validation only")
    validation: PositiveInt = Field(
        64, description="maximum number of edits with held-out o* for validation, which chooses the best network"
    )
    validate_every: PositiveInt = Field(125, description="steps between two validations")

    def reading_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the blocks whose inputs are read for a label: the first, an early one, one after the edited block."""
        return tuple(sorted({0, round(_EARLY * blocks), min(self.layer_in(blocks) + 1, blocks - 1)}))


class Validation(training.Validation):
    """The mean losses on the held-out edits.

    ``greedy`` is the share of edits for which greedy decoding of the bare prompt gives o*. ``composed`` is -log p of
    the questions with learned relations, ``held_out`` that of the other questions; None if there are none.
    """

    nll: float
    greedy: float
    kl: float
    composed: float
    held_out: float | None


class NetManifest(NetworkManifest):
    """The metadata of a network: its model, and how it was trained.

    Attributes:
        width: d of the model.
        blocks: the number of its blocks.
        training: the settings.
        graph: which graph the edits come from.
        excluded: the digest of the things that must not occur in training.
        targets: the number of different o* in the training.
        validations: the losses on the held-out edits.
    """

    width: int
    blocks: int
    training: NetTraining
    graph: dict[str, Any] = Field({})
    excluded: str = ""
    targets: int = 0
    validations: tuple[Validation, ...] = ()

    @classmethod
    def of(cls, model: LanguageModel, settings: NetTraining, training: Mapping[str, Any] | None = None) -> Self:
        """Return the manifest of a network for ``model``; ``training`` has other fields, about what it learned."""
        return cls(
            model=model.fingerprint,
            model_name=model.name,
            width=model.width,
            blocks=len(model.blocks),
            training=settings,
            **(training or {}),
        )

    @property
    def layer(self) -> int:
        """The block that is edited."""
        return self.training.layer_in(self.blocks)

    @property
    def reading_layers(self) -> tuple[int, ...]:
        """The blocks whose inputs are read for a label."""
        return self.training.reading_layers(self.blocks)

    def network(self) -> ValueNetwork:
        """Return the untrained network."""
        return ValueNetwork(
            width=self.width,
            inputs=2 * len(self.reading_layers) * self.width,
            hidden=self.training.hidden,
            limit=self.training.clamp_norm_factor,
            gradient=self.training.gradient,
            seed=self.training.seed,
        )


def load_net(folder: Path, model: LanguageModel) -> Trained[ValueNetwork, NetManifest]:
    """Load the network that `kg-edit glame-net train` wrote to ``folder``, on the device of ``model``.

    Raises:
        ModelError: the folder has no network, or its file is damaged.
        PatchMismatchError: the network was trained for another model.
    """
    found = FORMAT.trained(folder, model, NetManifest, NetManifest.network)
    if (found.manifest.width, found.manifest.blocks) != (model.width, len(model.blocks)):
        raise FORMAT.damaged(folder / NETWORK, f"its width and number of blocks are not those of {model.name!r}")
    return found
