"""Many token sequences in one row: what they share from the start is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class TokenTree:
    """Prefix trees of token sequences. A node sees its ancestors and itself; its position is its depth.

    One forward pass over the nodes, in one row without padding, gives each sequence the hidden states it has alone.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._owners: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, ids: Sequence[int], *, owner: int = 0) -> list[int]:
        """Add a sequence; its nodes, one a token. Sequences of different owners share none."""
        path: list[int] = []
        for depth, token in enumerate(ids):
            path.append(self._child(path[-1] if path else -1 - owner, token, depth, owner))
        return path

    def _child(self, parent: int, token: int, depth: int, owner: int) -> int:
        node = self._children.setdefault((parent, token), len(self._tokens))
        if node == len(self._tokens):
            self._tokens.append(token)
            self._parents.append(parent)
            self._depths.append(depth)
            self._owners.append(owner)
        return node

    def ids(self) -> Tensor:
        """Token ids [1, nodes]."""
        return torch.tensor([self._tokens])

    def positions(self) -> Tensor:
        """Position ids [1, nodes]."""
        return torch.tensor([self._depths])

    def owners(self) -> Tensor:
        """Whose each node is, [1, nodes]."""
        return torch.tensor([self._owners])

    def mask(self, dtype: torch.dtype) -> Tensor:
        """The attention mask [1, 1, nodes, nodes] to be added to attention scores: 0 for what a node sees."""
        seen = torch.eye(len(self), dtype=torch.bool)
        for node, parent in enumerate(self._parents):
            if parent >= 0:  # parents stand before their children
                seen[node] |= seen[parent]
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]
