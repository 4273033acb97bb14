"""LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) through PEFT: low-rank changes of many weights, trained on the target.

W' = W + alpha / r B A, with A [r, in] and B [out, r] for each weight [out, in]. PEFT's adapters are in the model only
within a ``with`` block (`adapted`). They become a patch, and the model is as before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import networkx as nx
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.config import Layers, MethodConfig, Workload
from kg_edit.methods.fine_tuning.base import StatementConfig, TuningMethod, loss_notes
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.entries import method_entry

ADAPTER = "edit"  # PEFT's name for the adapters while they are in the model
_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")  # a module's dicts of hooks
_ATTENTION = 4  # projections in the attention of most models: q, k, v and the output


class LoraConfig(StatementConfig):
    """Settings of LoRA. The preset ``paper`` has EasyEdit's for LLaMA-2-7B, but with LoRA instead of AdaLoRA."""

    steps: PositiveInt = Field(
        30, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(1e-4, gt=0, description="learning rate of Adam; published: 5e-3")
    rank: PositiveInt = Field(8, description="r: rank of each adapter")
    alpha: float = Field(32, gt=0, description="adapters are scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapters' inputs")
    modules: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="projections of a block, such as q_proj or self_attn.q_proj; default all of attention",
    )
    layers: Layers | None = Field(None, description="blocks with adapters, 0-based; default all")
    seed: Seed = Field(0, description="random seed of the adapters and of dropout")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "steps": 71,
            "learning_rate": 5e-3,
            "stop_below": 0.0,
            "dropout": 0.1,
            "modules": ("q_proj", "v_proj"),
        },
    }

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers in the settings, or all layers."""
        return tuple(range(blocks)) if self.layers is None else self.layers

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: one descent on the edit's row, with a pair of factors for each matrix."""
        matrices = _ATTENTION if self.modules is None else len(self.modules)
        return replace(super().workload(edits=edits), rank=self.rank, matrices=matrices)


