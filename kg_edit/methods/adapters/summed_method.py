"""The base class of methods whose sides are trained further by each edit (`kg_edit.methods.adapters.summed`)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.methods.adapters.base import BesideConfig, BesideMethod
from kg_edit.methods.adapters.summed import SideSettings, SummedSide
from kg_edit.methods.fine_tuning.base import record
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow
from kg_edit.models.hooks import watched
from kg_edit.models.prompts import left_pad
from kg_edit.models.replay import block_output
from kg_edit.patches.adapter_hooks import Reads, answering, read_module
from kg_edit.patches.adapter_patch import Side


class SummedMethod(BesideMethod):
    """Trains the change of a side's parameters by Adam, starting from the parameters after the earlier edits."""

    side_class: ClassVar[type[SummedSide]]
    config: BesideConfig

    @abstractmethod
    def side_settings(self) -> SideSettings:
        """The settings of the side."""

    def learned(self) -> frozenset[str] | None:
        """The names of the trained parameters; None for all."""
        return None

    def penalty(self, side: SummedSide, own: Mapping[str, Tensor], here: Tensor) -> Tensor | None:
        """A term that is added to the loss; by default None, which adds nothing.

        ``own`` are the side's parameters, ``here`` [reads, in] its inputs where a token of a target is predicted.
        """
        return None

    def trained(self, edits: Sequence[Edit], own: Side | None) -> tuple[Side, list[dict[str, Any]]]:
        """Train the change of the parameters on the rows of all ``edits`` together."""
        side = self._start(own)
        held = side.parameters(next(self.module.parameters()).device)
        names = [name for name in held if self.learned() is None or name in (self.learned() or ())]
        change = {name: torch.zeros_like(held[name], requires_grad=True) for name in names}
        losses = self._descend(edits, side, held, change)
        found = {name: (change[name].detach() if name in change else torch.zeros_like(held[name])) for name in held}
        made = type(side)(
            size=side.size, settings=side.settings, changes={name: tensor.cpu() for name, tensor in found.items()}
        )
        size = torch.cat([tensor.flatten() for tensor in found.values()])
        batch = {"batch": len(edits)} if self.joint else {}
        return made, [record(self, edit, change=size, losses=losses) | batch for edit in edits]

    def _start(self, own: Side | None) -> SummedSide:
        """The side of the earlier edits, or else an empty one.

        Raises:
            PatchError: the earlier side has other settings.
        """
        settings = self.side_settings()
        if not isinstance(own, self.side_class):
            return self.side_class.empty(self.shape, settings)
        if own.settings != settings:
            raise PatchError(
                f"the earlier edits were made with other settings ({own.settings!r}) than these ({settings!r}); make "
                "later edits with the same settings"
            )
        return own

    def _descend(
        self, edits: Sequence[Edit], side: SummedSide, held: Mapping[str, Tensor], change: Mapping[str, Tensor]
    ) -> list[float]:
        def now() -> dict[str, Tensor]:
            return {name: tensor + change[name] if name in change else tensor for name, tensor in held.items()}

        rows = [self.row(edit) for edit in edits]
        here = inputs_at(self, rows, reads=side.reads)

        def penalty() -> Tensor:
            found = self.penalty(side, now(), here)
            return next(iter(change.values())).new_zeros(()) if found is None else found

        losses = RowLosses(self.model, self.layer, rows)
        with side.seen(self.model, self.layer) as seen:

            def answer(inputs: Tensor, output: Tensor, *, training: bool = True) -> Tensor:
                return side.answer(now(), seen(inputs), output, training=training)

            with answering(self.model, self.layer, answer, reads=side.reads):
                found = self.config.descent.run(list(change.values()), lambda: losses().mean(), penalty=penalty)
            with answering(self.model, self.layer, partial(answer, training=False), reads=side.reads), torch.no_grad():
                return [*found[:-1], float(losses().mean())]  # the last one is that of the patch


@torch.no_grad()
def inputs_at(method: BesideMethod, rows: Sequence[TrainingRow], *, reads: Reads) -> Tensor:
    """The inputs of a side where a token of a row's target is predicted, [reads, in] in float32, row after row."""
    found: list[Tensor] = []
    ends = [row.prompt_end for row in rows]
    batch = left_pad([row.ids for row in rows], device=method.model.device, ends=ends)
    width = batch.ids.shape[1]

    def see(inputs: Tensor, _: Tensor) -> None:
        found.append(inputs.reshape(len(rows), width, -1).float())

    with watched(read_module(method.model, method.layer, reads), see):
        block_output(method.model, batch, method.layer)
    wanted = [(place + 1) * width - len(row.ids) + at for place, row in enumerate(rows) for at, _ in row.wanted]
    return found[0].flatten(0, 1)[torch.tensor(wanted, device=found[0].device)]
