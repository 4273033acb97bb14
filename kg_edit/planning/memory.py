"""Estimate the memory of a run from the model's shape and the method's settings, and whether it fits this machine.

`estimate` makes an `Estimate` of a `Job`, whose parts (`memory_parts`) are numbers of bytes with their formulas. d is
the width, d_ff the inner width of an MLP, V the vocabulary, l the edited block. The constants were measured on
SmolLM2-135M and on random models of known shapes (`bench/growth.py`).

Time is not estimated: edit one fact and multiply.
"""

from __future__ import annotations

import math
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
from kg_edit.methods.memit.joint_config import choose_one_layer
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.models.architectures import refuse_experts, refuse_recurrent
from kg_edit.planning.machine import Machine
from kg_edit.planning.shape import ModelShape
from kg_edit.scoring.greedy import BATCH_ROWS

RUNTIME = 0.50e9  # Python with torch and transformers: 0.39 GB before any model, 0.11 more once one has run
CUDA = 0.5e9  # work memory of libraries, and of a captured step; measured on an H200: 0.3 to 0.9 GB (`bench/gpu.py`)
FLOAT32 = 4
FLOAT64 = 8
_TRAINED = 4 * FLOAT32  # bytes of a trained number: itself, its gradient and Adam's two means, in float32
_BLOCK = 64  # weights of nf4 that share a scale, as bitsandbytes stores them
_RECORD = 9e3  # bytes of an edit's texts and record, measured
_ENCODED = 10e3  # bytes of its encoded prompts, measured
# Tokens, as in CounterFact
_TAIL = 4  # of a prompt, from the subject's end on
_PROMPT = 8
_TARGET = 1

_STATES = "states for the backward pass"  # the part that `suggestions` makes smaller
_LIMITED = ("rank-one", "joint", "codebook", "neurons", "gradient")  # families whose passes --memory limits

