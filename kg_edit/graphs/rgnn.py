"""The relational GNN of GLAME's Eq. 5 (Zhang et al., EMNLP 2024, arXiv 2402.13593), on PyTorch Geometric.

    z_s^(l+1) = g(W_1 aggr_{(r, o)} (z_o^l + z_r) + W_2 z_s^l),   z [nodes, d], z_r [edges, d], W_1, W_2 [d, d]

for the statements s -r-> o of the subgraph, n times; aggr is the paper's sum, or the mean. The ablations of the
paper's table 2 leave out z_r ("w/ GNN") or all messages ("w/ MLP"). The public program differs from the paper: it has a
leaky g, dropout after g, and every node as its own neighbour (`RGNN`'s options).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

Aggregation = Literal["sum", "mean"]


class RelationalLayer(MessagePassing):  # type: ignore[misc]
    """z_s' = W_1 aggr_{(r, o)} (z_o + z_r) + W_2 z_s: a relation is a vector, added to the neighbour to which it leads.

    Messages run from object to subject. ``relations=False`` leaves z_r out ("w/ GNN"), ``graph=False`` the whole sum
    ("w/ MLP").
    """

    def __init__(self, width: int, *, aggregation: Aggregation, relations: bool, graph: bool) -> None:
        super().__init__(aggr=aggregation)
        self._relations, self._graph = relations, graph
        self.neighbours = nn.Parameter(torch.empty(width, width))  # W_1
        self.itself = nn.Parameter(torch.empty(width, width))  # W_2

    def forward(self, nodes: Tensor, edges: Tensor, relations: Tensor) -> Tensor:
        """``nodes`` [nodes, d], ``edges`` [2, edges] (object, subject), ``relations`` [edges, d] -> [nodes, d]."""
        result = nodes @ self.itself.T
        if not self._graph:
            return result
        received: Tensor = self.propagate(edges, nodes=nodes, relations=relations)
        return result + received @ self.neighbours.T  # W_1 of a sum is the sum of W_1

    def propagate(self, edges: Tensor, *, nodes: Tensor, relations: Tensor) -> Tensor:
        """Call the base class's method.

        Without this override, PyG leaves a compiled copy of the class in the temporary folder.
        """
        received: Tensor = super().propagate(edges, nodes=nodes, relations=relations)
        return received

    def message(self, nodes_j: Tensor, relations: Tensor) -> Tensor:
        """An edge's message: z_o + z_r, or z_o alone without relations, [edges, d]."""
        return nodes_j + relations if self._relations else nodes_j


class RGNN(nn.Module):
    """``layers`` times a `RelationalLayer`, each followed by g (the last one only if ``final_activation``).

    g is the leaky ReLU with ``slope``; 0 gives the paper's ReLU. ``dropout`` is applied after g in training. With
    ``self_loops`` each node is one of its own neighbours, by the relation of the first edge: in the public program,
    these edges carry relation 1 of an unordered list.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int = 2,
        aggregation: Aggregation = "sum",
        relations: bool = True,
        graph: bool = True,
        final_activation: bool = True,
        slope: float = 0.0,
        dropout: float = 0.0,
        self_loops: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._slope, self._dropout, self._self_loops = slope, dropout, self_loops
        self.layers = nn.ModuleList(
            RelationalLayer(width, aggregation=aggregation, relations=relations, graph=graph) for _ in range(layers)
        )
        self._final_activation = final_activation
        self._drawn = torch.Generator().manual_seed(seed)
        self._initialise(self._drawn)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Xavier-uniform with ReLU's gain, as in the public code, from our own random generator."""
        for weight in self.parameters():
            nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("relu"), generator=generator)

    def forward(self, nodes: Tensor, edges: Tensor, relations: Tensor) -> Tensor:
        """``nodes`` [nodes, d], ``edges`` [2, edges] (object, subject), ``relations`` [edges, d] -> z^n [nodes, d]."""
        if self._self_loops:
            edges, relations = _with_self_loops(nodes, edges, relations)
        for index, layer in enumerate(self.layers, start=1):
            nodes = layer(nodes, edges, relations)
            if index < len(self.layers) or self._final_activation:
                nodes = self._dropped(nn.functional.leaky_relu(nodes, self._slope))
        return nodes

    def _dropped(self, nodes: Tensor) -> Tensor:
        """Dropout from the network's own generator, so that a run can be repeated."""
        if not (self.training and self._dropout):
            return nodes
        kept = torch.rand(nodes.shape, generator=self._drawn).to(nodes.device) >= self._dropout
        return nodes * kept / (1 - self._dropout)


def _with_self_loops(nodes: Tensor, edges: Tensor, relations: Tensor) -> tuple[Tensor, Tensor]:
    """``edges`` [2, edges + nodes] and ``relations``, with one more edge for each node."""
    own = torch.arange(len(nodes), device=edges.device).expand(2, -1)
    shared = relations[:1].expand(len(nodes), -1)
    return torch.cat([edges, own], 1), torch.cat([relations, shared])
