"""A plan in numbers: what takes how much memory and time, and whether it fits into this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.planning.cost import recipe_of
from kg_edit.planning.machine import Machine
from kg_edit.planning.parts import Duration, Job, Part, Place, Rates, durations, memory_parts
from kg_edit.planning.shape import ModelShape

PLACES: tuple[Place, ...] = ("main memory", "accelerator")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job takes."""

    job: Job
    memory: tuple[Part, ...]
    time: tuple[Duration, ...]

    def needed(self, place: Place) -> float:
        """Bytes at the worst moment: what is there always, and the largest of the phases."""
        phases: dict[str, float] = {}
        for part in self.memory:
            if part.place == place:
                phases[part.phase] = phases.get(part.phase, 0.0) + part.bytes
        return phases.pop("always", 0.0) + max(phases.values(), default=0.0)

    def available(self, place: Place) -> int | None:
        """Bytes that are free now; None: not known."""
        return self.job.machine.host if place == "main memory" else self.job.machine.accelerator

    @property
    def lacking(self) -> tuple[Place, ...]:
        """Where it does not fit."""
        free = {place: self.available(place) for place in PLACES}
        return tuple(place for place, has in free.items() if has is not None and self.needed(place) > has)

    @property
    def seconds(self) -> float:
        """Of the whole run, if nothing is kept from an earlier one."""
        return sum(one.seconds for one in self.time)

    @property
    def kept_seconds(self) -> float:
        """What of it is paid once a model and layer."""
        return sum(one.seconds for one in self.time if one.kept)


def estimate(
    method: type[EditingMethod],
    config: MethodConfig,
    shape: ModelShape,
    machine: Machine,
    *,
    edits: int = 1,
    dtype: torch.dtype = torch.float32,
    limit: float = 1000.0,
    rates: Rates | None = None,
) -> Estimate:
    """Reckon what ``edits`` edits take; ``limit``: MB that a pass may take above the model (--memory).

    Raises:
        ConfigError: nothing is known of how much the method computes; or the model has no such layer.
    """
    job = Job(
        recipe=recipe_of(method, config, shape, edits=edits),
        shape=shape,
        machine=machine,
        dtype=dtype,
        edits=edits,
        joint=method.joint,
        limit=limit * 1e6,
    )
    speed = rates or Rates.measured(job)
    return Estimate(job=job, memory=tuple(memory_parts(job)), time=tuple(durations(job, speed)))
