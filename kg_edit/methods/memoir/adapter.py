"""The side of MEMOIR: a residual memory W_m [d, d_ff] beside a down-projection.

Wang et al., NeurIPS 2025, arXiv 2506.07899.

With a the module's input at a token, and abar the mean of the inputs of this token and all tokens before it:

    M(x) = pi(top-k of |abar - background|)            a mask of k of d_ff columns (TopHash)
    i*   = argmax_i |M(x) and M_i| / k                 the nearest edit's mask
    y    = W a + [overlap_i* >= tau] W_m (M_i* * a)

pi is a fixed permutation of the columns. Each edit trains only the columns of its own mask, so edits with different
masks hardly interfere. The published program computes the mean over a whole prompt. Here each token has the mean up to
itself (`kg_edit.models.token_means`), so it need not be known where the prompt ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.token_means import TokenMeans
from kg_edit.patches.adapter_hooks import answering
from kg_edit.patches.adapter_patch import Side, layer_of
from kg_edit.patches.weight_patch import module_of
from kg_edit.storage.seeds import Seed

_SAME_BACKGROUND = 1e-3  # backgrounds of the same texts differ by rounding only


class MaskRule(BaseModel):
    """Settings: how masks are made and compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    columns: PositiveInt = Field(description="k, number of columns of a mask")
    threshold: float = Field(ge=0, le=1, description="tau, the share of a mask that a text must have")
    seed: Seed = Field(description="random seed of the permutation")


@dataclass(frozen=True, eq=False, kw_only=True)
class ResidualMemory(Side):
    """``weight`` W_m [out, in], the edits' ``masks`` [edits, k], and ``background``, the mean input of other text [in].

    A mask is stored as the indices of its k columns.
    """

    kind: ClassVar[str] = "memoir"

    weight: Tensor
    masks: Tensor
    background: Tensor
    rule: MaskRule

    @classmethod
    def empty(cls, shape: tuple[int, int], background: Tensor, rule: MaskRule) -> ResidualMemory:
        """A memory without edits, for a weight of the shape (out, in)."""
        zeros, none = torch.zeros(shape), torch.zeros(0, rule.columns)
        return cls(weight=zeros, masks=none, background=background.cpu(), rule=rule)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight beside which the memory stands."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def words(self) -> str:
        """A short description of the side."""
        return f"a memory with {len(self.masks)} masks of {self.rule.columns} columns"

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of the side, by name."""
        return {"weight": self.weight, "masks": self.masks, "background": self.background}

    def said(self) -> dict[str, Any]:
        """The settings of the masks, as JSON."""
        return self.rule.model_dump(mode="json")

    @classmethod
    def read(cls, said: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the side from the results of `said` and `tensors`.

        Raises:
            KeyError, TypeError, ValueError: the data and the tensors don't fit together.
        """
        rule, (rows, width) = MaskRule.model_validate(said), tensors["weight"].shape
        found = cls(weight=tensors["weight"], masks=tensors["masks"], background=tensors["background"], rule=rule)
        if found.masks.dim() != 2 or found.masks.shape[1] != rule.columns or found.background.shape != (width,):
            raise ValueError(f"masks {tuple(found.masks.shape)} or background don't fit a weight [{rows}, {width}]")
        if found.masks.numel() and not (found.masks.min() >= 0 and found.masks.max() < width):
            raise ValueError(f"a mask has a column outside of the weight [{rows}, {width}]")
        return found

    def plus(self, later: Self) -> Self:
        """The sum of both W_m with the masks of both.

        Raises:
            PatchError: the sides have different rules for their masks, or different backgrounds.
        """
        if self.shape != later.shape:
            raise PatchError(
                f"can't add memories beside weights of shapes {self.shape} and {later.shape}; make both on one model"
            )
        if self.rule != later.rule:
            raise PatchError(
                f"can't add memories whose masks differ ({self.rule!r} and {later.rule!r}); make both with the same "
                "columns, threshold and seed"
            )
        if not torch.allclose(self.background, later.background, rtol=_SAME_BACKGROUND, atol=_SAME_BACKGROUND):
            raise PatchError(
                "can't add memories whose masks were made with different backgrounds; make both with the same "
                "background_texts, background_tokens and seed, and with a model of the same precision"
            )
        weight, masks = self.weight + later.weight, torch.cat([self.masks, later.masks])
        return replace(self, weight=weight, masks=masks)

    def mask(self, means: Tensor) -> Tensor:
        """The masks [texts, k] for mean inputs [texts, in]; the columns of a mask are in ascending order."""
        place = means.device
        top = (means.float() - self.background.to(place)).abs().topk(self.rule.columns, dim=-1).indices
        return self._permutation.to(place)[top].sort(-1).values

    def bits(self, masks: Tensor) -> Tensor:
        """Masks [edits, k] as 0/1 vectors, [edits, in]."""
        return torch.zeros(len(masks), self.shape[1], device=masks.device).scatter(1, masks.long(), 1.0)

    def chosen(self, means: Tensor, bits: Tensor) -> Tensor:
        """The mask for each token as 0/1, [tokens, in]: the nearest of ``bits`` [edits, in] if near enough, else 0.

        Of equally near masks, the latest edit's is used.
        """
        if not len(bits):
            return torch.zeros_like(means)
        overlaps = self.bits(self.mask(means)) @ bits.T / self.rule.columns
        best, place = overlaps.flip(-1).max(-1)
        return bits[len(bits) - 1 - place] * (best >= self.rule.threshold)[:, None]

    @contextmanager
    def attached(self, model: LanguageModel, name: str) -> Iterator[None]:
        """Within the ``with`` block, the module's output is W a + W_m (M * a), with the mask M of each token."""
        place = next(module_of(model, name, shape=self.shape).parameters()).device
        layer, weight, bits = layer_of(model, name), self.weight.to(place), self.bits(self.masks.to(place))
        with TokenMeans(model, layer, name=self.kind).attached() as means:

            def add(inputs: Tensor, output: Tensor) -> Tensor:
                return output + (self.chosen(means.of(inputs), bits) * inputs) @ weight.T

            with answering(model, layer, add):
                yield

    @cached_property
    def _permutation(self) -> Tensor:
        draw = torch.Generator().manual_seed(self.rule.seed)
        return torch.randperm(self.shape[1], generator=draw)
