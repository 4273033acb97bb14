"""MELO's blocks: which block answers which key, computed by hand, and the same output however a text is run."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from kg_edit.models.hooks import tell_prompt_ends
from kg_edit.zoo.grace.codebook import Deferral
from kg_edit.zoo.melo.blocks import Blocks
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS
from tests.kg_edit.zoo.melo.test_melo import blocks_of, melo


def line(*entries: tuple[float, str], radius: float = 1.0) -> Blocks:
    """Blocks of rank 1 whose keys lie on a line; block i adds (i + 1) times x_1, to the second output of three."""
    values = torch.zeros(len(entries), 1, 2 + 3)
    values[:, 0, 0] = 1.0  # a = (1, 0)
    values[:, 0, 3] = torch.arange(len(entries)) + 1.0  # b = (0, i + 1, 0)
    return Blocks(
        keys=torch.tensor([[x, 0.0] for x, _ in entries]).reshape(-1, 2),
        values=values,
        labels=tuple(label for _, label in entries),
        ids=tuple(map(str, range(len(entries)))),
        deferral=Deferral(expand="mean", radius=radius),
    )


def nearest(book: Blocks, *xs: float) -> list[int]:
    return book.find_entries(torch.tensor([[x, 0.0] for x in xs])).tolist()


def test_nearest_key_of_the_cluster_has_the_block() -> None:
    """The cluster of the keys 0 and 1.5 lies around 0.75, with radius 1."""
    book = line((0, "a"), (1.5, "a"), (9, "b"))
    assert nearest(book, -0.2, 0.7, 0.8, 1.7, 1.8, 9.9, 10.1) == [0, 0, 1, 1, -1, 2, -1]
    assert nearest(book.without(["1"]), 0.7, 1.7, 9.9) == [0, -1, 1], "as if it had never been made"


def test_keys_outside_of_what_a_split_leaves_are_forgotten() -> None:
    """Keys 0, 0.2 and 1.9 have the mean 0.7; another target at 2.0 cuts both clusters to half of 1.3."""
    uncut = line((0, "a"), (0.2, "a"), (1.9, "a"))
    assert nearest(uncut, 0, 0.2, 1.9, 1.0) == [0, 1, 2, 1]
    cut = line((0, "a"), (0.2, "a"), (1.9, "a"), (2, "b"))
    assert cut.regions.owners.tolist() == [-1, 0, -1, 1]
    assert nearest(cut, 0, 0.1, 0.2, 1.3, 1.36, 1.9, 2.6, 2.7) == [-1, 1, 1, 1, 3, 3, 3, -1]
    assert nearest(line((0, "a"), (1.9, "a"), (1.5, "b")), 0.95) == [-1], "no key of the older cluster is left"


def test_later_edit_of_one_key_has_it() -> None:
    assert nearest(line((0, "a"), (0, "b")), 0, 0.9) == [1, 1]
    assert nearest(line((0, "a"), (0, "b")).without(["1"]), 0, 0.9) == [0, 0]


def test_block_is_added_where_it_is_active() -> None:
    book = line((0, "a"), (5, "b"))
    inputs, output = torch.tensor([[3.0, 7.0], [2.0, 1.0], [4.0, 4.0]]), torch.randn(3, 3)
    active = torch.tensor([[False, True], [False, False], [True, True]])
    added = book.add_blocks(inputs, output, active) - output
    torch.testing.assert_close(added, torch.tensor([[0.0, 6.0, 0.0], [0.0, 0.0, 0.0], [0.0, 12.0, 0.0]]))
    assert torch.equal(book.add_blocks(inputs, output, active)[1], output[1])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "opt-350m"])
@pytest.mark.slow
def test_block_stays_active_after_the_prompt(family: str) -> None:
    """A text as a whole, and read with a cache: first the prompt, then its continuation token by token."""
    model = tiny(family)
    patch, prompt = melo(model, layer=1).edit(EDITS[:1]), model.encode(EDITS[0].text).ids
    ids = torch.tensor([[*prompt, *model.encode("Miami in the north").ids[1:]]])
    ends = torch.zeros(ids.shape, dtype=torch.bool)
    clean = model.model(ids).logits[0]
    with patch.applied(model):
        with tell_prompt_ends(model, ends):
            assert torch.equal(model.model(ids).logits[0], clean), "no prompt ends in it"
        ends[0, len(prompt) - 1] = True
        with tell_prompt_ends(model, ends):
            full = model.model(ids).logits[0]
        cache = DynamicCache()
        parts = [ids[:, : len(prompt)], *ids[:, len(prompt) :].split(1, dim=1)]
        logits = torch.cat([model.model(part, past_key_values=cache, use_cache=True).logits[0] for part in parts])
    torch.testing.assert_close(logits, full, rtol=1e-4, atol=1e-4)
    assert torch.equal(full[: len(prompt) - 1], clean[: len(prompt) - 1])
    block = blocks_of(patch).values[0]
    a, b = block.split([block.shape[1] - blocks_of(patch).shape[0], blocks_of(patch).shape[0]], dim=-1)
    assert float((a.T @ b).norm()) > 0 and not torch.allclose(full[-1], clean[-1], atol=1e-4)