class Lora(TuningMethod):
    """One set of LoRA adapters per edit; they become a patch, and nothing of PEFT remains in the model."""

    entry = method_entry("lora")
    trains = "adapters"
    config_class = LoraConfig
    config: LoraConfig

    def __init__(
        self, model: LanguageModel, config: LoraConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        super().__init__(model, config, graph=graph)
        self.targets = target_modules(model, config.modules, config.layers)
        for name in self.targets:
            largest = min(weight_matrix(model.model.get_submodule(name)).shape)
            if self.largest_rank > largest:
                raise ConfigError(
                    f"rank={self.largest_rank} is too large: {name} allows at most {largest}; give a smaller rank"
                )

    @property
    def largest_rank(self) -> int:
        """The rank of an adapter at the beginning of the training; AdaLoRA begins with more than ``rank``."""
        return self.config.rank

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and that PEFT is installed."""
        super().check_inputs(config, graph, edits)
        find_peft()

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train the adapters on the edit's row."""
        (edit,) = edits
        with keep_untouched(self.model):
            factors, losses = self.train(self.encode_edit(edit))
        record = {**self.record(edit), "norms": weight_norms(factors), **self.notes(factors), **loss_notes(losses)}
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": [record]})

    def train(self, row: TrainingRow) -> tuple[dict[str, Factors], list[float]]:
        """Train on ``row``; return the changes of the weights by their names, and the losses."""
        with adapted(self.model, self.targets, self.config) as adapters:
            row_losses = RowLosses(self.model, layer=0, rows=[row])
            losses = self.config.descent.run(adapters.parameters, lambda: row_losses().mean())
            return adapters.factors(), losses

    def notes(self, factors: Mapping[str, Factors]) -> dict[str, Any]:
        """Return further notes on the changes for the edit's record; none here."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, plus PEFT's version."""
        provenance = super().provenance()
        provenance["versions"]["peft"] = find_peft().__version__
        return provenance


def weight_norms(factors: Mapping[str, Factors]) -> dict[str, float]:
    """Return the norm of the change of all weights together, and the largest norm of one weight's change."""
    norms = [float(pair.product.norm()) for pair in factors.values()]
    return {"update": round(sum(norm**2 for norm in norms) ** 0.5, 6), "largest": round(max(norms), 6)}


def target_modules(
    model: LanguageModel, modules: Sequence[str] | None = None, layers: Sequence[int] | None = None
) -> list[str]:
    """Return the full names of the projections to adapt in each of ``layers``.

    Args:
        model: the model.
        modules: names of projections, or of modules that contain some; None: all of the attention, and of what a
            recurrent block has in its place.
        layers: blocks, 0-based; None: all.
    """
    if layers is None:
        layers = range(len(model.blocks))
    names = list[str]()
    for layer in layers:
        projections = [name for name, module in model.block(layer).named_modules() if is_projection(module)]
        parts = modules
        if parts is None:
            parts = _token_mixing_parts(model, projections)
        for part in parts:
            # With dots around both, only whole names match: "self_attn" is a part of "self_attn.q_proj", "proj" isn't.
            inside = [name for name in projections if f".{part}." in f".{name}."]
            if not inside:
                raise ConfigError(
                    f"block {layer} of {model.name!r} has no projection {part!r}; it has {', '.join(projections)}"
                )
            names += [f"{model.spec.blocks}.{layer}.{name}" for name in inside]
    return list(dict.fromkeys(names))


def _token_mixing_parts(model: LanguageModel, projections: Sequence[str]) -> list[str]:
    """Return the name of a block's attention, or the projections that a recurrent block has in its place.

    The recurrent part has another name in each family, so these are all projections outside of the MLP.
    """
    if not model.is_recurrent:
        return [model.spec.attention]
    mlp, _, _ = (model.spec.down_projection or "mlp.").rpartition(".")  # "mlp" of "mlp.down_proj"
    return [name for name in projections if not name.startswith(f"{mlp}.")]


def is_projection(module: nn.Module) -> bool:
    """Return whether a module is a projection whose weight a patch can change."""
    return isinstance(module, nn.Linear | Conv1D) and isinstance(module.weight, torch.Tensor)


@dataclass(frozen=True, eq=False)
class Adapters:
    """PEFT's LoRA layers by the names of the modules that they wrap."""

    layers: Mapping[str, Any]

    @property
    def parameters(self) -> list[Tensor]:
        """All A [r, in] and B [out, r], in float32."""
        parameters = list[Tensor]()
        for layer in self.layers.values():
            parameters += [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        return parameters

    def factors(self) -> dict[str, Factors]:
        """Return the change of each weight, alpha / r B A, by the weight's name."""
        factors = dict[str, Factors]()
        for name, layer in self.layers.items():
            left = layer.scaling[ADAPTER] * layer.lora_B[ADAPTER].weight.detach().clone()  # alpha / r B, [out, r]
            right = layer.lora_A[ADAPTER].weight.detach().T.contiguous()  # A^T, [in, r]
            factors[f"{name}.weight"] = Factors(left=left, right=right)
        return factors


@contextmanager
def adapted(model: LanguageModel, names: Sequence[str], config: LoraConfig) -> Iterator[Adapters]:
    """Put a new LoRA adapter around each of the modules ``names`` within the ``with`` block, then restore them."""
    peft = find_peft()
    modules = {name: model.model.get_submodule(name) for name in names}
    settings = peft.LoraConfig(r=config.rank, **shared_settings(modules, config))
    with wrapped(model, modules, lambda base: peft.LoraModel(base, settings, ADAPTER), config.seed):
        layers: dict[str, Any] = {name: model.model.get_submodule(name) for name in names}
        for layer in layers.values():
            # The model is frozen and in evaluation mode; only the adapters train, with dropout. They are float32 in
            # any precision of the model.
            for part in (layer.lora_A, layer.lora_B, layer.lora_dropout):
                part.to(torch.float32).train().requires_grad_(True)
        yield Adapters(layers)


def shared_settings(modules: Mapping[str, nn.Module], config: LoraConfig) -> dict[str, Any]:
    """Return the settings that PEFT's LoRA and AdaLoRA share, for adapters around ``modules``."""
    return {
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": list(modules),
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in modules.values()),
    }


@contextmanager
def wrapped(
    model: LanguageModel, modules: Mapping[str, nn.Module], wrap: Callable[[nn.Module], Any], seed: int
) -> Iterator[Any]:
    """Run PEFT's ``wrap``, which puts adapters around ``modules``; restore these after the ``with`` block.

    An adapter also gets its module's forward hooks within the block, and those that are registered there. So the hook
    of an earlier patch reads an output with the adapter's change, as it does when the change is in the weight.

    Args:
        model: the model.
        modules: the modules by their full names.
        wrap: is called with the transformers model; its result is the value of the ``with`` statement.
        seed: random seed of the adapters and of dropout.
    """
    base = model.model
    if hasattr(base, "peft_config"):
        raise ConfigError(f"the model {model.name!r} already has PEFT adapters; merge and unload them before editing")
    with_hooks = dict[str, nn.Module]()  # the adapters that have the hooks of their modules, by the modules' names
    try:
        # The tuner replaces the modules inside the model, and freezes everything else; PEFT draws A from the generator.
        with seeded(model, seed):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT warns about tied embeddings, which are not adapted here
                tuner = wrap(base)
            for name, module in modules.items():
                adapter = base.get_submodule(name)  # the name now leads to the adapter around the module
                _move_hooks(module, adapter)
                with_hooks[name] = adapter
            yield tuner
    finally:
        for name, adapter in with_hooks.items():  # none if ``wrap`` has failed
            _move_hooks(adapter, modules[name])
        for name, module in modules.items():
            parent, _, leaf = name.rpartition(".")
            setattr(base.get_submodule(parent), leaf, module)
        if hasattr(base, "peft_config"):
            del base.peft_config


@contextmanager
def seeded(model: LanguageModel, seed: int) -> Iterator[None]:
    """Inside the ``with`` block, the generators of the model's devices begin at ``seed``; then they are as before.

    `torch.manual_seed` would also seed the generators of CUDA devices that hold no part of the model.
    """
    with torch.random.fork_rng(devices=model.cuda_devices):
        if model.device.type in ("cpu", "cuda"):
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        for device in model.cuda_devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Give the forward hooks of ``source`` to ``target``, which has none.

    The modules exchange their dicts, and nothing is copied: a hook's handle removes it from the dict in which it was
    registered, so that dict has to stay in use.
    """
    for name in _HOOKS:
        hooks = getattr(source, name)
        no_hooks = getattr(target, name)
        setattr(source, name, no_hooks)
        setattr(target, name, hooks)


def find_peft() -> Any:
    """Import and return the module ``peft``, which is an optional dependency."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError("LoRA and AdaLoRA need PEFT; install it: pip install 'kg-edit[peft]'") from error
    return peft
