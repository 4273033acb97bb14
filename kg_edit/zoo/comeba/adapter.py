"""COMEBA's adapter: an update of a weight that acts only at tokens with keys near to the edited ones.

Li et al., EMNLP 2024, arXiv 2403.05330.

With the module's input x at a token and the update D = left right^T [d, d_ff] of all edits so far:

    r(x) = |D x|,    z(x) = (r(x) - mean) / deviation              mean and deviation of r over inputs of other text
    y    = W x + [z(x) >= t] D x,    t = min(alpha, z_min - (1 - share) |z_min|),    z_min = min_i z(k_i)

where k_i are the keys of the edits. If z_min is above 0, z_min - (1 - share) |z_min| is share * z_min.
The update is large at these keys and small at others, so r marks the edited tokens as outliers. The published program
computes mean and deviation over the tokens of the current text. Here they come from texts that the model writes itself,
so that the gate of a token does not depend on the text around it.
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
from kg_edit.patches.factors import Factors
from kg_edit.zoo.adapters.summed import AdapterSettings

_SLACK = 1e-3  # share by which the threshold is lowered when keys are compared with it


class GateSettings(AdapterSettings):
    """Settings of the gate: how large z(x) has to be."""

    alpha: float = Field(2.2, description="highest threshold of the z-score from which a token gets the update")
    share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="the threshold is at most this fraction of the smallest z-score of an edited key; published: 1",
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class GatedUpdate(Adapter):
    """The factors of the update, the edits' ``keys`` [facts, in], and keys of other text, ``others`` [tokens, in]."""

    method: ClassVar[str] = "comeba"

    update: Factors
    keys: Tensor
    others: Tensor
    settings: GateSettings

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the updated weight."""
        return self.update.shape

    @property
    def summary(self) -> str:
        """The rank and the gate."""
        return f"rank {self.update.rank} for tokens beyond {self.threshold:.2f} deviations"

    @cached_property
    def change(self) -> Tensor:
        """D, [out, in] in float32."""
        return self.update.product.float()

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of |D x| over ``others``."""
        sizes = (self.others.float() @ self.change.T).norm(dim=-1)
        return float(sizes.mean()), max(float(sizes.std()), torch.finfo(torch.float32).tiny)

    @cached_property
    def threshold(self) -> float:
        """The gate's threshold t for z(x)."""
        if not len(self.keys):
            return self.settings.alpha
        mean, deviation = self.scale
        sizes = (self.keys.float() @ self.change.T).norm(dim=-1)
        z_min = float((sizes.min() - mean) / deviation)
        return min(self.settings.alpha, _reduce_by(1 - self.settings.share, z_min))

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors by name."""
        return {"left": self.update.left, "right": self.update.right, "keys": self.keys, "others": self.others}

    def metadata(self) -> dict[str, Any]:
        """Return the gate's settings."""
        return self.settings.model_dump(mode="json")

    @classmethod
    def read(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the adapter from the results of `metadata` and `tensors`."""
        update = Factors(left=tensors["left"], right=tensors["right"])
        keys = tensors["keys"]
        others = tensors["others"]
        parts = (update.left, update.right, keys, others)
        shapes = [tuple(part.shape) for part in parts]
        has_matrices = all(part.dim() == 2 for part in parts)
        if not has_matrices or update.left.shape[1] != update.right.shape[1]:
            raise ValueError(f"factors, keys and others are {shapes}")
        d_ff = len(update.right)
        if keys.shape[1] != d_ff or others.shape[1] != d_ff:
            raise ValueError(f"keys and others don't fit factors of {shapes[:2]}: {shapes[2:]}")
        return cls(update=update, keys=keys, others=others, settings=GateSettings.model_validate(metadata))

    def plus(self, later: Self) -> Self:
        """Return the sum of both updates with the keys of both, and the ``others`` of this adapter."""
        if self.settings != later.settings or self.shape != later.shape:
            raise PatchError(
                f"can't add updates with different gates ({self.settings!r} and {later.settings!r}); make both with "
                "the same settings"
            )
        return replace(self, update=self.update + later.update, keys=torch.cat([self.keys, later.keys]))

    @contextmanager
    def attached(self, model: LanguageModel, layer: int, device: torch.device) -> Iterator[None]:
        """Within the ``with`` block, the module's output is W x, plus D x at tokens that pass the gate."""
        # The key that is nearest to the threshold has to pass it although batching changes the key's rounding.
        threshold = _reduce_by(_SLACK, self.threshold)
        change = self.change.to(device)
        mean, deviation = self.scale

        def forward(inputs: Tensor, output: Tensor) -> Tensor:
            update = inputs @ change.T  # D x of each token, [tokens, d]
            z_scores = (update.norm(dim=-1, keepdim=True) - mean) / deviation  # [tokens, 1]
            return torch.where(z_scores >= threshold, output + update, output)

        with replace_output(model, layer, forward):
            yield


def _reduce_by(share: float, z: float) -> float:
    """Return z - share |z|, which is below z for every sign of z."""
    return z - share * abs(z)
