"""Estimate the memory and the time of a run, and whether it fits into this machine.

The estimate lists the parts of the memory and of the time, each with its formula. If a job does not fit, `suggestions`
says what to do, the easiest way first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from kg_edit.covariance.corpora import SelfCorpus, chunk_size
from kg_edit.locate_then_edit.objective import MOST_TOKENS
from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.models.prefix_store import MEGABYTES
from kg_edit.planning import cost, memory
from kg_edit.planning.cost import Prompts
from kg_edit.planning.machine import Machine, call_seconds, copy_rate, drawing_rate, matmul_rate
from kg_edit.planning.recipe import Recipe, recipe_of
from kg_edit.planning.shape import ModelShape
from kg_edit.scoring.greedy import BATCH_ROWS

_SHARE = 0.55  # speed of a whole pass relative to a matrix product: measured .50 for one edit, .54 for a batch
_DOUBLE = 0.25  # speed of float64 factorisations relative to float32: .15 at size 1,536, more for larger sizes
_PROMPTS = 4  # prompts to check for each edit

Phase = Literal["always", "measuring C", "comparing C", "factoring C", "editing", "checking"]
MemoryPlace = Literal["main memory", "accelerator"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the memory: its purpose, phase and place, and its formula."""

    what: str
    bytes: float
    phase: Phase
    place: MemoryPlace
    formula: str = ""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """A part of the time; ``kept``: it is paid once, and later runs reuse its result."""

    what: str
    seconds: float
    formula: str
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run to estimate: a recipe for ``edits`` edits, ``joint`` or in turn, of a model of this shape and dtype.

    ``limit``: bytes that a pass may use besides the model (--memory).
    """

    recipe: Recipe
    shape: ModelShape
    machine: Machine
    dtype: torch.dtype
    edits: int
    joint: bool
    limit: float

    @property
    def size(self) -> int:
        """Bytes of one number of the model."""
        return torch.empty(0, dtype=self.dtype).element_size()

    @property
    def place(self) -> MemoryPlace:
        """The memory that holds the weights: main memory if the device is the CPU."""
        return "main memory" if self.machine.is_cpu else "accelerator"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured speeds.

    In FLOP/s: one edit's rows (``alone``), many edits' rows together (``batch``), the model writing many texts
    (``writing``), the model reading and writing a few prompts (``looking``), float64 in main memory (``double``).
    ``drawing``: logits/s from which tokens are drawn; ``copying``: bytes/s; ``call``: seconds of a small operation.
    """

    alone: float
    batch: float
    writing: float
    looking: float
    double: float
    drawing: float
    copying: float
    call: float

    @classmethod
    def measured(cls, job: Job) -> Rates:
        """Measure the rates by short benchmarks, mainly matrix products of the model's shape."""
        size, device = (job.shape.width, job.shape.inner), job.machine.device
        rows = max(1, min(MOST_TOKENS, round(job.recipe.tokens)))
        batch = matmul_rate(MOST_TOKENS, size, dtype=job.dtype, device=device)
        host = batch
        if not job.machine.is_cpu or job.dtype != torch.float32:
            host = matmul_rate(MOST_TOKENS, size, dtype=torch.float32, device=torch.device("cpu"))
        return cls(
            alone=_SHARE * matmul_rate(rows, size, dtype=job.dtype, device=device),
            batch=_SHARE * batch,
            writing=matmul_rate(SelfCorpus.rows, size, dtype=job.dtype, device=device),
            looking=_SHARE * matmul_rate(_PROMPTS, size, dtype=job.dtype, device=device),
            double=_DOUBLE * host,
            drawing=drawing_rate(SelfCorpus.rows, job.shape.vocabulary),
            copying=copy_rate(),
            call=call_seconds(),
        )


def memory_parts(job: Job) -> Iterator[Part]:
    """Yield the parts of a job that take memory."""
    shape, recipe, size, place = job.shape, job.recipe, job.size, job.place
    yield Part(what="Python, torch, transformers", bytes=memory.RUNTIME, phase="always", place="main memory")
    weights, said = memory.weights_bytes(shape, size=size), f"{shape.parameters:,} parameters x {size}"
    yield Part(what="the model", bytes=weights, phase="always", place=place, formula=said)
    if recipe.covariance:
        yield from _covariance_parts(job)
    if recipe.tokens:
        yield _states(job)
    if recipe.prefix:
        yield _prefixes(job)
    if recipe.kept:
        held = memory.kept_bytes(shape, edits=job.edits, tokens=recipe.kept, size=size)
        said = f"{recipe.kept} tokens an edit, at most {MEGABYTES:.0f} MB"
        yield Part(what="beginnings of questions", bytes=held, phase="editing", place=place, formula=said)
    if recipe.trained:
        held, said = memory.optimiser_bytes(recipe.trained), f"{recipe.trained:,.0f} numbers x 16"
        yield Part(what="trained numbers, and Adam", bytes=held, phase="editing", place=place, formula=said)
    yield _patch(job)
    facts, layers = job.edits * recipe.facts, len(recipe.layers)
    held = memory.records_bytes(shape, edits=facts, joint=job.joint, layers=layers)
    said = f"{facts} facts" + (", their prompts and keys" if job.joint else "")
    yield Part(what="texts and records", bytes=held, phase="editing", place="main memory", formula=said)
    rows = memory.reading_bytes(shape, size=size)
    said = f"{BATCH_ROWS} rows of logits"
    yield Part(what="checks before and after", bytes=rows, phase="checking", place=place, formula=said)


