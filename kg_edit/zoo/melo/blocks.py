"""MELO's patch: blocks of a LoRA (not blocks of a transformer), looked up by prompts (Yu et al., AAAI 2024).

A block is one slice of r ranks of a LoRA, A_i [r, d_ff] and B_i [r, d]. It acts beside one down-projection W [d, d_ff]
of the model. With x_t the input of W at token t of a text, and e(x) the entry that a lookup of x finds:

    c    = the cluster whose centre is nearest to x, if |x - centre_c| <= radius_c; else there is no e(x)
    e(x) = arg min |x - k_i| over the keys k_i of c
    y_t  = W x_t + sum_{i in S_t} B_iᵀ A_i x_t

The setting ``lookup`` decides which blocks S_t act at token t:

    prompt-end     S_t = {e(x_s): s <= t, and s is the last token of a prompt in the same text}
    every-token    S_t = {e(x_t)}

So with prompt-end a block acts from the end of its prompt on. If a text has the ends of several prompts, the blocks of
all of them act. Where S_t is empty, nothing is added, and the output is W x_t bit for bit.

Words of the codebook (`kg_edit.zoo.grace.codebook`) in this file: an entry is what one edit adds, a key k_i with a
value, and the value is its block. A ball is a cluster. The keys of one target form a cluster around their mean. Where
clusters of different targets meet, both are cut, and a key outside of what is left has no cluster any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kg_edit.errors import PatchError
from kg_edit.models.hooks import read_prompt_ends
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import layer_of
from kg_edit.zoo.grace.codebook import Codebook
from kg_edit.zoo.grace.patch import CodebookPatch
from kg_edit.zoo.token_means import TokenMeans


@dataclass(frozen=True, eq=False, kw_only=True)
class Blocks(Codebook):
    """A codebook whose values are blocks, [entries, r, d_ff + d]: A_i with B_i to its right."""

    axes: ClassVar[int] = 3

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d, d_ff) of W."""
        return self.values.shape[2] - self.keys.shape[1], self.keys.shape[1]

    def find_entries(self, inputs: Tensor) -> Tensor:
        """Return e(x) for each of ``inputs`` [tokens, d_ff], or -1 if no cluster has it, [tokens]."""
        # `to_points` converts to float32, and scales to length 1 if the metric is "unit".
        points = self.deferral.to_points(inputs)  # [tokens, d_ff]
        keys = self.deferral.to_points(self.keys)  # [entries, d_ff]
        distances = torch.cdist(points, keys, compute_mode="donot_use_mm_for_euclid_dist")  # [tokens, entries]
        clusters = self.regions.find_balls(points)  # the cluster of each token, or -1, [tokens]
        own_clusters = self.regions.owners  # the cluster of each entry's key, or -1, [entries]
        # A token can only find an entry of its own cluster, [tokens, entries].
        is_foreign = (clusters[:, None] != own_clusters) | (clusters < 0)[:, None]
        least, entries = distances.masked_fill(is_foreign, torch.inf).min(-1)  # [tokens] both
        return torch.where(least.isfinite(), entries, -1)

    def find_matches(self, inputs: Tensor) -> Tensor:
        """Return whether an entry is e(x), for each x of ``inputs`` [tokens, d_ff], [tokens, entries]."""
        found = self.find_entries(inputs)
        return found[:, None] == torch.arange(len(self), device=found.device)

    def add_blocks(self, inputs: Tensor, output: Tensor, active: Tensor) -> Tensor:
        """Return the module's ``output`` [tokens, d] with B_iᵀ A_i x for each entry i that is active at a token.

        Args:
            inputs: x of each token, [tokens, d_ff].
            output: W x of each token, [tokens, d].
            active: whether an entry acts at a token, [tokens, entries].
        """
        for entry in active.any(0).nonzero().flatten().tolist():
            tokens = active[:, entry].nonzero().flatten()  # at which the entry acts
            a, b = self.values[entry].split([inputs.shape[1], output.shape[1]], dim=-1)  # [r, d_ff], [r, d]
            output = output.index_add(0, tokens, inputs[tokens] @ a.T @ b)
        return output


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BlockPatch(CodebookPatch):
    """Blocks by the name of the weight W beside which they act. `without` removes edits as if they were never made."""

    file_kind: ClassVar[str] = "melo"
    book_class: ClassVar[type[Codebook]] = Blocks

    def _plus(self, other: Self) -> Self:
        for name in self.codebooks.keys() & other.codebooks.keys():
            first = self.codebooks[name].values.shape[1]
            second = other.codebooks[name].values.shape[1]
            if first != second:
                raise PatchError(f"can't add blocks of rank {first} and {second} at {name}; make both with one rank")
        return super()._plus(other)

    @contextmanager
    def _attached(self, model: LanguageModel, name: str, module: nn.Module, book: Any) -> Iterator[None]:
        assert isinstance(book, Blocks)  # noqa: S101 - the patch's ``book_class``
        layer = layer_of(model, name)
        blocks = book.move_to(weight_matrix(module).device)
        with TokenMeans(model, layer, name=self.file_kind).attached() as means:

            def add_active_blocks(inputs: Tensor, output: Tensor) -> Tensor:
                active = _find_active(blocks, inputs, model, means)
                return blocks.add_blocks(inputs, output, active)

            with replace_output(model, layer, add_active_blocks):
                yield


@torch.no_grad()
def _find_active(blocks: Blocks, inputs: Tensor, model: LanguageModel, means: TokenMeans) -> Tensor:
    """Return whether an entry is in S_t, for each token t of a call of the module, [tokens, entries].

    Args:
        blocks: the entries.
        inputs: x of each token, [tokens, d_ff].
        model: knows where the prompts of the call end.
        means: knows which tokens of the call, and of earlier calls in a cache, are of one text.
    """
    if blocks.deferral.lookup == "every-token":
        return blocks.find_matches(inputs)
    is_end = read_prompt_ends(model, *means.size).flatten().to(inputs.device)  # [tokens]
    ends = is_end.nonzero().flatten()  # the positions of the prompts' last tokens
    matches = inputs.new_zeros(len(inputs), len(blocks))  # 1 where a prompt's end finds an entry
    matches[ends] = blocks.find_matches(inputs[ends]).to(matches)
    # "Some token up to t has a match" is the same as "the mean of the matches up to t is above 0". A mean is used
    # because a cache stores its sums: so it includes the tokens of earlier calls, and those of no other text.
    return means.of(matches) > 0
