"""Estimate the memory of a run from the model's shape and the method's settings, and whether it fits this machine.

Each part is a number of bytes with its formula. d is the width, d_ff the inner width of an MLP, V the vocabulary, L the
number of blocks, l the edited one. Measured on SmolLM2-135M and on random models of known shapes (`bench/growth.py`).
Time is not estimated: edit one fact and multiply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from kg_common.terminal import number_of
from kg_edit.covariance.corpora import SelfCorpus, chunk_size
from kg_edit.covariance.keys import batch_tokens
from kg_edit.covariance.moment import WAITING
from kg_edit.engine.passes import count_numbers, tokens_at_once
from kg_edit.engine.prefix_store import MEGABYTES
from kg_edit.errors import ConfigError
from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.methods.config import Workload
from kg_edit.methods.memit.method import JointMethod, single_layer
from kg_edit.models.architectures import refuse_experts, refuse_recurrent
from kg_edit.planning.machine import Machine
from kg_edit.planning.shape import ModelShape
from kg_edit.scoring.greedy import BATCH_ROWS

RUNTIME = 0.50e9  # Python with torch and transformers: 0.39 GB before any model, 0.11 more once one has run
CUDA = 0.5e9  # work memory of libraries, and of a captured step; measured on an H200: 0.3 to 0.9 GB (`bench/gpu.py`)
FLOAT32 = 4
FLOAT64 = 8
# bytes of an edit's texts and record; of its encoded prompts (measured)
_RECORD = 9e3
_ENCODED = 10e3
# tokens from the subject's end on, of a prompt, of a target: as in CounterFact
_TAIL = 4
_PROMPT = 8
_TARGET = 1

_LIMITED = ("rank-one", "joint", "codebook", "neurons", "gradient")  # families whose passes --memory limits

Phase = Literal["always", "measuring C", "comparing C", "factoring C", "editing", "checking"]
Memory = Literal["main memory", "accelerator"]
MEMORIES: tuple[Memory, ...] = ("main memory", "accelerator")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the memory: its purpose, its phase, which memory it takes, and its formula."""

    what: str
    bytes: float
    phase: Phase
    memory: Memory
    formula: str = ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run to estimate: ``edits`` edits by a method with its settings, on a model of this shape and dtype.

    ``limit`` is the number of bytes that a pass may use besides the model (--memory).
    """

    method: type[EditingMethod]
    config: MethodConfig
    shape: ModelShape
    machine: Machine
    dtype: torch.dtype
    edits: int
    limit: float

    @property
    def size(self) -> int:
        """Bytes of one number of the model."""
        return torch.empty(0, dtype=self.dtype).element_size()

    @property
    def memory(self) -> Memory:
        """The memory that holds the weights: main memory if the device is the CPU."""
        return "main memory" if self.machine.is_cpu else "accelerator"

    @property
    def load(self) -> Workload:
        """What the method's settings declare about one edit."""
        return self.config.workload(edits=self.edits)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are written, or to which the backward pass goes."""
        shape = self.shape
        if issubclass(self.method, JointMethod) and self.method.site == "block" and not shape.adds_mlp:
            return single_layer(self.config, shape.layers, name=shape.name, family=shape.family)
        return self.config.written_layers(shape.layers)

    @property
    def trained(self) -> float:
        """The number of values that an optimiser holds at once: of one edit, or of all if the method is joint."""
        shape = self.shape
        load = self.load
        facts = self.edits * self.load.facts
        match self.method.trains:
            case "value":  # [d] a fact
                return shape.width * (float(facts) if self.method.joint else 1.0)
            case "graph network":  # two matrices [d, d] for each hop; of a batch, as many as fit into the limit
                each = 2.0 * load.hops * shape.width**2
                together = max(1, min(facts, int(self.limit / (4.0 * FLOAT32 * each)))) if each else 1
                return each * (together if self.method.joint else 1)
            case "weight":  # [d, d_ff] in each layer
                return float(shape.width) * shape.inner * len(self.layers)
            case "all weights":
                return float(shape.block) * len(self.layers)
            case "adapters":  # a pair of factors for each changed matrix
                return 2.0 * len(self.layers) * load.matrices * load.rank * shape.width
            case "nothing":
                return 0.0


def memory_parts(job: Job) -> Iterator[Part]:
    """Yield the parts of a job that take memory."""
    shape = job.shape
    load = job.load
    size = job.size
    memory = job.memory
    layers = len(job.layers)
    joint = job.method.joint
    family = job.method.family
    yield Part(what="Python, torch, transformers", bytes=RUNTIME, phase="always", memory="main memory")
    yield Part(
        what="the model",
        bytes=float(size) * shape.parameters,
        phase="always",
        memory=memory,
        formula=f"{shape.parameters:,} parameters x {size}",
    )
    if memory == "accelerator":
        yield Part(what="libraries and graphs of steps", bytes=CUDA, phase="editing", memory=memory)
    if load.covariance:
        yield from _covariance_parts(job)

    # A forward and backward pass keeps (10 d + 5 d_ff) a token and block above l, and V for the head; most methods take
    # as many tokens at once as `tokens_at_once` allows.
    # The rows of a descent run from the changed token on (the subject's last, or of a codebook the prompt's last); in a
    # recurrent model they run whole (`WholeForward`).
    row_tokens = load.rows * (_TARGET if family == "codebook" else _TAIL)
    if shape.recurrent:
        row_tokens = load.rows * _PROMPT + load.context_tokens
    if family not in (None, "in-context"):
        lowest = min(job.layers)
        blocks = shape.layers - lowest
        kept = count_numbers(shape.width, shape.inner, blocks=blocks, vocabulary=shape.vocabulary)
        most = tokens_at_once(kept, size=size, limit=job.limit, cpu=job.machine.is_cpu)
        if family in ("rank-one", "joint"):
            tokens = min(most, float(row_tokens * (load.facts * job.edits if joint else 1)))
        elif family == "codebook":
            tokens = min(most, float(row_tokens * min(job.edits, load.together)))
        elif family == "neurons":
            tokens = min(most, float(load.rows * _TAIL))
        elif family == "gradient":
            tokens = min(most, float(_PROMPT * job.edits))
        else:  # the rows of a step are one pass, of any size
            tokens = float(load.rows * _PROMPT + load.context_tokens)
        yield Part(
            what="states for the backward pass",
            bytes=float(size * kept) * tokens,
            phase="editing",
            memory=memory,
            formula=f"{tokens:,.0f} tokens x ((10 d + 5 d_ff) x {blocks} blocks + V)",
        )

    # Of each fact that a descent takes at once: keys and values of its prompts in all blocks; the input of the edited
    # block, of the one above, and the last output, 3 d a token of its tails; d_ff a row; and one row of clean logits.
    # The contexts' keys and values are kept once for all facts; the rows of one fact alone have a copy.
    # A recurrent model keeps no keys and values: the input of the edited block and the last output, 2 d a token.
    if job.method.trains in ("value", "graph network"):
        fact_tokens = load.rows * _PROMPT
        contexts = load.context_tokens
        rows = load.rows + 1
        states = fact_tokens * shape.cache + 3.0 * rows * _TAIL * shape.width
        if shape.recurrent:
            fact_tokens = row_tokens
            contexts = 0
            states = 2.0 * shape.width * row_tokens
        facts = float(load.facts * job.edits if joint else load.facts * min(job.edits, load.together))
        shared = contexts * (1.0 if facts > 1 else 2.0)
        token = 2.0 * shape.width * shape.layers * size  # as `ValueMethod.portions` counts
        most = max(1.0, (job.limit - shared * token) / (token * max(fact_tokens, 1)))
        numbers = states + rows * shape.inner + shape.vocabulary
        yield Part(
            what="prompts: keys, values, states",
            bytes=(min(facts, most) * numbers + shared * shape.cache) * size,
            phase="editing",
            memory=memory,
            formula=f"{fact_tokens} tokens a fact, {number_of(int(facts), 'fact')} within --memory; "
            f"contexts: {shared:.0f} tokens",
        )
    if load.kept:
        yield Part(
            what="beginnings of questions",
            bytes=min(MEGABYTES * 2**20, float(job.edits) * load.kept * shape.cache * size),
            phase="editing",
            memory=memory,
            formula=f"{load.kept} tokens an edit, at most {MEGABYTES:.0f} MB",
        )
    if trained := job.trained:  # each number, its gradient and Adam's two means, in float32
        held = 4.0 * FLOAT32 * trained
        formula = f"{trained:,.0f} numbers x 16"
        yield Part(what="trained numbers, and Adam", bytes=held, phase="editing", memory=memory, formula=formula)

    # The patch has a pair of factors, d + d_ff numbers, and a key, d_ff, for each fact and layer; or whole matrices.
    if family in ("fine-tuning", "low-rank", "adapter"):
        rank = load.rank * (1 if joint else job.edits)
    else:
        rank = job.edits * (_PROMPT if family == "hypernetwork" else load.facts)  # MEND: rank one a token
    sides = shape.width + (shape.width if family == "low-rank" else shape.inner)  # LoRA changes the attention
    whole = job.method.trains in ("weight", "all weights") or load.dense
    full = min(shape.width, shape.inner)
    numbers = float(layers * load.matrices * sides * (full if whole else min(rank, full)))
    if job.method.trains == "all weights":
        numbers = float(layers * (shape.block + shape.identities))
    keys = layers * shape.inner * rank if load.keys else 0
    yield Part(
        what="the patch",
        bytes=FLOAT32 * (numbers + keys),
        phase="always",
        memory="main memory",
        formula=("whole matrices" if whole else f"rank {rank}, layers: {layers}") + ", and keys" * bool(keys),
    )

    # A batch also holds each fact's encoded prompts, and four matrices of keys in float64 in each layer.
    facts_in_all = job.edits * load.facts
    each_fact = _RECORD + (_ENCODED + layers * 4.0 * FLOAT64 * shape.inner if joint else 0.0)
    yield Part(
        what="texts and records",
        bytes=facts_in_all * each_fact,
        phase="editing",
        memory="main memory",
        formula=number_of(facts_in_all, "fact") + (", their prompts and keys" if joint else ""),
    )
    yield Part(
        what="checks of unedited and edited model",
        bytes=float(BATCH_ROWS * shape.vocabulary * (size + 2 * FLOAT32)),
        phase="checking",
        memory=memory,
        formula=f"{BATCH_ROWS} rows of logits, with float32 copies",
    )


def _covariance_parts(job: Job) -> Iterator[Part]:
    """Yield what C takes: to measure it, to compare it with that of half the text, to factor it, and to hold it."""
    config = job.load.covariance
    assert config is not None  # noqa: S101 - the caller has seen it
    shape = job.shape
    size = job.size
    layers = len(job.layers)
    square = float(job.shape.inner) ** 2
    tokens = config.tokens_for(shape.inner)
    sums = layers * square * FLOAT64 / 2  # half of each symmetric C, in float64
    if config.corpus == "self":
        piece = SelfCorpus.rows * SelfCorpus.length
        tokens = -(-tokens // piece) * piece  # the model writes whole pieces
        measuring = float(size) * shape.cache * piece + 4.0 * FLOAT32 * SelfCorpus.rows * shape.vocabulary + sums
        formula = f"keys and values of {SelfCorpus.rows} x {SelfCorpus.length} tokens, logits, sums"
    else:
        piece = chunk_size(tokens)
        states = size * batch_tokens(cpu=job.machine.is_cpu) * (4.0 * shape.width + 3.0 * shape.inner)
        measuring = states + layers * FLOAT32 * WAITING * shape.inner + sums
        formula = "a block's states of a pass, waiting keys, sums"
    yield Part(what="measuring C", bytes=measuring, phase="measuring C", memory=job.memory, formula=formula)

    # C, its factor and a copy, in float64; the sums of all layers and of their halves.
    compared = square * (3 * FLOAT64 + layers * (FLOAT64 + FLOAT32) / 2) if tokens > piece else 0.0
    formula = f"d_ff² x (24 + 6 x {layers})"
    free = job.machine.accelerator
    weights = float(size) * shape.parameters
    memory: Memory = "main memory" if free is not None and free < weights + compared else job.memory
    yield Part(what="comparing C", bytes=compared, phase="comparing C", memory=memory, formula=formula)
    held = layers * square * FLOAT32
    formula = f"d_ff² x 4 x {layers}"
    yield Part(what="C", bytes=held, phase="always", memory="main memory", formula=formula)
    # where it is solved with
    held = layers * square * FLOAT64
    formula = f"d_ff² x 8 x {layers}"
    yield Part(what="factors of C", bytes=held, phase="always", memory=job.memory, formula=formula)
    copies = 4 if job.method.joint else 1  # a batch: eigenvectors with their workspace, or C with the held keys
    factoring = copies * square * FLOAT64
    formula = f"d_ff² x {copies * FLOAT64}"
    yield Part(what="factoring C", bytes=factoring, phase="factoring C", memory=job.memory, formula=formula)


def _peak(parts: Iterable[Part]) -> float:
    phases: dict[str, float] = {"always": 0.0}
    for part in parts:
        phases[part.phase] = phases.get(part.phase, 0.0) + part.bytes
    return phases.pop("always") + max(phases.values(), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The memory of a job, part by part."""

    job: Job
    parts: tuple[Part, ...]
    notes: tuple[str, ...]

    def needed(self, memory: Memory) -> float:
        """Return the bytes at the worst moment: the parts that are always there, and the largest phase."""
        return _peak(part for part in self.parts if part.memory == memory)

    def added_by_covariance(self, memory: Memory) -> float:
        """Return the bytes of `needed` that a method without C would not need."""
        other_parts = (part for part in self.parts if part.memory == memory and not part.what.endswith("C"))
        return self.needed(memory) - _peak(other_parts)

    def available(self, memory: Memory) -> int | None:
        """Return the bytes that are free now; None if unknown."""
        return self.job.machine.host if memory == "main memory" else self.job.machine.accelerator

    @property
    def lacking(self) -> tuple[Memory, ...]:
        """The memories that have fewer free bytes than the job needs."""
        free = {memory: self.available(memory) for memory in MEMORIES}
        return tuple(memory for memory, has in free.items() if has is not None and self.needed(memory) > has)


