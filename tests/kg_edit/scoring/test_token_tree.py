from __future__ import annotations

import torch

from kg_edit.scoring.token_tree import TokenTree, TreeRows, pack_groups


def test_shared_beginnings_share_nodes() -> None:
    tree = TokenTree()
    assert tree.add([7, 8, 9]) == [0, 1, 2]
    assert tree.add([7, 8, 5]) == [0, 1, 3]
    assert tree.add([8]) == [4]
    assert len(tree) == 5
    rows = TreeRows([tree])
    assert rows.ids().tolist() == [[7, 8, 9, 5, 8]]
    assert rows.positions().tolist() == [[0, 1, 2, 2, 0]]


def test_missing_is_what_add_adds() -> None:
    tree = TokenTree()
    for ids, owner in (((7, 8, 9), 0), ((7, 8, 5, 3), 0), ((7, 8), 0), ((7, 8), 1)):
        missing, before = tree.count_missing(ids, owner=owner), len(tree)
        tree.add(ids, owner=owner)
        assert len(tree) - before == missing
    assert len(tree) == 3 + 2 + 0 + 2


def test_node_sees_its_ancestors_and_itself() -> None:
    tree = TokenTree()
    tree.add([7, 8, 9])
    tree.add([7, 5])
    seen = TreeRows([tree]).mask(torch.float32)[0, 0] == 0
    assert seen.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]


def test_shorter_row_is_padded_behind_and_its_padding_has_no_owner() -> None:
    one, other = TokenTree(), TokenTree()
    one.add([7, 8, 9], owner=2)
    other.add([4], owner=5)
    rows = TreeRows([one, other])
    assert rows.ids().tolist() == [[7, 8, 9], [4, 0, 0]]
    assert rows.owners().tolist() == [[2, 2, 2], [5, -1, -1]]
    seen = rows.mask(torch.float32)[:, 0] == 0
    assert seen[1].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_groups_fill_rows_from_the_largest() -> None:
    assert list(pack_groups([3, 9, 4, 6, 1], width=10, nodes=20)) == [[[1, 4], [3, 2]], [[0]]]


def test_group_larger_than_the_width_makes_its_pass_wider() -> None:
    assert list(pack_groups([25, 10, 9], width=10, nodes=20)) == [[[0]], [[1], [2]]]


def test_every_group_is_placed_once() -> None:
    sizes = [1 + 7 * number % 23 for number in range(60)]
    passes = list(pack_groups(sizes, width=16, nodes=64))
    assert sorted(group for rows in passes for row in rows for group in row) == list(range(60))
    for rows in passes:
        widest = max(16, max(sizes[group] for row in rows for group in row))
        assert all(sum(sizes[group] for group in row) <= widest for row in rows)
        assert len(rows) * widest <= 64
