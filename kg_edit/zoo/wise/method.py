"""WISE (Wang et al., NeurIPS 2024, arXiv 2405.14768): edits train a side memory, which acts on the texts it changes.

The memory is a copy W + D of one down-projection W [d, d_ff]. An edit trains the entries of D in its shard's random
subspace, with the text of the edit in several contexts, until

    L = -log p(target), with W + D in the place of W                                               (Eq. 4)
      + [a_i - alpha]+ + [beta - a_e]+ + [gamma - (a_e - a_i)]+                                    (Eq. 5)

is small. a is the activation, the mean of |D x| over the tokens so far: a_e in the texts of the edit where its target
is predicted, a_i in texts that no edit is about (`wise.activations`). By default (`relative`) the second line has
activations and margins in units of the median |W x| in those texts. `wise.adapter` has the equations of the edited
model: which memory a text uses, and how shards are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.replay import block_output
from kg_edit.methods.config import Workload
from kg_edit.methods.fine_tuning.base import record_change
from kg_edit.methods.fine_tuning.descent import AdamDescent
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, row_of
from kg_edit.models.hooks import keep_untouched, watch
from kg_edit.models.language_model import weight_matrix
from kg_edit.models.prompts import left_pad
from kg_edit.models.sampling import BARE, sample_rows, sample_started_contexts
from kg_edit.patches.adapter_hooks import replace_output
from kg_edit.patches.adapter_patch import Adapter
from kg_edit.zoo.adapters.base import AdapterConfig, AdapterMethod
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.wise.activations import TrainedTexts, margin_loss
from kg_edit.zoo.wise.adapter import MemorySettings, SideMemory


class WiseConfig(MemorySettings, AdapterConfig):
    """WISE's settings. The preset ``paper`` has the published ones for LLaMA-2-7B, except layer and weight decay.

    The published code takes a step after each evaluation of the loss. Here no step follows the last evaluation, so
    ``paper`` has one more. Its optimiser also shrinks all of W + D by 1e-5 in each step, outside of the subspace too.
    """

    depth: ClassVar[float] = 0.85

    layer: int | None = Field(None, ge=0, description="block with the memory, 0-based; default 0.85 of the depth")
    steps: PositiveInt = Field(
        25, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(5e-3, gt=0, description="learning rate of the optimiser")
    optimiser: Literal["adam", "sgd"] = Field("adam", description="optimiser of the memory; published: sgd")
    stop_below: float = Field(2e-2, description="training stops when the loss, with its margins, is below this value")
    bound: float = Field(1.0, gt=0, description="largest entry of D")
    alpha: float = Field(0.05, ge=0, description="largest activation of unrelated text")
    beta: float = Field(0.5, ge=0, description="least activation of the edit's own texts")
    gamma: float = Field(0.25, ge=0, description="least difference between both")
    relative: bool = Field(
        True, description="alpha, beta, gamma are multiples of the median |W x| in unrelated text; published: absolute"
    )
    context_starts: tuple[str, ...] = Field(
        ("I", "Because"), description="first words of the contexts; one context for each"
    )
    context_tokens: tuple[PositiveInt, ...] = Field((10,), description="lengths of the contexts, in tokens")
    texts: PositiveInt = Field(8, description="unrelated texts, which the model writes itself")
    text_tokens: PositiveInt = Field(16, description="length of these texts, in tokens")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "steps": 71,
            "learning_rate": 1.0,
            "optimiser": "sgd",
            "alpha": 5.0,
            "beta": 20.0,
            "gamma": 10.0,
            "relative": False,
            "context_starts": ("I", "You", "Because", "Yes", "Q:"),
            "context_tokens": (5, 10),
        }
    }

    @property
    def descent(self) -> AdamDescent:
        """The descent with these settings."""
        kind = AdamDescent if self.optimiser == "adam" else GradientDescent
        return kind(steps=self.steps, learning_rate=self.learning_rate, stop_below=self.stop_below)

    def idle(self) -> dict[str, str]:
        """Return the density of a merge, if nothing is merged."""
        if self.merge > 1 or not self.retrieve:  # retrieve=false merges all shards
            return {}
        return {"density": "with merge=1 no shards are merged"}

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: one descent on the edit's prompt in every context."""
        starts = len(self.context_starts)
        contexts = starts * len(self.context_tokens)
        return Workload(rows=1 + contexts, context_tokens=starts * sum(self.context_tokens))