Phase = Literal["always", "measuring C", "comparing C", "factoring C", "editing", "checking"]
Memory = Literal["main memory", "accelerator"]
MEMORIES: tuple[Memory, ...] = ("main memory", "accelerator")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the memory that a job takes.

    Attributes:
        what: its purpose, as the table of `kg-edit plan` names it.
        bytes: its size.
        phase: when it is in memory.
        where: which memory it takes.
        formula: how ``bytes`` is calculated, as text.
        of_covariance: whether only methods that use the covariance C need it (`_covariance_parts`).
    """

    what: str
    bytes: float
    phase: Phase
    where: Memory
    formula: str = ""
    of_covariance: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run to estimate: ``edits`` edits by a method with its settings, on a model of this shape and dtype.

    ``limit_bytes`` is the number of bytes that a pass may use besides the model (--memory). ``quantised`` is how the
    linear layers are stored: nf4, int8, or "" for the dtype.
    """

    method: type[EditingMethod]
    config: MethodConfig
    shape: ModelShape
    machine: Machine
    dtype: torch.dtype
    edits: int
    limit_bytes: float
    quantised: str = ""

    @property
    def weights(self) -> float:
        """Bytes of the model."""
        return weight_bytes(self.shape, self.dtype, quantised=self.quantised)

    @property
    def number_bytes(self) -> int:
        """Bytes of one number of the model."""
        return torch.empty(0, dtype=self.dtype).element_size()

    @property
    def where(self) -> Memory:
        """The memory that holds the weights: main memory if the device is the CPU."""
        if self.machine.is_cpu:
            return "main memory"
        return "accelerator"

    @property
    def workload(self) -> Workload:
        """What the method's settings declare about one edit."""
        return self.config.workload(edits=self.edits)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are written, or to which the backward pass goes."""
        shape = self.shape
        # Behind a norm, the changes of several layers' MLPs don't add up to the change of the block's output.
        if issubclass(self.method, JointMethod) and self.method.site == "block" and not shape.adds_mlp:
            return choose_one_layer(self.config, shape.layers, name=shape.name, family=shape.family)
        return self.config.written_layers(shape.layers)

    @property
    def trained(self) -> float:
        """The number of values that an optimiser holds at once: of one edit, or of all if the method is joint."""
        shape = self.shape
        workload = self.workload
        facts = 1
        if self.method.joint:
            facts = self.edits * workload.facts
        match self.method.trains:
            case "value":  # [d] a fact
                return float(shape.width * facts)
            case "graph network":  # two matrices [d, d] for each hop
                network = 2.0 * workload.hops * shape.width**2
                if not network:
                    return 0.0
                fitting = int(self.limit_bytes / (_TRAINED * network))  # networks of a batch that fit into the limit
                return network * max(1, min(facts, fitting))
            case "weight":  # [d, d_ff] in each layer
                return float(shape.width) * shape.inner * len(self.layers)
            case "all weights":
                return float(shape.block) * len(self.layers)
            case "adapters":  # a pair of factors for each changed matrix
                return 2.0 * len(self.layers) * workload.matrices * workload.rank * shape.width
            case "nothing":
                return 0.0


def weight_bytes(shape: ModelShape, dtype: torch.dtype, *, quantised: str = "") -> float:
    """Return the bytes of a model, whose linear layers may be quantised.

        nf4:  1/2 + 4/64 a packed weight: two weights a byte, and a float32 scale for each 64
        int8: 1 a packed weight, and a float32 scale for each row

    Embeddings, norms, biases and the head stay in ``dtype``.
    """
    number_bytes = torch.empty(0, dtype=dtype).element_size()
    packed = {
        "": float(number_bytes * shape.packed),
        "nf4": shape.packed * (0.5 + FLOAT32 / _BLOCK),
        "int8": float(shape.packed + FLOAT32 * shape.packed_rows),
    }
    return packed[quantised] + float(number_bytes) * (shape.parameters - shape.packed)


def memory_parts(job: Job) -> Iterator[Part]:
    """Yield the parts of a job that take memory."""
    yield from _base_parts(job)
    if job.workload.covariance:
        yield from _covariance_parts(job)
    if job.method.family not in (None, "in-context"):
        yield _backward_part(job)
    if job.method.trains in ("value", "graph network"):
        yield _prompts_part(job)
    if job.workload.kept:
        yield _beginnings_part(job)
    if job.trained:
        yield _trained_part(job)
    yield _patch_part(job)
    yield _texts_part(job)
    yield _checks_part(job)


def _base_parts(job: Job) -> Iterator[Part]:
    """Yield the program and the model."""
    shape = job.shape
    yield Part(what="Python, torch, transformers", bytes=RUNTIME, phase="always", where="main memory")
    formula = f"{shape.parameters:,} parameters x {job.number_bytes}"
    if job.quantised:
        formula = f"{shape.packed:,} in {job.quantised}, {shape.parameters - shape.packed:,} x {job.number_bytes}"
    yield Part(what="the model", bytes=job.weights, phase="always", where=job.where, formula=formula)
    if job.quantised:
        yield Part(
            what="a weight, dequantised",
            bytes=float(job.number_bytes) * shape.width * shape.inner,
            phase="editing",
            where=job.where,
            formula=f"d x d_ff x {job.number_bytes}, as a pass computes with it",
        )
    if job.where == "accelerator":
        yield Part(what="libraries and graphs of steps", bytes=CUDA, phase="editing", where=job.where)


def _backward_part(job: Job) -> Part:
    """Return what a forward and backward pass keeps.

    For each token that is 10 d + 5 d_ff numbers in each block from l on, and V numbers for the head.
    """
    shape = job.shape
    blocks = shape.layers - min(job.layers)
    numbers = count_numbers(shape.width, shape.inner, blocks=blocks, vocabulary=shape.vocabulary)
    tokens = _count_pass_tokens(job, numbers)
    return Part(
        what=_STATES,
        bytes=float(job.number_bytes * numbers) * tokens,
        phase="editing",
        where=job.where,
        formula=f"{tokens:,.0f} tokens x ((10 d + 5 d_ff) x {blocks} blocks + V) x {job.number_bytes}",
    )


def _count_pass_tokens(job: Job, numbers: int) -> float:
    """Return how many tokens a pass has, of which each keeps ``numbers``.

    Most methods take as many tokens at once as `tokens_at_once` allows.
    """
    workload = job.workload
    most = tokens_at_once(numbers, size=job.number_bytes, limit=job.limit_bytes, cpu=job.machine.is_cpu)
    match job.method.family:
        case "rank-one" | "joint":
            tokens = _count_row_tokens(job)
            if job.method.joint:
                tokens *= workload.facts * job.edits
        case "codebook":
            tokens = _count_row_tokens(job) * min(job.edits, workload.together)
        case "neurons":
            tokens = workload.rows * _TAIL
        case "gradient":
            tokens = _PROMPT * job.edits
        case _:  # the rows of a step are one pass, of any size
            return float(workload.rows * _PROMPT + workload.context_tokens)
    return min(most, float(tokens))


def _count_row_tokens(job: Job) -> int:
    """Return the tokens of all rows of a fact, from the changed token on.

    That is the subject's last token, or for a codebook the prompt's last one. In a recurrent model, rows run whole
    (`WholeForward`).
    """
    workload = job.workload
    if job.shape.recurrent:
        return workload.rows * _PROMPT + workload.context_tokens
    if job.method.family == "codebook":
        return workload.rows * _TARGET
    return workload.rows * _TAIL


def _beginnings_part(job: Job) -> Part:
    """Return the keys and values of the beginnings of questions, which the engine keeps."""
    kept = job.workload.kept
    return Part(
        what="beginnings of questions",
        bytes=min(MEGABYTES * 2**20, float(job.edits) * kept * job.shape.cache * job.number_bytes),
        phase="editing",
        where=job.where,
        formula=f"{kept} tokens an edit, at most {MEGABYTES:.0f} MB",
    )


def _trained_part(job: Job) -> Part:
    """Return what an optimiser holds."""
    return Part(
        what="trained numbers, and Adam",
        bytes=_TRAINED * job.trained,
        phase="editing",
        where=job.where,
        formula=f"{job.trained:,.0f} numbers x {_TRAINED}",
    )


def _checks_part(job: Job) -> Part:
    """Return the logits of a batch of rows of the checks before and after."""
    return Part(
        what="checks of unedited and edited model",
        bytes=float(BATCH_ROWS * job.shape.vocabulary * (job.number_bytes + 2 * FLOAT32)),
        phase="checking",
        where=job.where,
        formula=f"{BATCH_ROWS} rows of logits, with float32 copies",
    )


def _prompts_part(job: Job) -> Part:
    """Return what a descent keeps of the facts that it takes at once, and of the contexts, which all facts share.

        bytes = (facts at once x numbers of a fact + tokens of the contexts x c) x bytes of a number

    c is the number of a token's keys and values in all blocks.
    """
    kept_context_tokens = _count_context_tokens(job)
    if _count_facts(job) == 1:
        # The contexts are kept twice. Where fewer than two rows begin with a context, each row has a copy of the
        # context's keys and values before its own, besides the shared ones (`SharedContexts.prefix`). In the descent of
        # a single fact, each context is in one row.
        kept_context_tokens *= 2
    at_once = _count_facts_at_once(job)
    numbers = at_once * _count_fact_numbers(job) + kept_context_tokens * job.shape.cache
    return Part(
        what="prompts: keys, values, states",
        bytes=float(numbers * job.number_bytes),
        phase="editing",
        where=job.where,
        formula=f"{_count_fact_tokens(job)} tokens a fact, {number_of(at_once, 'fact')} at once within --memory; "
        f"contexts: {kept_context_tokens} tokens",
    )


def _count_facts(job: Job) -> int:
    """Return how many facts one descent would take if the memory had no limit."""
    workload = job.workload
    if job.method.joint:
        return workload.facts * job.edits
    return workload.facts * min(job.edits, workload.together)


def _count_facts_at_once(job: Job) -> int:
    """Return how many facts a descent takes at once: as many as fit into the limit beside the contexts, at least one.

    This is an estimate of the portions that `ValueMethod.portions` makes. As there, a token takes a key and a value [d]
    in each block, 2 x d x layers numbers, also where heads share keys and a token really takes only c numbers.
    `portions` adds what an optimiser holds of each fact, which is left out here; `Job.trained` counts it.
    """
    shape = job.shape
    token_bytes = 2 * shape.width * shape.layers * job.number_bytes
    room = job.limit_bytes - _count_context_tokens(job) * token_bytes
    fact_bytes = max(_count_fact_tokens(job), 1) * token_bytes
    fitting = max(1, int(room / fact_bytes))
    return min(_count_facts(job), fitting)


def _count_context_tokens(job: Job) -> int:
    """Return the tokens of the contexts that are kept once for all facts; in a recurrent model there are none."""
    if job.shape.recurrent:
        return 0
    return job.workload.context_tokens


def _count_fact_tokens(job: Job) -> int:
    """Return T, the tokens of a fact's rows that a descent keeps."""
    if job.shape.recurrent:
        return _count_row_tokens(job)
    return job.workload.rows * _PROMPT