def estimate(
    method: type[EditingMethod],
    config: MethodConfig,
    shape: ModelShape,
    machine: Machine,
    *,
    edits: int = 1,
    dtype: torch.dtype = torch.float32,
    limit: float | None = None,
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
    """
    if shape.experts and method.family not in (None, "in-context", "low-rank"):
        refuse_experts(shape.name)
    if shape.recurrent and not method.takes_recurrent:
        refuse_recurrent(shape.name)
    weights = shape.parameters * torch.empty(0, dtype=dtype).element_size()
    remaining = None if machine.accelerator is None else max(0.0, machine.accelerator - weights) / 2
    most = limit * 1e6 if limit else method.memory * 1e6 if remaining is None else remaining
    job = Job(method=method, config=config, shape=shape, machine=machine, dtype=dtype, edits=edits, limit=most)
    if beyond := [layer for layer in job.layers if not 0 <= layer < shape.layers]:
        raise ConfigError(f"there is no layer {beyond[0]}: {shape.name} has layers 0 to {shape.layers - 1}")
    notes = {
        "hypernetwork": "training the editor (kg-edit mend train) is not counted",
        "in-context": "each prompt gets longer by the text that is put in front of it",
        None: f"the method {method.name} declares no family, so only the model and a patch of rank one are counted",
    }
    remarks = [notes[method.family]] if method.family in notes else []
    if "linear_attention" in shape.recurrent and method.family not in (None, "in-context"):
        # measured on random Qwen3.5 of widths 256 and 1024: 2.2 to 4.8 times the numbers of `count_numbers`
        remarks.append(
            "linear attention keeps more for the backward pass than is counted: without the package "
            "flash-linear-attention two to five times as much"
        )
    facts = edits * job.load.facts
    if method.family in ("rank-one", "joint") and facts > shape.inner / 2:
        # The mean over the facts of k^T (lambda C + K K^T)^-1 k is at most rank(K K^T) / facts <= d_ff / facts.
        remarks.append(
            f"{facts:,} facts share the {shape.inner:,} inputs of a layer, so only a part of each change can be "
            f"written; of more than {shape.inner:,} facts, on average at most d_ff / facts. A method that keeps the "
            "facts beside the weights, such as rag, has no such limit"
        )
    return Estimate(job=job, parts=tuple(memory_parts(job)), notes=tuple(remarks))


def suggestions(estimated: Estimate) -> tuple[str, ...]:
    """Return ways to make the job fit, the easiest first; () if it fits."""
    if not estimated.lacking:
        return ()
    job = estimated.job
    bytes_of = {part.what: part.bytes for part in estimated.parts}
    ways = []
    if job.size > 2 and job.memory in estimated.lacking:
        saved = job.shape.parameters * (job.size - 2) / 1e9
        ways.append(f"--dtype bfloat16 saves {saved:.1f} GB for the model; edits are still solved in float32")
    states = bytes_of.get("states for the backward pass", 0.0)
    if states >= 0.1 * max(estimated.needed(memory) for memory in estimated.lacking):
        if job.method.family in _LIMITED:
            way = f"`kg-edit evaluate --memory {states / 2e6:.0f}`, or `method.memory` in Python,"
            ways.append(f"{way} makes passes smaller: the same results, a little slower")
        elif "batch_size" in type(job.config).model_fields:
            ways.append("a smaller batch_size makes steps smaller; the results differ")
    held = sum(map(estimated.added_by_covariance, estimated.lacking))
    if held >= 0.2 * max(estimated.needed(memory) for memory in estimated.lacking):
        ways.append(
            f"C adds {held / 1e9:.1f} GB to the peak: fewer layers need less, and ft-m, lora or grace need no C"
        )
    short = max(estimated.needed(memory) - (estimated.available(memory) or 0) for memory in estimated.lacking) / 1e9
    where = " and ".join(estimated.lacking)
    ways.append(f"{short:.1f} GB more {where}, or a smaller model; in Python, device_map='auto' uses several devices")
    return tuple(ways)
