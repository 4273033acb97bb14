"""MEMOIR's adapter: a residual memory W_m [d, d_ff] (Wang et al., NeurIPS 2025, arXiv 2506.07899).

With a [d_ff] the module's input at a token, and abar the mean of the inputs of this token and all tokens before it:

    M   = pi(top-k of |abar - background|)      the token's mask: k of d_ff columns (TopHash)
    o_i = |M and M_i| / k                       its overlap with the mask M_i of edit i
    y   = W a + [o_i >= tau] W_m (M_i * a)      for the edit i with the largest overlap

pi is a fixed permutation of the columns. Each edit trains only the columns of its own mask, so edits with different
masks hardly interfere. The published program computes the mean over a whole prompt. Here each token has the mean up to
itself (`kg_edit.zoo.token_means`), so the patch need not know where the prompt ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import Adapter
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.summed import AdapterSettings
from kg_edit.zoo.token_means import TokenMeans

_SAME_BACKGROUND = 1e-3  # backgrounds of the same texts differ by rounding only


class MaskSettings(AdapterSettings):
    """How masks are made and compared."""

    columns: float = Field(
        2 / 7, gt=0, le=1, description="k: fraction of the columns in a mask; published: 4096 of 14336"
    )
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="tau: fraction of an edit's mask that a prompt must share to use it; published: 0.4",
    )
    seed: Seed = Field(0, description="random seed of the permutation and of the sampled texts")


@dataclass(frozen=True, eq=False, kw_only=True)
class ResidualMemory(Adapter):
    """The memory, and the masks of its edits.

    A mask is stored as the indices of its k columns, in ascending order. As a vector of bits [d_ff] it has a 1 at each
    of them (`to_bits`).

    Attributes:
        weight: W_m, [d, d_ff].
        masks: the masks of the edits, [edits, k]; in float32, like every tensor of an adapter.
        background: the mean input of other text, [d_ff].
        settings: how masks are made and compared.
    """

    method: ClassVar[str] = "memoir"

    weight: Tensor
    masks: Tensor
    background: Tensor
    settings: MaskSettings

    @classmethod
    def empty(cls, shape: tuple[int, int], background: Tensor, settings: MaskSettings) -> ResidualMemory:
        """Return a memory without edits, for a weight of the shape (d, d_ff)."""
        none = torch.zeros(0, _count_columns(settings, shape[1]))
        return cls(weight=torch.zeros(shape), masks=none, background=background.cpu(), settings=settings)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d, d_ff) of the adapted weight."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def summary(self) -> str:
        """The number and the size of the masks."""
        return f"a memory with {len(self.masks)} masks of {self.masks.shape[1]} columns"

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""
        return {"weight": self.weight, "masks": self.masks, "background": self.background}

    def metadata(self) -> dict[str, Any]:
        """Return the settings of the masks, as JSON."""
        return self.settings.model_dump(mode="json")

    @classmethod
    def read(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the adapter from the results of `metadata` and `tensors`."""
        settings = MaskSettings.model_validate(metadata)
        rows, width = tensors["weight"].shape
        masks = tensors["masks"]
        background = tensors["background"]
        if masks.dim() != 2 or masks.shape[1] != _count_columns(settings, width) or background.shape != (width,):
            raise ValueError(f"masks {tuple(masks.shape)} or background don't fit a weight [{rows}, {width}]")
        if masks.numel() and not (masks.min() >= 0 and masks.max() < width):
            raise ValueError(f"a mask has a column outside of the weight [{rows}, {width}]")
        return cls(weight=tensors["weight"], masks=masks, background=background, settings=settings)

    def plus(self, later: Self) -> Self:
        """Return the sum of both W_m with the masks of both."""
        if self.settings != later.settings:
            raise PatchError(
                f"can't add memories whose masks differ ({self.settings!r} and {later.settings!r}); make both with the "
                "same columns, threshold and seed"
            )
        if not torch.allclose(self.background, later.background, rtol=_SAME_BACKGROUND, atol=_SAME_BACKGROUND):
            raise PatchError(
                "can't add memories whose masks were made with different backgrounds; make both with the same "
                "background_texts, background_tokens and seed, and with a model of the same precision"
            )
        return replace(self, weight=self.weight + later.weight, masks=torch.cat([self.masks, later.masks]))

    def make_masks(self, means: Tensor) -> Tensor:
        """Return the masks [texts, k] for mean inputs abar [texts, d_ff]: pi(top-k of |abar - background|)."""
        count = _count_columns(self.settings, self.shape[1])
        top = (means.float() - self.background.to(means.device)).abs().topk(count, dim=-1).indices
        return self._permutation.to(means.device)[top].sort(-1).values

    @cached_property
    def _permutation(self) -> Tensor:
        """pi, as the column in the place of each column, [d_ff]."""
        draw = torch.Generator().manual_seed(self.settings.seed)
        return torch.randperm(self.shape[1], generator=draw)

    def to_bits(self, masks: Tensor) -> Tensor:
        """Return masks [edits, k] as 0/1 vectors, [edits, d_ff]."""
        return torch.zeros(len(masks), self.shape[1], device=masks.device).scatter(1, masks.long(), 1.0)

    def choose_masks(self, means: Tensor, bits: Tensor) -> Tensor:
        """Return the mask of each token as bits, [tokens, d_ff]: the nearest of ``bits`` if near enough, else 0.

        Args:
            means: abar of each token, [tokens, d_ff].
            bits: the masks of the edits, [edits, d_ff]. Of equally near masks, the latest edit's is used.
        """
        if not len(bits):
            return torch.zeros_like(means)
        masks = self.make_masks(means)
        overlaps = self.to_bits(masks) @ bits.T / masks.shape[1]  # [tokens, edits]
        # Of equal overlaps `max` returns the first one, so the edits are reversed to get the latest.
        best, index_from_end = overlaps.flip(-1).max(-1)  # [tokens] each
        nearest = bits[len(bits) - 1 - index_from_end]  # [tokens, d_ff]
        return nearest * (best >= self.settings.threshold)[:, None]

    @contextmanager
    def attached(self, model: LanguageModel, layer: int, device: torch.device) -> Iterator[None]:
        """Within the ``with`` block, the module's output is W a + W_m (M * a), with the mask M of each token."""
        weight = self.weight.to(device)
        bits = self.to_bits(self.masks.to(device))
        with TokenMeans(model, layer, name=self.method).attached() as means:

            def forward(inputs: Tensor, output: Tensor) -> Tensor:
                masks = self.choose_masks(means.of(inputs), bits)  # [tokens, d_ff]
                return output + (masks * inputs) @ weight.T

            with replace_output(model, layer, forward):
                yield


def _count_columns(settings: MaskSettings, width: int) -> int:
    """Return k, the number of columns in a mask."""
    return max(1, round(settings.columns * width))
