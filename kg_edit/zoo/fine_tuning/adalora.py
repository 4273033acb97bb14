"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512) through PEFT: LoRA that allocates its ranks among the weights.

W' = W + alpha / r0 P diag(lambda) Q for each weight [out, in], with P [out, r0] and Q [r0, in]. A penalty keeps P and Q
near orthonormal: orthogonality * mean over all P and Q of ||P^T P - 1|| and ||Q Q^T - 1||. Each weight starts with r0
triplets (a column of P, a lambda, a row of Q). During the descent, the lambda of the least important triplets is set to
0, until ``rank`` triplets per weight are left on average. The importance is the sensitivity |w dL/dw| times its
uncertainty, both smoothed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import networkx as nx
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from kg_edit.errors import UnsupportedModelError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.factors import Factors
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.fine_tuning.lora import ADAPTER, Lora, LoraConfig, find_peft, shared_settings, wrapped


class AdaLoraConfig(LoraConfig):
    """AdaLoRA's settings. The preset ``paper`` has EasyEdit's for LLaMA-2-7B, which keep all triplets."""

    steps: PositiveInt = Field(
        50, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(5e-3, gt=0, description="learning rate of Adam")
    rank: PositiveInt = Field(8, description="final number of triplets a weight, on average")
    initial_rank: PositiveInt = Field(12, description="r0: initial number of triplets of each weight")
    warm_up: NonNegativeInt = Field(5, description="steps before the first triplet is removed")
    final: NonNegativeInt = Field(10, description="steps after the last triplet is removed")
    orthogonality: float = Field(0.5, ge=0, description="weight of the penalty that keeps P and Q near orthonormal")
    alpha: float = Field(32, gt=0, description="adapters are scaled by alpha / r0")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"steps": 71, "stop_below": 0.0, "rank": 12, "dropout": 0.1, "modules": ("q_proj", "v_proj")},
    }

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rank > self.initial_rank:
            raise ValueError(f"rank={self.rank} is larger than initial_rank={self.initial_rank}; give a smaller rank")
        if max(self.warm_up, 1) + self.final >= self.updates:  # the first step only measures the importance
            raise ValueError(
                f"warm_up={self.warm_up} and final={self.final} leave none of the {self.updates} optimiser steps "
                "(steps - 1) for removing triplets; give more steps"
            )
        return self

    @property
    def updates(self) -> int:
        """The largest number of optimiser steps; no step follows the last evaluation of the loss."""
        return max(self.steps - 1, 1)