def _count_fact_numbers(job: Job) -> float:
    """Return how many numbers a descent keeps of a fact.

        T c + 3 d R t + R d_ff + V        in a recurrent model: 2 d T + R d_ff + V

    T are the tokens of the fact's rows and c the keys and values of a token. R are the rows, the bare prompt among them
    once more, and t the tokens of a tail: of these the input of the edited block, that of the block above and the last
    output are kept, 3 d. A row has a key, d_ff, and one row has its clean logits, V. A recurrent model keeps no keys
    and values, but the input of the edited block and the last output of each token, 2 d.
    """
    shape = job.shape
    tokens = _count_fact_tokens(job)
    rows = job.workload.rows + 1
    if shape.recurrent:
        states = 2.0 * shape.width * tokens
    else:
        states = tokens * shape.cache + 3.0 * rows * _TAIL * shape.width
    return states + rows * shape.inner + shape.vocabulary


def _patch_part(job: Job) -> Part:
    """Return the patch, in float32: for each changed matrix two factors with this rank, or the whole change.

        numbers = layers x matrices x (sum of the two sides of a matrix) x min(rank, full rank)

    The full rank is the smaller side, and a whole change has it: its factors are the change, d x d_ff, and an identity
    matrix, (full rank)², together (d + d_ff) x full rank (`Factors.dense`). So a patch of all weights has the whole
    blocks, and an identity matrix for each of their weights. With keys, a key [d_ff] of each fact in each layer comes
    on top.
    """
    shape = job.shape
    workload = job.workload
    layers = len(job.layers)
    rank = _count_rank(job)
    sides = shape.width + shape.inner
    if job.method.family == "low-rank":  # LoRA changes the attention, whose matrices are [d, d]
        sides = 2 * shape.width
    full_rank = min(shape.width, shape.inner)

    if job.method.trains == "all weights":
        formula = "whole matrices"
        numbers = float(layers * (shape.block + shape.identities))
    elif job.method.trains == "weight" or workload.dense:
        formula = "whole matrices"
        numbers = float(layers * workload.matrices * sides * full_rank)
    else:
        formula = f"rank {rank}, layers: {layers}"
        numbers = float(layers * workload.matrices * sides * min(rank, full_rank))
    if workload.keys:
        formula += ", and keys"
        numbers += layers * shape.inner * rank
    return Part(what="the patch", bytes=FLOAT32 * numbers, phase="always", where="main memory", formula=formula)


