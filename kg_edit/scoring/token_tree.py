"""Token sequences that share their beginnings: each beginning is computed once.

The sequences "the cat sat", "the cat ran" and "the dog" become a `TokenTree` of five nodes in one row:

    nodes    the  cat  sat  ran  dog
    depth    0    1    2    2    1        the position of a node
    parent   -    0    1    1    0        a node attends to its ancestors and itself

`TreeRows` are several such rows of one forward pass, [rows, width]. Attention costs rows x width², so many narrow rows
cost less than one wide row with the same number of nodes. The sequences that share one tree are a group, and
`pack_groups` distributes groups to rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class TokenTree:
    """Prefix trees of token sequences, packed into one row. A node attends to its ancestors and itself.

    One forward pass over the nodes gives each sequence the same hidden states as a pass of its own.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.owners: list[int] = []
        self._parents: list[int] = []
        self._children: dict[tuple[int, int, bool], int] = {}  # by parent, token, and whether a prompt ends there

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, ids: Sequence[int], *, owner: int = 0, end: int | None = None) -> list[int]:
        """Add a sequence, and return its nodes, one for each token. Sequences of different owners share no nodes.

        If ``end`` is given (the index of a prompt's last token), this token and those after it are shared only with
        sequences of the same ``end``: [1, 2, 3] with end=1 and with end=2 share only the node of 1.
        """
        path: list[int] = []
        parent = -1 - owner  # the roots of the owners are -1, -2, …
        for depth, token in enumerate(ids):
            key = (parent, token, depth == end)
            node = self._children.get(key)
            if node is None:  # a beginning that no earlier sequence has
                node = len(self.tokens)
                self._children[key] = node
                self.tokens.append(token)
                self._parents.append(parent)
                self.depths.append(depth)
                self.owners.append(owner)
            path.append(node)
            parent = node
        return path

    def count_missing(self, ids: Sequence[int], *, owner: int = 0) -> int:
        """Return the number of nodes that `add` would make for a sequence without an ``end``."""
        node = -1 - owner
        for depth, token in enumerate(ids):
            child = self._children.get((node, token, False))
            if child is None:
                return len(ids) - depth
            node = child
        return 0

    def attended(self, width: int) -> Tensor:
        """Return which nodes each node attends to, bool [width, width]; padding attends to itself alone."""
        attended = torch.eye(width, dtype=torch.bool)
        for node, parent in enumerate(self._parents):
            if parent >= 0:  # parents come before their children
                attended[node] |= attended[parent]
        return attended


@dataclass(frozen=True, eq=False)
class TreeRows:
    """One tree in each row, padded behind its nodes to the longest tree. The padding belongs to no owner (-1)."""

    trees: Sequence[TokenTree]

    def ids(self) -> Tensor:
        """Return the token ids of the nodes, [rows, width]."""
        return self._pad([tree.tokens for tree in self.trees], 0)

    def positions(self) -> Tensor:
        """Return the position ids (the depth of a node in its tree), [rows, width]."""
        return self._pad([tree.depths for tree in self.trees], 0)

    def owners(self) -> Tensor:
        """Return the owner of each node, as given to `TokenTree.add`, [rows, width]."""
        return self._pad([tree.owners for tree in self.trees], -1)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Return the additive mask [rows, 1, width, width]: 0 where a node attends, else the dtype's minimum."""
        width = self._width
        attended = torch.stack([tree.attended(width) for tree in self.trees])[:, None]  # [rows, 1, width, width]
        return torch.zeros(attended.shape, dtype=dtype).masked_fill(~attended, torch.finfo(dtype).min)

    @property
    def _width(self) -> int:
        return max(len(tree) for tree in self.trees)

    def _pad(self, rows: Sequence[list[int]], fill: int) -> Tensor:
        """Return rows as a tensor [rows, width], with ``fill`` behind the shorter ones."""
        width = self._width
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def pack_groups(sizes: Sequence[int], *, width: int, nodes: int) -> Iterator[list[list[int]]]:
    """Yield passes: lists of rows, each a list of group numbers. ``sizes``: the nodes of each group.

    With sizes [90, 60, 30], width 128 and 256 nodes, the pass [[0, 2], [1]] has two rows: the groups 0 and 2, and 1.

    The rows of a pass have ``width`` positions, or as many as its largest group needs; a pass has about ``nodes``.
    Groups are placed from the largest to the smallest, each in the first row with room.
    """
    remaining = sorted(range(len(sizes)), key=lambda group: -sizes[group])
    while remaining:
        capacity = max(width, sizes[remaining[0]])
        room = [capacity] * max(1, nodes // capacity)
        rows = [list[int]() for _ in room]
        left_over = list[int]()
        for group in remaining:
            with_room = [row for row, free in enumerate(room) if sizes[group] <= free]
            if not with_room:
                left_over.append(group)
                continue
            first = with_room[0]
            rows[first].append(group)
            room[first] -= sizes[group]
        yield [row for row in rows if row]
        remaining = left_over
