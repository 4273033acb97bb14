"""The relational GNN of GLAME's Eq. 5 (Zhang et al., EMNLP 2024, arXiv 2402.13593), on PyTorch Geometric.

    z_s^(l+1) = g(W_1 aggr_{(r, o)} (z_o^l + z_r) + W_2 z_s^l),   z [nodes, d], z_r [edges, d], W_1, W_2 [d, d]

for the statements s -r-> o of the subgraph, n times; aggr is the paper's sum, or the mean. The ablations of the
paper's table 2 leave out z_r ("w/ GNN") or all messages ("w/ MLP"). The public program differs from the paper: it has a
leaky g, dropout after g (`RGNN`'s options), and every node as its own neighbour (`EncodedSubgraph.with_self_loops`).

Many edits, each with its own network, run as one: weights are then [graphs, d, d] and nodes [graphs, nodes, d].
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch_geometric.nn import MessagePassing

Aggregation = Literal["sum", "mean"]


class RelationalLayer(MessagePassing):  # type: ignore[misc]
    """z_s' = W_1 aggr_{(r, o)} (z_o + z_r) + W_2 z_s: a relation is a vector, added to the neighbour to which it leads.

    Messages run from object to subject. ``relations=False`` leaves z_r out ("w/ GNN"), ``messages=False`` the whole
    sum ("w/ MLP").
    """

    def __init__(self, width: int, *, aggregation: Aggregation, relations: bool, messages: bool) -> None:
        super().__init__(aggr=aggregation)
        self._relations = relations
        self._messages = messages
        self.neighbours = nn.Parameter(torch.empty(width, width))  # W_1
        self.itself = nn.Parameter(torch.empty(width, width))  # W_2

    def forward(self, nodes: Tensor, edges: Tensor, relations: Tensor) -> Tensor:
        """Return z' [..., nodes, d] for ``edges`` [2, edges] (object, subject) and ``relations`` [edges, d]."""
        by_messages, by_itself = self.terms(nodes, edges, relations)
        if by_messages is None:
            return by_itself
        return by_itself + by_messages

    def terms(self, nodes: Tensor, edges: Tensor, relations: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the two terms of Eq. 5 before g: W_1 aggr (z_o + z_r), and W_2 z_s, [..., nodes, d] each.

        The first is what a node gets by messages, None without them; the second is what it keeps of itself.
        """
        by_itself = nodes @ self.itself.mT  # W_2 z_s
        if not self._messages:
            return None, by_itself
        # No edge leads from one graph to another, so the nodes of all graphs can be passed as those of one.
        all_nodes = nodes.flatten(0, -2)  # [all nodes, d]
        received = self.propagate(edges, nodes=all_nodes, relations=relations)  # aggr (z_o + z_r)
        received = received.reshape(nodes.shape)
        # W_1 is linear: applied once to the sum, it gives the sum of W_1 (z_o + z_r).
        return received @ self.neighbours.mT, by_itself

    def propagate(self, edges: Tensor, *, nodes: Tensor, relations: Tensor) -> Tensor:
        """Call the base class's method.

        Without this override, PyG leaves a compiled copy of the class in the temporary folder.
        """
        received: Tensor = super().propagate(edges, nodes=nodes, relations=relations)
        return received

    def message(self, nodes_j: Tensor, relations: Tensor) -> Tensor:
        """Return an edge's message, z_o + z_r or z_o alone, [edges, d]; PyG puts z_o of each edge into ``nodes_j``."""
        if self._relations:
            return nodes_j + relations
        return nodes_j


@dataclass(frozen=True, eq=False, kw_only=True)
class SubjectTerms:
    """The terms of Eq. 5 at the subject in one layer, [d] each; of many graphs at their subjects, [graphs, d].

    Attributes:
        by_messages: W_1 aggr (z_o + z_r).
        by_itself: W_2 z_s.
        z: g of their sum.
    """

    by_messages: Tensor
    by_itself: Tensor
    z: Tensor

    @property
    def share_by_messages(self) -> Tensor:
        """The part of the sum that comes by messages, measured along the sum: 0 none, 1 all; [] or [graphs].

        With v the sum and w = W_1 aggr (z_o + z_r), it is (w . v) / |v|^2. Below 0, the messages point against the sum.
        """
        v = self.by_messages + self.by_itself
        return (self.by_messages * v).sum(-1) / v.square().sum(-1).clamp(min=1e-12)


class RGNN(nn.Module):
    """``layers`` times a `RelationalLayer`, each followed by g (the last one only if ``final_activation``).

    Args:
        width: d, the width of node and relation vectors.
        layers: n, the number of layers.
        aggregation: how the messages of a node's neighbours are combined.
        relations: whether messages include the relation.
        messages: whether there are messages at all.
        final_activation: whether g follows the last layer too.
        slope: the slope of g, a leaky ReLU, below 0; 0 gives the paper's ReLU.
        dropout: the dropout after g in training.
        seed: the seed of the initial weights and of dropout.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: int = 2,
        aggregation: Aggregation = "sum",
        relations: bool = True,
        messages: bool = True,
        final_activation: bool = True,
        slope: float = 0.0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._slope = slope
        self._dropout_rate = dropout
        self._final_activation = final_activation
        self.layers = nn.ModuleList(
            RelationalLayer(width, aggregation=aggregation, relations=relations, messages=messages)
            for _ in range(layers)
        )
        # Xavier-uniform with ReLU's gain, as in the public code, from our own random generator.
        self._generators = [torch.Generator().manual_seed(seed)]
        with torch.no_grad():
            for weight in self.parameters():
                nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("relu"), generator=self._generators[0])

    @classmethod
    def together(cls, networks: Sequence[RGNN]) -> RGNN:
        """Return networks of one shape as one, with weights [graphs, d, d].

        The networks' own weights become views of these: what trains the joint weights trains each network.
        """
        combined = deepcopy(networks[0])
        combined._generators = []
        for network in networks:
            combined._generators += network._generators
        for number, layer in enumerate(combined.layers):
            parts = [network.layers[number] for network in networks]
            for name, _ in list(layer.named_parameters()):
                share_memory(name, layer, parts)
        return combined

    def forward(self, nodes: Tensor, edges: Tensor, relations: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        """Return z^n, shaped like ``nodes``.

        Args:
            nodes: z, [nodes, d]; of several graphs [graphs, nodes, d].
            edges: [2, edges] (object, subject), indices of nodes; node i of graph g has the index g * nodes + i.
            relations: z_r, [edges, d].
            sizes: how many nodes each of several graphs has without padding.
        """
        if not sizes:
            sizes = (nodes.shape[-2],)  # one graph, which has no padding
        drops = self.training and self._dropout_rate > 0
        for layer in self.layers:
            nodes = self.activate(layer(nodes, edges, relations), layer)
            if drops and self._has_activation(layer):
                nodes = self._drop_numbers(nodes, sizes)
        return nodes

    def _drop_numbers(self, nodes: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return ``nodes`` [..., nodes, d] after dropout: a number is 0 with probability p, or divided by 1 - p.

        Every graph draws from its own generator, as many numbers as its nodes have without padding (``sizes``), so an
        edit has the same draws alone and in a batch.
        """
        draws = []
        for size, generator in zip(sizes, self._generators, strict=True):
            draws.append(torch.rand(size, nodes.shape[-1], generator=generator))  # [nodes of this graph, d]
        drawn = pad_sequence(draws, batch_first=True)  # [graphs, nodes, d], 0 for padding, which is thus dropped
        kept = drawn.reshape(nodes.shape) >= self._dropout_rate
        return nodes * kept.to(nodes.device) / (1 - self._dropout_rate)

    def activate(self, nodes: Tensor, layer: nn.Module) -> Tensor:
        """Return g of the output of ``layer``, without dropout; the output itself after a last layer without g."""
        if not self._has_activation(layer):
            return nodes
        return nn.functional.leaky_relu(nodes, self._slope)

    def _has_activation(self, layer: nn.Module) -> bool:
        return layer is not self.layers[-1] or self._final_activation

    @torch.no_grad()
    def trace(self, nodes: Tensor, edges: Tensor, relations: Tensor, subject: int | Tensor) -> list[SubjectTerms]:
        """Return for each layer what the subject gets by messages and what it keeps, without dropout.

        The last ``z`` is the subject's vector z_s^n, which GLAME adds to m. The arguments are those of `forward`, and
        ``subject`` is the subject's row; of many graphs [graphs], the rows among those of all graphs.
        """
        traced = list[SubjectTerms]()
        for layer in self.layers:
            assert isinstance(layer, RelationalLayer)  # noqa: S101
            by_messages, by_itself = layer.terms(nodes, edges, relations)
            if by_messages is None:
                by_messages = torch.zeros_like(by_itself)
            nodes = self.activate(by_itself + by_messages, layer)
            terms = SubjectTerms(
                by_messages=by_messages.flatten(0, -2)[subject],
                by_itself=by_itself.flatten(0, -2)[subject],
                z=nodes.flatten(0, -2)[subject],
            )
            traced.append(terms)
        return traced


def share_memory(name: str, combined: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Stack the parameters ``name`` of ``parts`` into that of ``combined``, and make each part's own a view of it."""
    stacked = torch.stack([part.get_parameter(name).detach() for part in parts])  # [parts, ...]
    setattr(combined, name, nn.Parameter(stacked))
    for part, view in zip(parts, stacked, strict=True):
        setattr(part, name, nn.Parameter(view))