def _count_rank(job: Job) -> int:
    """Return the rank of the change of one weight by all edits."""
    workload = job.workload
    match job.method.family:
        case "fine-tuning" | "low-rank" | "adapter":
            if job.method.joint:
                return workload.rank
            return workload.rank * job.edits
        case "hypernetwork":  # MEND: rank one a token
            return job.edits * _PROMPT
        case _:  # rank one a fact
            return job.edits * workload.facts


def _texts_part(job: Job) -> Part:
    """Return the texts and records of the facts; a batch also has their prompts, and four matrices of keys a layer."""
    facts = job.edits * job.workload.facts
    formula = number_of(facts, "fact")
    fact_bytes = _RECORD
    if job.method.joint:
        formula += ", their prompts and keys"
        fact_bytes += _ENCODED + len(job.layers) * 4.0 * FLOAT64 * job.shape.inner
    return Part(
        what="texts and records", bytes=facts * fact_bytes, phase="editing", where="main memory", formula=formula
    )


def _covariance_parts(job: Job) -> Iterator[Part]:
    """Yield what C takes: to measure it, to compare it with that of half the text, to factor it, and to hold it."""
    layers = len(job.layers)
    square = float(job.shape.inner) ** 2  # numbers of C, [d_ff, d_ff]
    tokens, piece = _count_text(job)
    yield _measuring_part(job, piece)
    yield _comparing_part(job, is_compared=tokens > piece)
    yield Part(
        what="C",
        bytes=layers * square * FLOAT32,
        phase="always",
        where="main memory",
        formula=f"d_ff² x 4 x {layers}",
        of_covariance=True,
    )
    yield Part(  # where C is solved with
        what="factors of C",
        bytes=layers * square * FLOAT64,
        phase="always",
        where=job.where,
        formula=f"d_ff² x 8 x {layers}",
        of_covariance=True,
    )
    copies = 1
    if job.method.joint:  # more of its size: eigenvectors and their workspace, or C with the held keys
        copies = 4
    yield Part(
        what="factoring C",
        bytes=copies * square * FLOAT64,
        phase="factoring C",
        where=job.where,
        formula=f"d_ff² x {copies * FLOAT64}",
        of_covariance=True,
    )


