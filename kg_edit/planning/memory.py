"""Estimate the memory of a run from the model's shape and the method's settings, and whether it fits this machine.

`estimate` makes an `Estimate` of a `Job`. Its parts (`memory_parts`) are numbers of bytes with their formulas, from
`edit_parts.py` and `covariance_parts.py`. `suggest_ways` names what would make a job fit.

Time is not estimated: edit one fact and multiply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from kg_edit.errors import ConfigError
from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.models.architectures import refuse_experts, refuse_recurrent
from kg_edit.planning.covariance_parts import covariance_parts
from kg_edit.planning.edit_parts import STATES, base_parts, edit_parts
from kg_edit.planning.job import MEMORIES, Job, Memory, Part, count_model_bytes
from kg_edit.planning.machine import Machine
from kg_edit.planning.shape import ModelShape

_LIMITED = ("rank-one", "joint", "codebook", "neurons", "gradient")  # families whose passes --memory limits


def memory_parts(job: Job) -> Iterator[Part]:
    """Yield the parts of a job that take memory."""
    yield from base_parts(job)
    if job.workload.covariance:
        yield from covariance_parts(job)
    yield from edit_parts(job)


def _peak(parts: Iterable[Part]) -> float:
    """Return the bytes at the worst moment: the parts that are always there, and the largest phase."""
    phases: dict[str, float] = {"always": 0.0}
    for part in parts:
        phases[part.phase] = phases.get(part.phase, 0.0) + part.bytes
    always = phases.pop("always")
    return always + max(phases.values(), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The memory of a job, part by part."""

    job: Job
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    def needed(self, where: Memory) -> float:
        """Return the bytes at the worst moment: the parts that are always there, and the largest phase."""
        return _peak(part for part in self.parts if part.where == where)

    def added_by_covariance(self, where: Memory) -> float:
        """Return the bytes of `needed` that a method without C would not need."""
        other_parts = (part for part in self.parts if part.where == where and not part.of_covariance)
        return self.needed(where) - _peak(other_parts)

    def available(self, where: Memory) -> int | None:
        """Return the bytes that are free now; None if unknown."""
        if where == "main memory":
            return self.job.machine.host
        return self.job.machine.accelerator

    @property
    def lacking(self) -> tuple[Memory, ...]:
        """The memories that have fewer free bytes than the job needs."""
        lacking = list[Memory]()
        for where in MEMORIES:
            free = self.available(where)
            if free is not None and self.needed(where) > free:
                lacking.append(where)
        return tuple(lacking)


def estimate(
    method: type[EditingMethod],
    config: MethodConfig,
    shape: ModelShape,
    machine: Machine,
    *,
    edits: int = 1,
    dtype: torch.dtype = torch.float32,
    limit: float | None = None,
    quantised: str = "",
) -> Estimate:
    """Estimate the memory of a run.

    Args:
        method: the method's class; what it declares selects the formulas.
        config: its settings.
        shape: the model's sizes.
        machine: the free memory.
        edits: the number of edits.
        dtype: the model's dtype.
        limit: MB that a pass may use besides the model (--memory); None: the method's own, or half of what the model
            leaves of the accelerator's free memory.
        quantised: how the linear layers are stored: nf4, int8, or "" for the dtype.
    """
    if shape.experts and method.family not in (None, "in-context", "low-rank"):
        refuse_experts(shape.name)
    if shape.recurrent and not method.takes_recurrent:
        refuse_recurrent(shape.name)
    if limit:
        limit_bytes = limit * 1e6
    elif machine.accelerator is None:
        limit_bytes = method.memory * 1e6  # the method's own limit, in MB
    else:
        model_bytes = count_model_bytes(shape, dtype, quantised=quantised)
        limit_bytes = max(0.0, machine.accelerator - model_bytes) / 2
    job = Job(
        method=method,
        config=config,
        shape=shape,
        machine=machine,
        dtype=dtype,
        edits=edits,
        limit_bytes=limit_bytes,
        quantised=quantised,
    )
    for layer in job.layers:
        if not 0 <= layer < shape.layers:
            raise ConfigError(f"there is no layer {layer}: {shape.name} has layers 0 to {shape.layers - 1}")
    return Estimate(job=job, parts=tuple(memory_parts(job)), notes=tuple(_notes(job)))


