"""LoRA adapters of PEFT inside a model for the length of a block; nothing of them is left behind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.factors import Factors

_ADAPTER = "edit"


@dataclass(frozen=True, kw_only=True)
class LoraSize:
    """Rank r, the scale alpha / r, dropout on the adapters' inputs, and the seed of A (B is 0)."""

    rank: int
    alpha: float
    dropout: float
    seed: int


@dataclass(frozen=True, eq=False)
class Adapters:
    """PEFT's LoRA layers by the names of the modules that they wrap."""

    layers: Mapping[str, Any]

    @property
    def parameters(self) -> list[Tensor]:
        """All A [r, in] and B [out, r], in float32."""
        return [side[_ADAPTER].weight for layer in self.layers.values() for side in (layer.lora_A, layer.lora_B)]

    def factors(self) -> dict[str, Factors]:
        """The change of each weight, alpha / r B A, by the weight's name."""
        return {
            f"{name}.weight": Factors(
                left=layer.scaling[_ADAPTER] * layer.lora_B[_ADAPTER].weight.detach().clone(),
                right=layer.lora_A[_ADAPTER].weight.detach().T.contiguous(),
            )
            for name, layer in self.layers.items()
        }


@contextmanager
def adapted(model: LanguageModel, names: Sequence[str], size: LoraSize) -> Iterator[Adapters]:
    """The model with a fresh adapter around each of the modules ``names``; then the very modules as before.

    Moves the global random generator: run it where that is forked, as in `descent.untouched`.

    Raises:
        ConfigError: PEFT is not installed, or the model holds adapters already.
    """
    whole = model.model
    if hasattr(whole, "peft_config"):
        raise ConfigError(f"{model.name!r} holds PEFT adapters already; merge and unload them before editing")
    modules = {name: whole.get_submodule(name) for name in names}
    peft = find_peft()
    try:
        torch.manual_seed(size.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tied embeddings, which are no target here
            peft.LoraModel(whole, _settings(peft, modules, size), _ADAPTER)
        layers = {name: whole.get_submodule(name) for name in names}
        _ready(layers)
        yield Adapters(layers)
    finally:
        for name, module in modules.items():
            parent, _, leaf = name.rpartition(".")
            setattr(whole.get_submodule(parent), leaf, module)
        if hasattr(whole, "peft_config"):
            del whole.peft_config


def find_peft() -> Any:
    """The package, imported only now.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError("the method lora needs PEFT; install it: pip install 'kg-edit[peft]'") from error
    return peft


def _settings(peft: Any, modules: Mapping[str, nn.Module], size: LoraSize) -> Any:
    return peft.LoraConfig(
        r=size.rank,
        lora_alpha=size.alpha,
        lora_dropout=size.dropout,
        target_modules=list(modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules.values()),
    )


def _ready(layers: Mapping[str, Any]) -> None:
    """Adapters in float32 whatever the model's precision; dropout on, as everything else is in evaluation mode."""
    for layer in layers.values():
        for part in (layer.lora_A, layer.lora_B, layer.lora_dropout):
            part.to(torch.float32).train()
        for side in (layer.lora_A, layer.lora_B):
            side.requires_grad_(True)
