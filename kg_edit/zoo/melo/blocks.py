"""MELO's patch: blocks of a LoRA at one down-projection W [d, d_ff], looked up by prompts (Yu et al., AAAI 2024).

A block is one slice of r ranks of a LoRA, A_i [r, d_ff] and B_i [r, d]. With x the module's input at a token:

    q = x at the last token of a prompt
    c = the keys of the nearest cluster, if |q - centre| <= radius
    i = arg min |q - k_i| over the keys k_i of c
    y = W x + B_iᵀ A_i x                          from this token on; y = W x before it, and where no cluster has q

Clusters are the balls of a codebook (`kg_edit.zoo.grace.codebook.find_regions`). Keys with one target form a cluster
around their mean. Where clusters with different targets meet, both are cut, and keys outside of what is left are
forgotten. Outside of all clusters nothing is added, so the output is W x bit for bit.

A text reaches the block's layer token by token, so tokens after the end of a prompt find its block by a mean over the
text so far (`kg_edit.zoo.token_means`). If a text has the ends of several prompts, the blocks of all of them act.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kg_edit.errors import PatchError
from kg_edit.models.hooks import prompt_ends
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.adapter_hooks import replacing_output
from kg_edit.patches.adapter_patch import layer_of
from kg_edit.zoo.grace.codebook import Codebook
from kg_edit.zoo.grace.patch import CodebookPatch
from kg_edit.zoo.token_means import TokenMeans


@dataclass(frozen=True, eq=False, kw_only=True)
class Blocks(Codebook):
    """A codebook whose values are blocks, [entries, r, d_ff + d]: the rows of A_i, and beside them those of B_i."""

    axes: ClassVar[int] = 3

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d, d_ff) of the weight."""
        return self.values.shape[2] - self.keys.shape[1], self.keys.shape[1]

    def move_to(self, device: torch.device) -> Self:
        """Return the same blocks, with their tensors on ``device``."""
        moved = replace(self, keys=self.keys.to(device), values=self.values.to(device))
        # The cached property is filled in: radii that are computed on another device would be rounded in another way.
        vars(moved)["regions"] = self.regions.to(device)
        return moved

    def find_entries(self, inputs: Tensor) -> Tensor:
        """Return for each of ``inputs`` [tokens, d_ff] the entry whose block it uses, or -1, [tokens]."""
        points = self.deferral.to_points(inputs)
        keys = self.deferral.to_points(self.keys)
        balls = self.regions.find_balls(points)  # [tokens]
        distances = torch.cdist(points, keys, compute_mode="donot_use_mm_for_euclid_dist")  # [tokens, entries]
        # An entry can be chosen where its own cluster has the token, [tokens, entries]
        is_foreign = (balls[:, None] != self.regions.owners) | (balls < 0)[:, None]
        least, entries = distances.masked_fill(is_foreign, torch.inf).min(-1)
        return torch.where(least.isfinite(), entries, -1)

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
    """Blocks by the name of the weight beside which they act. `without` removes edits as if they were never made."""

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
        by_prompt = blocks.deferral.lookup == "prompt-end"
        with TokenMeans(model, layer, name=self.file_kind).attached() as means:

            def forward(inputs: Tensor, output: Tensor) -> Tensor:
                with torch.no_grad():
                    matches = inputs.new_zeros(len(inputs), len(blocks))  # 1 where a token's own key finds an entry
                    if by_prompt:
                        is_looked_up = prompt_ends(model, *means.size).flatten().to(inputs.device)  # [tokens]
                        positions = is_looked_up.nonzero().flatten()
                    else:
                        positions = torch.arange(len(inputs), device=inputs.device)
                    entries = blocks.find_entries(inputs[positions])
                    found = entries >= 0
                    matches[positions[found], entries[found]] = 1.0
                    if by_prompt:  # a mean over the text so far is above 0 from the first match on
                        matches = means.of(matches)
                return blocks.add_blocks(inputs, output, matches > 0)

            with replacing_output(model, layer, forward):
                yield