def _covariance_parts(job: Job) -> Iterator[Part]:
    shape, layers = job.shape, len(job.recipe.layers)
    yield _measuring(job)
    compared = memory.comparing_bytes(shape, layers=layers) if _comparing(job) else 0.0
    said = f"d_ff² x (40 + 6 x {layers})"
    yield Part(what="comparing C", bytes=compared, phase="comparing C", place="main memory", formula=said)
    held, factored = memory.covariance_bytes(shape, layers=layers), memory.factoring_bytes(shape, joint=job.joint)
    said = f"d_ff² x 12 x {layers}"
    yield Part(what="C and its factors", bytes=held, phase="always", place="main memory", formula=said)
    said = f"d_ff² x {32 if job.joint else 8}"
    yield Part(what="factoring C", bytes=factored, phase="factoring C", place="main memory", formula=said)


def _measuring(job: Job) -> Part:
    if job.recipe.written:
        said = f"keys and values of {SelfCorpus.rows} x {SelfCorpus.length} tokens, logits, sums"
        needed = memory.measuring_bytes
    else:
        said = "a block's states of a pass, waiting keys, sums"
        needed = memory.reading_covariance_bytes
    held = needed(job.shape, layers=len(job.recipe.layers), size=job.size)
    return Part(what="measuring C", bytes=held, phase="measuring C", place=job.place, formula=said)


def _states(job: Job) -> Part:
    lowest = min(job.recipe.layers)
    tokens = job.recipe.tokens * (job.edits if job.joint else 1)
    return Part(
        what="states for the backward pass",
        bytes=memory.activations_bytes(job.shape, lowest, tokens=tokens, size=job.size, limit=job.limit),
        phase="editing",
        place=job.place,
        formula=f"(10 d + 5 d_ff) x {job.shape.layers - lowest} blocks + V, a token",
    )


def _prefixes(job: Job) -> Part:
    recipe = job.recipe
    facts = float(recipe.facts * (job.edits if job.joint else recipe.together))
    tails = float(recipe.rows * Prompts().tail)
    sizes = {"tokens": recipe.prefix, "tails": tails, "rows": float(recipe.rows), "limit": job.limit}
    held = memory.prompts_bytes(job.shape, facts=facts, size=job.size, **sizes)
    said = f"{recipe.prefix:.0f} tokens a fact, {facts:.0f} facts, within --memory"
    return Part(what="prompts: keys, values, states", bytes=held, phase="editing", place=job.place, formula=said)


def _patch(job: Job) -> Part:
    shape, recipe, rank = job.shape, job.recipe, job.edits * job.recipe.facts
    low = memory.patch_bytes(shape, edits=rank, layers=len(recipe.layers))
    full = memory.patch_bytes(shape, edits=min(shape.width, shape.inner), layers=len(recipe.layers))
    return Part(
        what="the patch",
        bytes=full if recipe.dense else min(low, full),
        phase="always",
        place="main memory",
        formula="whole matrices" if recipe.dense else f"rank {rank}, layers: {len(recipe.layers)}",
    )


def durations(job: Job, speed: Rates) -> Iterator[Duration]:
    """Yield the steps of a job that take time, with the FLOP and the rate behind each number of seconds."""
    shape, recipe = job.shape, job.recipe
    if recipe.contexts:
        said = f"{recipe.contexts:.2g} FLOP, a few rows at a time"
        yield Duration(what="writing contexts", seconds=recipe.contexts / speed.looking, formula=said)
    if recipe.covariance:
        yield _written_covariance(job, speed) if recipe.written else _read_covariance(job, speed)
        said = f"{recipe.once:.2g} FLOP in float64"
        yield Duration(what="factoring C", seconds=recipe.once / speed.double, formula=said)
    rate = speed.batch if job.joint and job.edits > 1 else speed.alone
    said = f"{recipe.each:.2g} FLOP and {recipe.calls:.2g} small calls each, at most"
    seconds = job.edits * (recipe.each / rate + recipe.calls * speed.call)
    yield Duration(what="the edits", seconds=seconds, formula=said)
    if recipe.solve:
        said = f"{recipe.solve:.2g} FLOP in float64"
        times = 1 if job.joint else job.edits
        yield Duration(what="writing them", seconds=times * recipe.solve / speed.double, formula=said)
    looking = job.edits * cost.written_flop(shape, prompts=_PROMPTS)
    yield Duration(what="checks before and after", seconds=looking / speed.looking, formula="4 prompts each")


