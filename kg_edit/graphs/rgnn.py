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
        """Return z' [nodes, d] for ``edges`` [2, edges] (object, subject) and ``relations`` [edges, d]."""
        result = nodes @ self.itself.T  # W_2 z_s
        if not self._graph:
            return result
        received: Tensor = self.propagate(edges, nodes=nodes, relations=relations)  # aggr (z_o + z_r), [nodes, d]
        return result + received @ self.neighbours.T  # W_1 of a sum is the sum of W_1

    def propagate(self, edges: Tensor, *, nodes: Tensor, relations: Tensor) -> Tensor:
        """Call the base class's method.

        Without this override, PyG leaves a compiled copy of the class in the temporary folder.
        """
        received: Tensor = super().propagate(edges, nodes=nodes, relations=relations)
        return received

    def message(self, nodes_j: Tensor, relations: Tensor) -> Tensor:
        """Return an edge's message: z_o + z_r, or z_o alone without relations, [edges, d]."""
        return nodes_j + relations if self._relations else nodes_j


class RGNN(nn.Module):
    """``layers`` times a `RelationalLayer`, each followed by g (the last one only if ``final_activation``).

    Args:
        width: d, the width of node and relation vectors.
        layers: n, the number of layers.
        aggregation: how the messages of a node's neighbours are combined.
        relations: whether messages include the relation.
        graph: whether there are messages at all.
        final_activation: whether g follows the last layer too.
        slope: the slope of g, a leaky ReLU, below 0; 0 gives the paper's ReLU.
        dropout: the dropout after g in training.
        self_loops: whether each node is one of its own neighbours, by the relation of the first edge: in the public
            program, these edges carry relation 1 of an unordered list.
        seed: the seed of the initial weights and of dropout.
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
        self._final_activation = final_activation
        self.layers = nn.ModuleList(
            RelationalLayer(width, aggregation=aggregation, relations=relations, graph=graph) for _ in range(layers)
        )
        # Xavier-uniform with ReLU's gain, as in the public code, from our own random generator.
        self._drawn = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("relu"), generator=self._drawn)

    def forward(self, nodes: Tensor, edges: Tensor, relations: Tensor) -> Tensor:
        """Return z^n [nodes, d] for ``edges`` [2, edges] (object, subject) and ``relations`` [edges, d]."""
        if self._self_loops:
            own = torch.arange(len(nodes), device=edges.device).expand(2, -1)  # [2, nodes]
            edges = torch.cat([edges, own], 1)
            relations = torch.cat([relations, relations[:1].expand(len(nodes), -1)])
        for index, layer in enumerate(self.layers, start=1):
            nodes = layer(nodes, edges, relations)
            if index < len(self.layers) or self._final_activation:
                nodes = nn.functional.leaky_relu(nodes, self._slope)
                if self.training and self._dropout:  # from the network's own generator, so that a run can be repeated
                    active = torch.rand(nodes.shape, generator=self._drawn).to(nodes.device) >= self._dropout
                    nodes = nodes * active / (1 - self._dropout)
        return nodes