def _notes(job: Job) -> Iterator[str]:
    """Yield what a user should know that no part says."""
    family = job.method.family
    shape = job.shape
    if family == "hypernetwork":
        yield "training the editor (kg-edit mend train) is not counted"
    elif family == "in-context":
        yield "each prompt gets longer by the text that is put in front of it"
    elif family is None:
        name = job.method.name
        yield f"the method {name} declares no family, so only the model and a patch of rank one are counted"
    if "linear_attention" in shape.recurrent and family not in (None, "in-context"):
        # Measured on random Qwen3.5 of widths 256 and 1024: 2.2 to 4.8 times the numbers of `count_numbers`
        yield (
            "linear attention keeps more for the backward pass than is counted: without the package "
            "flash-linear-attention two to five times as much"
        )
    facts = job.edits * job.workload.facts
    if family in ("rank-one", "joint") and facts > shape.inner / 2:
        # k^T (lambda C + K K^T)^-1 k is the part of a fact's change that is written. Its mean over the facts is at most
        # rank(K K^T) / facts <= d_ff / facts.
        yield (
            f"{facts:,} facts share the {shape.inner:,} inputs of a layer, so only a part of each change can be "
            f"written; with more than {shape.inner:,} facts, that part is on average at most d_ff / facts. A method "
            "that keeps the facts beside the weights, such as rag, has no such limit"
        )


def suggest_ways(estimated: Estimate) -> tuple[str, ...]:
    """Return ways to make the job fit, the easiest first; () if it fits."""
    if not estimated.lacking:
        return ()
    ways = [_suggest_bfloat16(estimated), _suggest_smaller_passes(estimated), _suggest_less_of_c(estimated)]
    missing = []
    for where in estimated.lacking:
        free = estimated.available(where) or 0
        missing.append(f"{(estimated.needed(where) - free) / 1e9:.1f} GB more {where}")
    ways.append(f"{' and '.join(missing)}, or a smaller model; in Python, device_map='auto' uses several devices")
    return tuple(way for way in ways if way is not None)


def _suggest_bfloat16(estimated: Estimate) -> str | None:
    """Suggest half as many bytes for the model, if its memory lacks room and its numbers are wider."""
    job = estimated.job
    if job.number_bytes <= 2 or job.quantised or job.where not in estimated.lacking:  # 2: bytes of a bfloat16
        return None
    saved = job.shape.parameters * (job.number_bytes - 2) / 1e9
    return f"--dtype bfloat16 saves {saved:.1f} GB for the model; closed forms are still solved in float64"


def _suggest_smaller_passes(estimated: Estimate) -> str | None:
    """Suggest smaller passes. They help only in the memory of the model, and where they are a good part of it."""
    job = estimated.job
    states = sum(part.bytes for part in estimated.parts if part.what == STATES)
    if job.where not in estimated.lacking or states < 0.1 * estimated.needed(job.where):
        return None
    if job.method.family in _LIMITED:
        megabytes = states / 2 / 1e6  # half of what a pass keeps now
        way = f"`kg-edit evaluate --memory {megabytes:.0f}`, or `method.memory` in Python,"
        return f"{way} makes passes smaller: the same results, a little slower"
    if "batch_size" in type(job.config).model_fields:
        return "a smaller batch_size makes steps smaller; the results differ"
    return None


def _suggest_less_of_c(estimated: Estimate) -> str | None:
    """Suggest fewer layers or a method without C, where C is a fifth or more of what is needed."""
    shares = []
    for where in estimated.lacking:
        added = estimated.added_by_covariance(where)
        if added >= 0.2 * estimated.needed(where):
            shares.append(f"{added / 1e9:.1f} GB of {where}")
    if not shares:
        return None
    return f"C adds {' and '.join(shares)} at the peak: fewer layers need less, and ft-m, lora or grace need no C"
