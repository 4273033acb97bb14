"""What a training run keeps on disk to go on, to the bit, after it was killed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from kg_edit.methods.mend.network import MendNetwork
from kg_edit.methods.mend.store import Validation, damaged, load_into, read_said, read_tensors, write_network

CHECKPOINT = "checkpoint.safetensors"
_SLOTS = ("step", "exp_avg", "exp_avg_sq")


class Progress(BaseModel):
    """How far a run is. The order of edits follows from seed and step, so no random state is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = 0
    validations: tuple[Validation, ...] = ()

    @property
    def best(self) -> Validation:
        """The validation with the lowest loss, the first one of equals."""
        return min(self.validations, key=lambda found: found.total)

    def plus(self, found: Validation) -> Progress:
        """This, with one more validation."""
        return self.model_copy(update={"validations": (*self.validations, found)})


@dataclass(eq=False, kw_only=True)
class State:
    """A run between two steps: the network as it is and as it was at its best, Adam's moments, and how far it is."""

    network: MendNetwork
    optimizer: torch.optim.Adam
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)

    def keep_best(self) -> None:
        """Copy the network as it is now."""
        self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write all of it, atomically.

        Raises:
            OutputError: the file can't be written.
        """
        tensors = {f"now/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, parameter in self.network.named_parameters():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam/{slot}/{name}"] = value
        write_network(path, tensors, self.progress)

    def restore(self, path: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            ModelError: the file is damaged, or of another network.
        """
        tensors = read_tensors(path)
        try:
            self.progress = Progress.model_validate_json(read_said(path))
        except ValidationError as error:
            raise damaged(path, error) from error
        load_into(self.network, _under("now/", tensors), path)
        device = self.network.log_rates.device
        self.best = {name: tensor.to(device) for name, tensor in _under("best/", tensors).items()}
        for name, parameter in self.network.named_parameters():
            slots = {slot: tensors.get(f"adam/{slot}/{name}") for slot in _SLOTS}
            if None not in slots.values():
                self.optimizer.state[parameter] = _on(slots, device)


def _on(slots: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Adam's moments, where the network is; its step counter stays on the CPU, as Adam wants it."""
    return {slot: value if slot == "step" else value.to(device) for slot, value in slots.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
