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
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kg_edit.edits.edit import Edit
from kg_edit.graphs.rgnn import RGNN
from kg_edit.methods.glame_plus.questions import first_hop

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
        """The subgraph of ``edit`` with at most ``statements`` statements from ``objects``.

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
        """The batch of ``graphs``; ``reading`` gives the vector [x] of a label."""
        nodes: list[str] = []
        relations: list[str] = []
        edges: list[tuple[int, int]] = []
        subjects: list[int] = []
        own: list[int] = []
        for graph in graphs:
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
        """The changes m* - m [edits, d] of the clean values ``value`` [edits, d]; ``downhill`` is g [edits, d]."""
        relations = self.relation(graphs.relations)
        states = self.rgnn(self.node(graphs.nodes), graphs.edges, relations)
        size = value.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        parts = [states[graphs.subjects], states[graphs.targets], relations[graphs.own], _unit_rms(value)]
        found = self.direct(graphs.nodes[graphs.targets])
        if self.step is not None and downhill is not None:
            parts.append(_unit_rms(downhill))
            found = found + parts[-1] @ self.step.T
        found = found + self.outer(nn.functional.gelu(self.inner(torch.cat(parts, -1))))
        change: Tensor = found * size / self._width**0.5
        shorter: Tensor = self._limit * size / change.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        return change * shorter.clamp(max=1.0)


def _unit_rms(vectors: Tensor) -> Tensor:
    """``vectors`` [edits, d] scaled to a root mean square of 1; zero vectors stay 0."""
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp(min=_TINY)