class GradientDescent(AdamDescent):
    """Plain gradient descent: like `AdamDescent`, but with SGD as its optimiser."""

    def optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return SGD for these parameters."""
        return torch.optim.SGD(list(parameters), lr=self.learning_rate)


class Wise(AdapterMethod):
    """Each edit trains the present shard of the memory further; a text that activates a memory enough uses it."""

    entry = method_entry("wise")
    adapter_class = SideMemory
    config_class = WiseConfig
    config: WiseConfig

    def prepare(self) -> None:
        """Sample the contexts and the unrelated texts from the model, once for all edits."""
        with keep_untouched(self.model):
            _ = self.contexts
            _ = self.unrelated
            _ = self.unit

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around the prompt; the first one is the bare ``{}``."""
        config = self.config
        contexts = [BARE]
        with keep_untouched(self.model):  # `provenance` may ask first, of a model in training mode
            for length in config.context_tokens:
                # The first one is the bare one again.
                _, *started = sample_started_contexts(
                    self.model, starts=config.context_starts, tokens=length, seed=config.seed
                )
                contexts += started
        return tuple(contexts)

    @cached_property
    def unrelated(self) -> list[Tensor]:
        """The module's inputs in texts that the model writes, [tokens, d_ff] for each."""
        config = self.config
        return self.inputs(sample_rows(self.model, rows=config.texts, tokens=config.text_tokens, seed=config.seed))

    @cached_property
    def unit(self) -> float:
        """The unit of alpha, beta and gamma: the median |W x| in unrelated text, or 1."""
        if not self.config.relative:
            return 1.0
        outputs = torch.cat(self.unrelated) @ weight_matrix(self.module).detach().float().T  # W x, [tokens, d]
        return float(outputs.norm(dim=-1).median())

    def rows(self, edit: Edit) -> list[TrainingRow]:
        """Return the edit's prompt with its target in every context."""
        rows = [self.encode_edit(edit)]
        for context in self.contexts[1:]:
            fact = self.model.encode_fact(
                edit.prompt,
                subject=edit.subject,
                target=edit.target_new,
                context=context,
                chat=edit.is_made_in_chat(self.name),
            )
            rows.append(row_of(fact, "target"))
        return rows

    def train(self, edits: Sequence[Edit], earlier: Adapter | None) -> tuple[Adapter, list[dict[str, Any]]]:
        """Train the present shard on the one edit; the adapter has its change, and the edit's activation.

        Other shards do not act while it is trained.
        """
        (edit,) = edits
        memory = self._find_memory(earlier)
        # `owners` has an entry for each earlier edit, and `shard` edits fill a shard.
        number = len(memory.owners) // self.config.shard
        start = memory.shards.get(number, torch.zeros(self.shape)).to(self.device)  # D of the shard before this edit
        change = _make_trainable(start, memory.subspace(number))  # D of the shard, [d, d_ff]

        rows = self.rows(edit)
        row_inputs = self.inputs([row.ids for row in rows], ends=[row.prompt_end for row in rows])
        texts = TrainedTexts(rows, row_inputs, self.unrelated)
        losses = self._descend(change, rows, texts)

        # The edit's least activation, with which the memory compares later texts
        with torch.no_grad():
            activations = texts.activations(change)
        activation = activations.edited.min()

        # Only what this edit adds: the patch is added to those of earlier edits.
        adapter = SideMemory(
            size=self.shape,
            shards={number: (change.detach() - start).cpu()},
            owners=torch.tensor([float(number)]),
            activations=activation[None].cpu(),
            settings=memory.settings,
        )
        notes = {
            "shard": number,
            "activation": round(float(activation), 6),
            "unrelated_activation": round(float(activations.unrelated.max()), 6),
        }
        return adapter, [record_change(self, edit, change=adapter.shards[number], losses=losses) | notes]

    def _find_memory(self, earlier: Adapter | None) -> SideMemory:
        """Return the memory of the earlier edits, or an empty one; raise if it was made with other settings."""
        empty = SideMemory.empty(self.shape, MemorySettings.of(self.config))
        if not isinstance(earlier, SideMemory):
            return empty
        earlier.check_settings(empty)
        return earlier

    def _descend(self, change: Tensor, rows: Sequence[TrainingRow], texts: TrainedTexts) -> list[float]:
        """Train D in place, and return the losses.

        Args:
            change: D [d, d_ff], which gets a gradient.
            rows: the edit's prompt with its target in every context.
            texts: the same rows and unrelated texts, whose activations the margins compare.
        """
        config = self.config
        row_losses = RowLosses(self.model, self.layer, rows)  # is called with W + D in place, see below
        alpha = self.unit * config.alpha
        beta = self.unit * config.beta
        gamma = self.unit * config.gamma

        def loss() -> Tensor:
            negative_log_p = row_losses().mean()  # Eq. 4
            margins = margin_loss(texts.activations(change), alpha, beta, gamma)  # Eq. 5
            return negative_log_p + margins / self.unit

        def keep_within_bound() -> None:
            with torch.no_grad():
                change.clamp_(-config.bound, config.bound)

        with replace_output(self.model, self.layer, lambda x, output: output + x @ change.T):
            return config.descent.run([change], loss, constrain=keep_within_bound)

    @torch.no_grad()
    def inputs(self, rows: Sequence[Sequence[int]], *, ends: Sequence[int | None] | None = None) -> list[Tensor]:
        """Return the module's inputs at the tokens of each row, [tokens, d_ff] in float32.

        Args:
            rows: the token ids of each text.
            ends: where each text's prompt ends, for earlier patches that act from there on; None: unrelated texts,
                which have no prompt.
        """
        recorded: list[Tensor] = []
        batch = left_pad(rows, device=self.model.device, ends=ends)

        def see(inputs: Tensor, _: Tensor) -> None:
            recorded.append(inputs.reshape(*batch.ids.shape, -1).float())

        with watch(self.module, see):
            block_output(self.model, batch, self.layer)
        # Each row without the padding on its left
        return [states[-len(row) :] for states, row in zip(recorded[0], rows, strict=True)]

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, the layer, and the contexts."""
        provenance = super().provenance()
        provenance["methods"][0] |= {"contexts": list(self.contexts)}
        return provenance


def _make_trainable(start: Tensor, subspace: Tensor) -> Tensor:
    """Return a copy of D ``start`` [d, d_ff] with a gradient only where the mask ``subspace`` [d, d_ff] is true."""
    mask = subspace.to(start.device)
    change = start.clone().requires_grad_()
    change.register_hook(lambda gradient: gradient * mask)
    return change
