"""T-Patcher (Huang et al., ICLR 2023, arXiv 2301.09785): one trainable neuron in the last MLP for each wrong token.

A mistake is a token of the target that is not the likeliest token at its position. q is the MLP's input at the position
that predicts it. The neuron (k, b, v) of a mistake is trained on

    L = l_e + activation_weight l_a + memory_weight (l_m1 + l_m2)
    l_e  = -log P(target)
    l_a  = mean of exp(-(k . q + b))                        the neuron is active at its own mistake
    l_m1 = S(k . m + b + margin)                            and inactive for the memory m
    l_m2 = S(k . (m - q) + margin)                          with a distance between both
    S(x) = mean of the `hardest` largest exp(x)

(`neuron_loss` has all but l_e.) k starts at q / |q|^2 and b at 0, so that the neuron starts with output 1 at its
mistake. v starts at 0, or is trained as u * a with a random u and a = `amplify` at the start, as in the published
program.

The memory has the MLP's inputs in texts that the model writes itself, which replace the published training data, and
the queries of earlier edits' mistakes, except those of a prompt that is edited again.
`t_patcher.adapter` has the equation of the neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.methods.config import Workload
from kg_edit.methods.fine_tuning.base import record_change
from kg_edit.methods.fine_tuning.descent import AdamDescent
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import Adapter
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.adapters.base import AdapterConfig, AdapterMethod, inputs_at, own_text_inputs
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.t_patcher.adapter import Neurons, fired

_SAME = 1e-3  # distance below which two queries count as the same, relative to their norm
_EXP = 30.0  # arguments of exp are clamped here, so that products of a few such numbers stay finite in float32


class TPatcherConfig(AdapterConfig):
    """Settings of the neurons."""

    layer: int | None = Field(
        None, ge=0, description="block whose MLP gets the neurons, 0-based; default the last block"
    )
    steps: PositiveInt = Field(
        1000, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(0.01, gt=0, description="learning rate of Adam")
    stop_below: float = Field(
        0.1, description="training stops when the target's loss is below this value; 0: train for all steps"
    )
    most: PositiveInt = Field(5, description="maximum number of neurons for an edit; the first wrong tokens get them")
    activation_weight: float = Field(
        1.0, ge=0, description="a: weight of the loss l_a, which activates a neuron at its own mistake"
    )
    memory_weight: float = Field(
        10.0, ge=0, description="m: weight of the losses l_m1 and l_m2, which keep a neuron inactive elsewhere"
    )
    margin: float = Field(3.0, ge=0, description="margin in l_m1 and l_m2 (published: -beta and gamma)")
    hardest: PositiveInt = Field(
        100, description="l_m1 and l_m2 use this many inputs of the memory, those with the largest loss"
    )
    amplify: float = Field(
        0.0, ge=0, description="v is trained as u * a, with a random u and this a at the start; 0: v itself, from 0 on"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of Adam")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; unset: any")
    texts: PositiveInt = Field(64, description="texts sampled from the model, whose inputs are the memory")
    text_tokens: PositiveInt = Field(16, description="length of these texts, in tokens")
    seed: Seed = Field(0, description="random seed of the sampled texts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "steps": 2000,
            "hardest": 1000,
            "amplify": 10.0,
            "weight_decay": 0.01,
            "clip": 5.0,
            "texts": 625,
            "text_tokens": 63,
        },
    }

    @property
    def descent(self) -> AdamDescent:
        """Adam's descent with these settings."""
        return replace(super().descent, weight_decay=self.weight_decay, clip=self.clip)

    def idle(self) -> dict[str, str]:
        """Return the settings of the memory, if its losses have the weight 0."""
        if self.memory_weight:
            return {}
        settings = ("margin", "hardest", "texts", "text_tokens")
        return dict.fromkeys(settings, "with memory_weight=0 the memory is not used")

    def layer_in(self, blocks: int) -> int:
        """Return the layer in the settings, or the last layer."""
        return blocks - 1 if self.layer is None else self.layer

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: at most ``most`` neurons."""
        return Workload(rank=self.most)


class TPatcher(AdapterMethod):
    """Adds one neuron to the last MLP for each token of a target that the model predicts wrongly."""

    entry = method_entry("t-patcher")
    trains = "adapters"
    adapter_class = Neurons
    config_class = TPatcherConfig
    config: TPatcherConfig

    def prepare(self) -> None:
        """Collect the memory once: the MLP's inputs in the model's own texts."""
        with keep_untouched(self.model):
            _ = self.memory_queries

    @cached_property
    def memory_queries(self) -> Tensor:
        """The MLP's inputs at tokens of the model's own texts, [tokens, d]."""
        config = self.config
        return own_text_inputs(
            self.model, self.layer, reads="mlp", texts=config.texts, tokens=config.text_tokens, seed=config.seed
        )

    def train(self, edits: Sequence[Edit], earlier: Adapter | None) -> tuple[Adapter, list[dict[str, Any]]]:
        """Train the neurons for the mistakes of the one edit; an adapter without neurons if there are no mistakes."""
        (edit,) = edits
        existing = Neurons.none(self.shape)
        if isinstance(earlier, Neurons):
            existing = earlier
        row = self.encode_edit(edit)
        row_losses = RowLosses(self.model, self.layer, [row])
        queries = self._queries_of_mistakes(row, row_losses, existing)  # q, [n, d]
        new = NewNeurons.at(queries, amplify=self.config.amplify, seed=self.config.seed)
        losses = self._train_neurons(new, queries, existing, row_losses)

        keys, biases, values = new.tensors
        adapter = Neurons(
            size=self.shape,
            keys=keys.detach().cpu(),
            biases=biases.detach().cpu(),
            values=values.detach().cpu(),
            queries=queries.cpu(),
        )
        change = torch.cat([adapter.keys, adapter.values, torch.zeros(1, self.shape[0])])  # 0 if there is no neuron
        return adapter, [record_change(self, edit, change=change, losses=losses) | {"neurons": len(keys)}]

    def _train_neurons(self, new: NewNeurons, queries: Tensor, existing: Neurons, row_losses: RowLosses) -> list[float]:
        """Train new neurons in place, beside the existing ones; return the losses l_e.

        Args:
            new: a neuron for each mistake.
            queries: q, the MLP's input at each mistake, [n, d].
            existing: the neurons of earlier edits.
            row_losses: the loss of the edit's row.
        """
        before = existing.on(self.device)
        memory = self._memory_for(queries, existing)  # m, [tokens, d]

        def forward(h: Tensor, output: Tensor) -> Tensor:
            return output + fired(h, *before) + fired(h, *new.tensors)

        def edit_loss() -> Tensor:
            return row_losses().mean()  # l_e

        def penalty() -> Tensor:
            return neuron_loss(new.keys, new.biases, queries, memory, self.config)

        descent = self.config.descent
        if not len(queries):  # without mistakes there is nothing to train: the loss is evaluated once
            descent = replace(descent, steps=1)
        with replace_output(self.model, self.layer, forward, reads="mlp"):
            return descent.run(new.parameters, edit_loss, penalty=penalty)

    def _queries_of_mistakes(self, row: TrainingRow, row_losses: RowLosses, existing: Neurons) -> Tensor:
        """Return the MLP's inputs at the mistakes, [n, d]: at most ``most`` of the settings, the first ones.

        Args:
            row: the prompt with its target.
            row_losses: the row's losses, which also give its logits.
            existing: the neurons of earlier edits.
        """
        before = existing.on(self.device)

        def forward(h: Tensor, output: Tensor) -> Tensor:
            return output + fired(h, *before)

        with torch.no_grad(), replace_output(self.model, self.layer, forward, reads="mlp"):
            likeliest = row_losses.logits().argmax(-1).tolist()
        wrong = [index for index, (_, token) in enumerate(row.targets) if likeliest[index] != token]
        inputs = inputs_at(self, [row], reads="mlp")  # [target's tokens, d]
        return inputs[torch.tensor(wrong[: self.config.most], dtype=torch.long, device=inputs.device)]

    def _memory_for(self, queries: Tensor, existing: Neurons) -> Tensor:
        """Return the inputs at which the new neurons should be inactive, [tokens, d]: other text, earlier mistakes.

        A prompt that is edited again has its old mistakes among the earlier ones. They are left out, or else a new
        neuron could not be active at its own mistake.
        """
        old = existing.queries.to(queries)  # [earlier, d]
        distances = torch.cdist(old, queries, compute_mode="donot_use_mm_for_euclid_dist")  # [earlier, n]
        is_again = (distances <= _SAME * queries.norm(dim=-1)).any(-1)  # [earlier]
        return torch.cat([self.memory_queries, old[~is_again]])


def neuron_loss(keys: Tensor, biases: Tensor, queries: Tensor, memory: Tensor, config: TPatcherConfig) -> Tensor:
    """Return activation_weight l_a + memory_weight (l_m1 + l_m2).

    Args:
        keys: k of each neuron, [n, d].
        biases: b, [n].
        queries: q, the MLP's input at each neuron's mistake, [n, d].
        memory: m, the inputs at which all neurons should be inactive, [tokens, d].
        config: the weights, the margin and ``hardest``.
    """
    if not len(keys):
        return keys.sum()  # 0, with a gradient

    def mean_of_hardest(values: Tensor) -> Tensor:
        """Return S, the mean of the largest exp(values [tokens, n])."""
        count = min(config.hardest, values.numel())
        return values.clamp(max=_EXP).flatten().topk(count).values.exp().mean()

    here = (queries * keys).sum(-1) + biases  # [n]
    elsewhere = memory @ keys.T + biases  # [tokens, n]
    loss_active = (-here).clamp(max=_EXP).exp().mean()  # l_a
    loss_memory = mean_of_hardest(elsewhere + config.margin)  # l_m1
    loss_margin = mean_of_hardest(elsewhere - here + config.margin)  # l_m2
    return config.activation_weight * loss_active + config.memory_weight * (loss_memory + loss_margin)


@dataclass(frozen=True, eq=False, kw_only=True)
class NewNeurons:
    """Neurons in training: ``keys`` [n, d], ``biases`` [n], ``values`` [n, d], and ``factors`` [n, d] or None.

    With factors, v = values * factors; without, v = values.
    """

    keys: Tensor
    biases: Tensor
    values: Tensor
    factors: Tensor | None

    @classmethod
    def at(cls, queries: Tensor, *, amplify: float, seed: int) -> NewNeurons:
        """Return neurons with output 1 at their queries [n, d]; the values are 0, or random ones times ``amplify``."""
        keys = (queries / queries.square().sum(-1, keepdim=True).clamp(min=1e-12)).clone()
        drawn = torch.randn(queries.shape, generator=torch.Generator().manual_seed(seed)).to(queries)
        values = torch.zeros_like(queries)
        factors = None
        if amplify:
            values = drawn
            factors = torch.full_like(queries, amplify).requires_grad_()
        return cls(
            keys=keys.requires_grad_(),
            biases=torch.zeros(len(queries), device=queries.device, requires_grad=True),
            values=values.requires_grad_(),
            factors=factors,
        )

    @property
    def parameters(self) -> list[Tensor]:
        """The trained tensors."""
        parameters = [self.keys, self.biases, self.values]
        if self.factors is not None:
            parameters.append(self.factors)
        return parameters

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The keys, the biases and the values."""
        if self.factors is None:
            values = self.values
        else:
            values = self.values * self.factors
        return self.keys, self.biases, values