class AdaLora(Lora):
    """One set of AdaLoRA adapters per edit; their remaining triplets become a patch.

    If the loss is small enough early, fewer ranks have been removed; the edit's record has the number of ranks left.
    """

    entry = method_entry("adalora")
    config_class = AdaLoraConfig
    config: AdaLoraConfig

    def __init__(
        self, model: LanguageModel, config: AdaLoraConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        super().__init__(model, config, graph=graph)
        devices = sorted({str(parameter.device) for parameter in model.model.parameters()})
        if len(devices) > 1:  # PEFT compares the triplets of all layers in one tensor
            raise UnsupportedModelError(
                f"{model.name} is on {', '.join(devices)}, and PEFT's AdaLoRA needs a model on one device; load it "
                "without device_map, or use lora"
            )

    @property
    def largest_rank(self) -> int:
        """The rank of an adapter at the beginning of the training."""
        return self.config.initial_rank

    def train(self, row: TrainingRow) -> tuple[dict[str, Factors], list[float]]:
        """Train on ``row``; return the changes of the weights by their names, and the losses."""
        with svd_adapted(self.model, self.targets, self.config) as adapters:
            row_losses = RowLosses(self.model, layer=0, rows=[row])

            def remove_triplets() -> None:
                if self.config.rank < self.config.initial_rank:  # PEFT fails if there are none to remove
                    adapters.allocate()

            losses = self.config.descent.run(
                adapters.parameters,
                lambda: row_losses().mean(),
                penalty=lambda: self.config.orthogonality * adapters.distance(),
                constrain=remove_triplets,
            )
            return adapters.factors(), losses

    def notes(self, factors: Mapping[str, Factors]) -> dict[str, Any]:
        """Return the number of remaining triplets of all weights together."""
        rank = 0
        for pair in factors.values():
            rank += int(pair.right.any(dim=0).sum())  # the columns that are not 0
        return {"rank": rank}


@dataclass(eq=False)
class SvdAdapters:
    """PEFT's AdaLoRA layers by the names of the modules that they wrap, and PEFT's tuner, which allocates the ranks."""

    tuner: Any
    layers: Mapping[str, Any]
    _step: int = field(default=0)

    @property
    def parameters(self) -> list[Tensor]:
        """All Q [r0, in], lambda [r0, 1] and P [out, r0], in float32."""
        parameters = list[Tensor]()
        for layer in self.layers.values():
            parameters += [layer.lora_A[ADAPTER], layer.lora_E[ADAPTER], layer.lora_B[ADAPTER]]
        return parameters

    def distance(self) -> Tensor:
        """Return the mean over all P and Q of the Frobenius norm of P^T P - 1 and Q Q^T - 1."""
        # PEFT calls Q lora_A, lambda lora_E and P lora_B.
        squares = [layer.lora_A[ADAPTER] @ layer.lora_A[ADAPTER].T for layer in self.layers.values()]  # Q Q^T, [r0, r0]
        squares += [layer.lora_B[ADAPTER].T @ layer.lora_B[ADAPTER] for layer in self.layers.values()]  # P^T P
        norms = list[Tensor]()
        for square in squares:
            identity = torch.eye(len(square)).to(square)
            norms.append(torch.linalg.matrix_norm(square - identity).to(squares[0].device))
        return torch.stack(norms).mean()

    def allocate(self) -> None:
        """After a step, set lambda to 0 for the triplets that exceed the budget of this step."""
        self._step += 1
        self.tuner.update_and_allocate(self._step)

    @torch.no_grad()
    def factors(self) -> dict[str, Factors]:
        """Return the change of each weight by its name: alpha / r0 P lambda Q of the remaining triplets."""
        factors = dict[str, Factors]()
        for name, layer in self.layers.items():
            strength = layer.lora_E[ADAPTER][:, 0]  # lambda [r0]; 0 where a triplet was removed
            kept = strength.nonzero()[:, 0]
            if not len(kept):
                kept = kept.new_zeros(1)  # factors need a rank of 1 or more; this triplet's lambda is 0
            scale = layer.scaling[ADAPTER] / (float(layer.ranknum[ADAPTER]) + 1e-5)  # as PEFT divides it
            left = layer.lora_B[ADAPTER][:, kept]
            right = (layer.lora_A[ADAPTER] * strength[:, None])[kept].T
            factors[f"{name}.weight"] = Factors(left=(scale * left).contiguous(), right=right.contiguous())
        return factors


@contextmanager
def svd_adapted(model: LanguageModel, names: Sequence[str], config: AdaLoraConfig) -> Iterator[SvdAdapters]:
    """Put a new AdaLoRA adapter around each of the modules ``names`` within the ``with`` block, then restore them."""
    peft = find_peft()
    modules = {name: model.model.get_submodule(name) for name in names}
    settings = peft.AdaLoraConfig(
        init_r=config.initial_rank,
        target_r=config.rank,
        tinit=config.warm_up,
        tfinal=config.final,
        total_step=config.updates,
        **shared_settings(modules, config),
    )
    with wrapped(model, modules, lambda base: peft.AdaLoraModel(base, settings, ADAPTER), config.seed) as tuner:
        adapters = SvdAdapters(tuner, {name: model.model.get_submodule(name) for name in names})
        for layer in adapters.layers.values():  # float32 in any precision of the model, with dropout
            layer.lora_dropout.train()
            for side in (layer.lora_A, layer.lora_E, layer.lora_B):
                side[ADAPTER].data = side[ADAPTER].data.float()
                side[ADAPTER].requires_grad_(True)
        yield adapters
