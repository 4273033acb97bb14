"""Adapters whose parameters are trained further by each edit: initial parameters plus the sum of changes.

    parameter = initial(settings, seed) + change of the first edit + change of the second + ...

The initial parameters follow from the settings. So a patch of later edits holds only their changes, and patches are
added like patches of weights. `SummedAdapter` is the adapter, `SummedMethod` its training by Adam.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from kg_edit.callbacks import report_losses
from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.methods.fine_tuning.base import record_change
from kg_edit.methods.fine_tuning.descent import check_loss, take_step
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_hooks import Reads, replace_output
from kg_edit.patches.adapter_patch import Adapter
from kg_edit.zoo.adapters.base import AdapterConfig, AdapterMethod, inputs_at


class AdapterSettings(BaseModel):
    """The part of a method's settings that the adapter needs: for its initial parameters and its output.

    The method's config inherits from it. Only adapters with equal settings can be added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, config: BaseModel) -> Self:
        """Return these settings of a method's ``config``."""
        return cls.model_validate({name: getattr(config, name) for name in cls.model_fields})


@dataclass(frozen=True, eq=False, kw_only=True)
class SummedAdapter(Adapter):
    """An adapter with ``changes`` for each parameter, of a weight of the shape ``size`` (out, in)."""

    settings_class: ClassVar[type[AdapterSettings]]
    reads: ClassVar[Reads] = "key"  # the inputs of `forward`: x of the down-projection, or h of the MLP ("mlp")

    size: tuple[int, int]
    settings: AdapterSettings
    changes: Mapping[str, Tensor]

    @abstractmethod
    def initial(self) -> dict[str, Tensor]:
        """Return the parameters before the first edit, float32 on the CPU."""

    @abstractmethod
    def forward(
        self, parameters: Mapping[str, Tensor], inputs: Tensor, output: Tensor, *, training: bool = False
    ) -> Tensor:
        """Return the new output of the module, [tokens, out].

        Args:
            parameters: those of the adapter, by name.
            inputs: what the adapter ``reads`` at each token, after `preparing_inputs`, [tokens, in].
            output: the module's own output, [tokens, out].
            training: whether to use the differentiable form, if the adapter has another one for training.
        """

    @contextmanager
    def preparing_inputs(self, model: LanguageModel, layer: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield the function that makes the inputs of `forward` of what the adapter ``reads``; here the identity.

        An adapter that also uses something else of a call, such as the text's tokens, records it inside the ``with``
        block.
        """
        yield lambda inputs: inputs

    @classmethod
    def empty(cls, size: tuple[int, int], settings: AdapterSettings) -> Self:
        """Return the adapter before the first edit, with changes of 0."""
        bare = cls(size=size, settings=settings, changes={})
        return replace(bare, changes={name: torch.zeros_like(tensor) for name, tensor in bare.initial().items()})

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the adapted weight."""
        return self.size

    def parameters(self, device: torch.device) -> dict[str, Tensor]:
        """Return the parameters after all edits, on ``device``."""
        return {name: (tensor + self.changes[name].float()).to(device) for name, tensor in self.initial().items()}

    def tensors(self) -> Mapping[str, Tensor]:
        """Return the changes by parameter."""
        return self.changes

    def metadata(self) -> dict[str, Any]:
        """Return the shape and the settings, as JSON."""
        return {"shape": list(self.size), "settings": self.settings.model_dump(mode="json")}

    @classmethod
    def read(cls, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Build the adapter from the results of `metadata` and `tensors`."""
        rows, columns = metadata["shape"]
        settings = cls.settings_class.model_validate(metadata["settings"])
        adapter = cls(size=(int(rows), int(columns)), settings=settings, changes=dict(tensors))
        expected = {name: tuple(tensor.shape) for name, tensor in adapter.initial().items()}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if expected != found:
            raise ValueError(f"its settings ask for tensors {expected}, and it has {found}")
        return adapter

    def plus(self, later: Self) -> Self:
        """Return the sum of the changes of both adapters."""
        if self.settings != later.settings:
            raise PatchError(
                f"can't add adapters with different settings ({self.settings!r} and {later.settings!r}); make both "
                "with the same settings"
            )
        if self.size != later.size:
            raise PatchError(
                f"can't add adapters of weights with the shapes {self.size} and {later.size}; make both for one model"
            )
        changes = {name: change + later.changes[name].to(change.device) for name, change in self.changes.items()}
        return replace(self, changes=changes)

    @contextmanager
    def attached(self, model: LanguageModel, layer: int, device: torch.device) -> Iterator[None]:
        """Within the ``with`` block, `forward` replaces the module's output."""
        parameters = self.parameters(device)
        with self.preparing_inputs(model, layer) as prepare:

            def forward(inputs: Tensor, output: Tensor) -> Tensor:
                return self.forward(parameters, prepare(inputs), output)

            with replace_output(model, layer, forward, reads=self.reads):
                yield


class SummedMethod(AdapterMethod):
    """Trains the change of an adapter's parameters by Adam, from the parameters after the earlier edits on."""

    adapter_class: ClassVar[type[SummedAdapter]]
    config: AdapterConfig

    def learned(self) -> frozenset[str] | None:
        """Return the names of the trained parameters; None for all."""
        return None

    def penalty(self, adapter: SummedAdapter, parameters: Mapping[str, Tensor], target_inputs: Tensor) -> Tensor:
        """Return a term that is added to the loss; 0 here.

        Args:
            adapter: the adapter of the earlier edits.
            parameters: its parameters now.
            target_inputs: what it reads at the tokens that predict a token of a target, [tokens, in].
        """
        return target_inputs.new_zeros(())

    def train(self, edits: Sequence[Edit], earlier: Adapter | None) -> tuple[Adapter, list[dict[str, Any]]]:
        """Train the change of the parameters on the rows of all ``edits`` together."""
        adapter = self._find_adapter(earlier)
        start = adapter.parameters(self.device)
        learned = self.learned()
        trained = dict[str, Tensor]()  # the change of each trained parameter
        for name, tensor in start.items():
            if learned is None or name in learned:
                trained[name] = torch.zeros_like(tensor, requires_grad=True)
        rows = [self.encode_edit(edit) for edit in edits]
        losses = self._descend(adapter, start, trained, rows)  # trains the changes in place; [edits, evaluations]

        changes = {name: torch.zeros_like(tensor).cpu() for name, tensor in start.items()}
        for name, change in trained.items():
            changes[name] = change.detach().cpu()
        all_changes = torch.cat([change.flatten() for change in changes.values()])
        records = list[dict[str, Any]]()
        for edit, edit_losses in zip(edits, losses.tolist(), strict=True):
            records.append(record_change(self, edit, change=all_changes, losses=edit_losses))
        # Only the changes of these edits: the patch is added to the earlier ones, which have those of earlier edits.
        return replace(adapter, changes=changes), records

    def _find_adapter(self, earlier: Adapter | None) -> SummedAdapter:
        """Return the adapter of the earlier edits, or an empty one; raise if it was made with other settings."""
        settings = self.adapter_class.settings_class.of(self.config)
        if not isinstance(earlier, SummedAdapter):
            return self.adapter_class.empty(self.shape, settings)
        if earlier.settings != settings:
            raise PatchError(
                f"the earlier edits were made with other settings ({earlier.settings!r}) than these ({settings!r}); "
                "make later edits with the same settings"
            )
        return earlier

    def _descend(
        self,
        adapter: SummedAdapter,
        start: Mapping[str, Tensor],
        trained: Mapping[str, Tensor],
        rows: Sequence[TrainingRow],
    ) -> Tensor:
        """Train the changes of parameters in place by Adam.

        Args:
            adapter: the adapter of the earlier edits.
            start: its parameters.
            trained: the change of each trained parameter, which gets a gradient.
            rows: the prompts with their targets.

        Returns:
            The loss of each row at each evaluation, [rows, evaluations].
        """
        descent = self.config.descent
        target_inputs = inputs_at(self, rows, reads=adapter.reads)  # [tokens, in]
        row_losses = RowLosses(self.model, self.layer, rows)
        optimizer = descent.optimizer(list(trained.values()))
        losses = list[Tensor]()  # of each evaluation, [rows]
        with adapter.preparing_inputs(self.model, self.layer) as prepare:

            def forward_in_training(inputs: Tensor, output: Tensor) -> Tensor:
                return adapter.forward(_add_changes(start, trained), prepare(inputs), output, training=True)

            with replace_output(self.model, self.layer, forward_in_training, reads=adapter.reads):
                for step in range(descent.steps):
                    values = row_losses()  # [rows]
                    loss = values.mean()
                    loss_value = check_loss(loss, step)
                    losses.append(values.detach())
                    report_losses(step, {0: loss_value})
                    if loss_value < descent.stop_below or step == descent.steps - 1:
                        break  # no step follows the last evaluation
                    penalty = self.penalty(adapter, _add_changes(start, trained), target_inputs)
                    take_step(optimizer, loss + penalty, clip=descent.clip)
            # An adapter may have another form in a patch than in training (Defer's gate is then open or closed, not a
            # mixture). The last loss is that of the patch, so it is measured again.
            losses[-1] = self._measure_losses(adapter, _add_changes(start, trained), row_losses, prepare)
        return torch.stack(losses, 1)

    @torch.no_grad()
    def _measure_losses(
        self,
        adapter: SummedAdapter,
        parameters: Mapping[str, Tensor],
        row_losses: RowLosses,
        prepare: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the loss of each row with these parameters, in the form that the adapter has in a patch, [rows]."""

        def forward(inputs: Tensor, output: Tensor) -> Tensor:
            return adapter.forward(parameters, prepare(inputs), output)

        with replace_output(self.model, self.layer, forward, reads=adapter.reads):
            return row_losses()


def _add_changes(start: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters ``start``, those that are trained with their changes."""
    parameters = dict(start)
    for name, change in trained.items():
        parameters[name] = start[name] + change
    return parameters


def linear_init(rows: int, columns: int, draw: torch.Generator) -> Tensor:
    """Return the usual random weight [rows, columns] of a linear layer: uniform within 1 / sqrt(columns)."""
    bound = columns**-0.5
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=draw)
