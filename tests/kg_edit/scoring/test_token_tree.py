from __future__ import annotations

import torch

from kg_edit.scoring.likelihood import TokenTree


def test_shared_beginnings_share_nodes() -> None:
    tree = TokenTree()
    assert tree.add([7, 8, 9]) == [0, 1, 2]
    assert tree.add([7, 8, 5]) == [0, 1, 3]
    assert tree.add([8]) == [4]
    assert len(tree) == 5
    assert tree.ids().tolist() == [[7, 8, 9, 5, 8]]
    assert tree.positions().tolist() == [[0, 1, 2, 2, 0]]


def test_a_node_sees_its_ancestors_and_itself() -> None:
    tree = TokenTree()
    tree.add([7, 8, 9])
    tree.add([7, 5])
    seen = tree.mask(torch.float32)[0, 0] == 0
    assert seen.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