def _written_covariance(job: Job, speed: Rates) -> Duration:
    """C from text that the model writes: products, the draw of each token, and states, keys and values moved."""
    shape, tokens, layers = job.shape, job.recipe.covariance, len(job.recipe.layers)
    flop = cost.covariance_flop(shape, tokens=tokens, layers=layers)
    seconds = flop / speed.writing + _comparing(job) / speed.double
    if job.machine.is_cpu:  # copying and drawing were measured here, not on an accelerator
        seconds += float(tokens) * shape.vocabulary / speed.drawing
        seconds += cost.moved_bytes(shape, tokens=tokens, size=job.size) / speed.copying
    said = f"{tokens:,} tokens of the model's own text, {flop:.2g} FLOP, the draws, states moved"
    return Duration(what="measuring C", seconds=seconds, formula=said, kept=True)


def _read_covariance(job: Job, speed: Rates) -> Duration:
    """C from text that is read, up to the highest layer."""
    recipe, shape = job.recipe, job.shape
    highest, layers = max(recipe.layers), len(recipe.layers)
    flop = cost.read_covariance_flop(shape, highest, tokens=recipe.covariance, layers=layers)
    seconds, said = (
        flop / speed.batch + _comparing(job) / speed.double,
        f"{recipe.covariance:,} tokens of text, {flop:.2g} FLOP",
    )
    return Duration(what="measuring C", seconds=seconds, formula=said, kept=True)


def _comparing(job: Job) -> float:
    """FLOP of comparing C with that of half the text."""
    tokens, layers = job.recipe.covariance, len(job.recipe.layers)
    piece = SelfCorpus.rows * SelfCorpus.length if job.recipe.written else chunk_size(tokens)
    return cost.comparing_flop(job.shape, tokens=tokens, layers=layers, piece=piece)


PLACES: tuple[MemoryPlace, ...] = ("main memory", "accelerator")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a job: bytes in each memory, and seconds for each step."""

    job: Job
    memory: tuple[Part, ...]
    time: tuple[Duration, ...]

    def needed(self, place: MemoryPlace) -> float:
        """Bytes at the worst moment: the parts that are always there, and the largest phase."""
        phases: dict[str, float] = {}
        for part in self.memory:
            if part.place == place:
                phases[part.phase] = phases.get(part.phase, 0.0) + part.bytes
        return phases.pop("always", 0.0) + max(phases.values(), default=0.0)

    def available(self, place: MemoryPlace) -> int | None:
        """Bytes that are free now; None if unknown."""
        return self.job.machine.host if place == "main memory" else self.job.machine.accelerator

    @property
    def lacking(self) -> tuple[MemoryPlace, ...]:
        """The memories that have fewer free bytes than the job needs."""
        free = {place: self.available(place) for place in PLACES}
        return tuple(place for place, has in free.items() if has is not None and self.needed(place) > has)

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, without results of an earlier run."""
        return sum(one.seconds for one in self.time)

    @property
    def kept_seconds(self) -> float:
        """Seconds that are paid only once for a model and layer."""
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
    """Estimate the cost of ``edits`` edits; ``limit``: MB that a pass may use besides the model (--memory).

    Raises:
        ConfigError: the model has no such layer.
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


def suggestions(found: Estimate) -> tuple[str, ...]:
    """Ways to make the job fit; () if it fits."""
    if not found.lacking:
        return ()
    ways = (_smaller_numbers(found), _less_at_once(found), _covariance(found), _elsewhere(found))
    return tuple(filter(None, ways))


def _bytes_of(found: Estimate, *parts: str) -> float:
    return sum(part.bytes for part in found.memory if part.what in parts)


def _smaller_numbers(found: Estimate) -> str:
    if found.job.size <= 2 or found.job.place not in found.lacking:
        return ""
    saved = found.job.shape.parameters * (found.job.size - 2) / 1e9
    return f"--dtype bfloat16 saves {saved:.1f} GB for the model; edits are still solved in float32"


def _less_at_once(found: Estimate) -> str:
    states = _bytes_of(found, "states for the backward pass")
    if states < 0.1 * max(found.needed(place) for place in found.lacking):
        return ""
    return f"`kg-edit evaluate --memory {states / 2e6:.0f}` makes passes smaller: the same results, a little slower"


def _covariance(found: Estimate) -> str:
    held = _bytes_of(found, "C and its factors", "factoring C")
    if "main memory" not in found.lacking or held < 0.2 * found.needed("main memory"):
        return ""
    return f"C takes {held / 1e9:.1f} GB: fewer layers need less, and ft-m, lora or grace need no C"


def _elsewhere(found: Estimate) -> str:
    short = max(found.needed(place) - (found.available(place) or 0) for place in found.lacking) / 1e9
    where = " and ".join(found.lacking)
    return f"{short:.1f} GB more {where}, or a smaller model; in Python, device_map='auto' uses several devices"