def _comparing_part(job: Job, *, is_compared: bool) -> Part:
    """Return what a comparison of C with that of half the text takes: on the device if it has room, else on the CPU.

    That is C, its factor and a copy in float64, 3 x 8 bytes a number, and for each layer the upper halves of its sum in
    float64 and of the copy of that in float32, (8 + 4) / 2 bytes.
    """
    layers = len(job.layers)
    compared = 0.0
    if is_compared:
        compared = float(job.shape.inner) ** 2 * (3 * FLOAT64 + layers * (FLOAT64 + FLOAT32) / 2)
    where = job.where
    free = job.machine.accelerator
    if free is not None and free < job.weights + compared:
        where = "main memory"
    formula = f"d_ff² x (24 + 6 x {layers})"
    return Part(
        what="comparing C", bytes=compared, phase="comparing C", where=where, formula=formula, of_covariance=True
    )


def _count_text(job: Job) -> tuple[int, int]:
    """Return how many tokens C is measured from, and how many of them are in a piece of the text.

    If the text has several pieces, C is compared with that of half of them.
    """
    config = job.workload.covariance
    assert config is not None  # noqa: S101 - the caller has seen it
    tokens = config.tokens_for(job.shape.inner)
    if config.corpus != "self":
        return tokens, chunk_size(tokens)
    piece = SelfCorpus.rows * SelfCorpus.length
    return math.ceil(tokens / piece) * piece, piece  # the model writes whole pieces


