"""The side of MEMoE: a mixture of experts beside one frozen layer (Wang and Li 2024, arXiv 2405.19086).

x is the down-projection's input at a token, anchor(x) the mean embedding of the names up to this token
(`kg_edit.methods.memoe.anchors`). With E experts W_e [d, d_ff] and a router W_g [E, d_ff + d]:

    g = top-k(softmax(W_g [x; anchor(x)]))                        the others are 0
    y = W_0 x + scale sum_e g_e W_e x

The layer's own weight W_0 does not change. The experts start at 0, the router from random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from kg_edit.methods.adapters.summed import SideSettings, SummedSide, linear_start
from kg_edit.methods.memoe.anchors import Anchors
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.seeds import Seed


class ExpertSettings(SideSettings):
    """Settings: the number of experts, and how tokens are routed."""

    experts: PositiveInt = Field(4, description="E, number of experts")
    top: PositiveInt = Field(1, description="k, number of experts that answer each token")
    scale: float = Field(1.0, gt=0, description="lambda, weight of the experts' output")
    anchors: bool = Field(True, description="whether the router sees the anchor beside the token")
    seed: Seed = Field(0, description="random seed of the router's initial weights")

    @model_validator(mode="after")
    def _enough(self) -> ExpertSettings:
        if self.top > self.experts:
            raise ValueError(f"top = {self.top} is more than the {self.experts} experts; give a smaller top")
        return self


@dataclass(frozen=True, eq=False, kw_only=True)
class Experts(SummedSide):
    """The router [E, in + out], and the experts stacked by rows, [E * out, in]."""

    kind: ClassVar[str] = "memoe"
    settings_class = ExpertSettings
    settings: ExpertSettings

    @property
    def words(self) -> str:
        """A short description of the side."""
        return f"{self.settings.experts} experts, {self.settings.top} a token"

    def start(self) -> dict[str, Tensor]:
        """The initial parameters: the router random like a linear layer's, from the seed; the experts 0."""
        draw, (rows, columns) = torch.Generator().manual_seed(self.settings.seed), self.size
        router = linear_start(self.settings.experts, columns + rows, draw)
        return {"router": router, "experts": torch.zeros(self.settings.experts * rows, columns)}

    @contextmanager
    def seen(self, model: LanguageModel, layer: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function from x to [x; anchor(x)], [tokens, in + out]; the anchor is 0 without ``anchors``."""
        with Anchors(model, layer, name=self.kind).attached() as anchors:

            def look(inputs: Tensor) -> Tensor:
                found, width = anchors.of(inputs), self.size[0]
                fitting = torch.nn.functional.pad(found, (0, max(0, width - found.shape[1])))[:, :width]
                return torch.cat([inputs, fitting if self.settings.anchors else torch.zeros_like(fitting)], -1)

            yield look

    def gates(self, own: Mapping[str, Tensor], seen: Tensor) -> Tensor:
        """g [tokens, E]: the router's probabilities, set to 0 except the ``top`` largest."""
        # each part is normalised, because their norms differ by orders of magnitude
        parts = seen.split([self.size[1], seen.shape[1] - self.size[1]], -1)
        scaled = torch.cat([torch.nn.functional.normalize(part, dim=-1) * part.shape[1] ** 0.5 for part in parts], -1)
        probabilities = (scaled @ own["router"].T).softmax(-1)
        kept = torch.zeros_like(probabilities).scatter(1, probabilities.topk(self.settings.top).indices, 1.0)
        return probabilities * kept

    def answer(self, own: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False) -> Tensor:
        """``output`` plus the outputs of the chosen experts; ``inputs`` are [x; anchor(x)]."""
        answers = (inputs[:, : self.size[1]] @ own["experts"].T).reshape(len(inputs), -1, self.size[0])
        return output + self.settings.scale * (self.gates(own, inputs)[..., None] * answers).sum(1)