def _measuring_part(job: Job, piece: int) -> Part:
    """Return what a pass over a ``piece`` of the text takes, with the sums of all layers.

        text that the model writes: c x tokens of the piece x bytes of a number + 4 x rows x V x 4 + sums
        other text:                 (4 d + 3 d_ff) x tokens of a pass x bytes of a number + waiting keys x 4 + sums

    c is the number of a token's keys and values in all blocks. Sampling takes the logits of all rows and three more
    tensors of their size; a block has about four states [d] and three [d_ff] of each token at once.
    """
    config = job.workload.covariance
    assert config is not None  # noqa: S101 - the caller has seen it
    shape = job.shape
    layers = len(job.layers)
    sums = layers * float(shape.inner) ** 2 * FLOAT64 / 2  # half of each symmetric C, in float64
    if config.corpus == "self":
        logits = 4.0 * FLOAT32 * SelfCorpus.rows * shape.vocabulary
        needed = float(job.number_bytes) * shape.cache * piece + logits + sums
        formula = f"keys and values of {SelfCorpus.rows} x {SelfCorpus.length} tokens, logits, sums"
    else:
        states = job.number_bytes * batch_tokens(cpu=job.machine.is_cpu) * (4.0 * shape.width + 3.0 * shape.inner)
        waiting = layers * FLOAT32 * WAITING * shape.inner
        needed = states + waiting + sums
        formula = "a block's states of a pass, waiting keys, sums"
    return Part(
        what="measuring C", bytes=needed, phase="measuring C", where=job.where, formula=formula, of_covariance=True
    )


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
        weights = weight_bytes(shape, dtype, quantised=quantised)
        limit_bytes = max(0.0, machine.accelerator - weights) / 2
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
        # The mean over the facts of k^T (lambda C + K K^T)^-1 k is at most rank(K K^T) / facts <= d_ff / facts.
        yield (
            f"{facts:,} facts share the {shape.inner:,} inputs of a layer, so only a part of each change can be "
            f"written; with more than {shape.inner:,} facts, that part is on average at most d_ff / facts. A method "
            "that keeps the facts beside the weights, such as rag, has no such limit"
        )


def suggestions(estimated: Estimate) -> tuple[str, ...]:
    """Return ways to make the job fit, the easiest first; () if it fits."""
    if not estimated.lacking:
        return ()
    job = estimated.job
    bytes_of = {part.what: part.bytes for part in estimated.parts}
    ways = []
    if job.number_bytes > 2 and not job.quantised and job.where in estimated.lacking:  # 2: bytes of a bfloat16
        saved = job.shape.parameters * (job.number_bytes - 2) / 1e9
        ways.append(f"--dtype bfloat16 saves {saved:.1f} GB for the model; closed forms are still solved in float64")
    states = bytes_of.get(_STATES, 0.0)
    # Smaller passes help only in the memory of the model, and only if they are a good part of what it holds.
    if job.where in estimated.lacking and states >= 0.1 * estimated.needed(job.where):
        if job.method.family in _LIMITED:
            megabytes = states / 2 / 1e6  # half of what a pass keeps now
            way = f"`kg-edit evaluate --memory {megabytes:.0f}`, or `method.memory` in Python,"
            ways.append(f"{way} makes passes smaller: the same results, a little slower")
        elif "batch_size" in type(job.config).model_fields:
            ways.append("a smaller batch_size makes steps smaller; the results differ")
    covariance_shares = []
    missing = []
    for where in estimated.lacking:
        needed = estimated.needed(where)
        added = estimated.added_by_covariance(where)
        if added >= 0.2 * needed:
            covariance_shares.append(f"{added / 1e9:.1f} GB of {where}")
        free = estimated.available(where) or 0
        missing.append(f"{(needed - free) / 1e9:.1f} GB more {where}")
    if covariance_shares:
        added_text = " and ".join(covariance_shares)
        ways.append(f"C adds {added_text} at the peak: fewer layers need less, and ft-m, lora or grace need no C")
    missing_text = " and ".join(missing)
    ways.append(f"{missing_text}, or a smaller model; in Python, device_map='auto' uses several devices")
    return tuple(ways)
