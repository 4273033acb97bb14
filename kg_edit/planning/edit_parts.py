"""What editing takes besides the covariance C: the program, the model, passes, prompts, the patch, texts and checks.

The constants were measured on SmolLM2-135M and on random models of known shapes (`bench/growth.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from kg_common.terminal import number_of
from kg_edit.engine.passes import count_numbers, tokens_at_once
from kg_edit.engine.prefix_store import MEGABYTES
from kg_edit.planning.job import FLOAT32, FLOAT64, TRAINED, Job, Part
from kg_edit.scoring.greedy import BATCH_ROWS

RUNTIME = 0.50e9  # Python with torch and transformers: 0.39 GB before any model, 0.11 more once one has run
CUDA = 0.5e9  # work memory of libraries, and of a captured step; measured on an H200: 0.3 to 0.9 GB (`bench/gpu.py`)
_RECORD = 9e3  # bytes of an edit's texts and record, measured
_ENCODED = 10e3  # bytes of its encoded prompts, measured
# Tokens, as in CounterFact
_TAIL = 4  # of a prompt, from the subject's end on
_PROMPT = 8
_TARGET = 1
STATES = "states for the backward pass"  # the part that `suggest_ways` makes smaller


def edit_parts(job: Job) -> Iterator[Part]:
    """Yield the parts of a job for its edits and their checks, but for those of C."""
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


def base_parts(job: Job) -> Iterator[Part]:
    """Yield the program and the model."""
    shape = job.shape
    yield Part(what="Python, torch, transformers", bytes=RUNTIME, phase="always", where="main memory")
    formula = f"{shape.parameters:,} parameters x {job.number_bytes}"
    if job.quantised:
        formula = f"{shape.packed:,} in {job.quantised}, {shape.parameters - shape.packed:,} x {job.number_bytes}"
    yield Part(what="the model", bytes=job.model_bytes, phase="always", where=job.where, formula=formula)
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
        what=STATES,
        bytes=float(job.number_bytes * numbers) * tokens,
        phase="editing",
        where=job.where,
        formula=f"{tokens:,.0f} tokens x ((10 d + 5 d_ff) x {blocks} blocks + V) x {job.number_bytes}",
    )


def _count_pass_tokens(job: Job, numbers: int) -> float:
    """Return how many tokens a pass has, each of which keeps ``numbers`` numbers.

    By family, a pass has at most as many tokens as `tokens_at_once` allows, and at most these:

        rank-one, joint  the rows of one fact; if the method is joint, those of all facts of all edits
        codebook         the rows of the ``together`` edits that run in the same passes
        neurons          the rows of one edit
        gradient         the prompts of all edits

    The other families train. A step of theirs is one pass, of any size.
    """
    workload = job.workload
    most = tokens_at_once(numbers, number_bytes=job.number_bytes, memory_bytes=job.limit_bytes, cpu=job.machine.is_cpu)
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
        case _:
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
        bytes=TRAINED * job.trained,
        phase="editing",
        where=job.where,
        formula=f"{job.trained:,.0f} numbers x {TRAINED}",
    )


def _prompts_part(job: Job) -> Part:
    """Return what a descent keeps of the facts that it takes at once, and of the contexts, which all facts share.

        bytes = (facts at once x numbers of a fact + tokens of the contexts x c) x bytes of a number

    c is the number of a token's keys and values in all blocks.
    """
    context_tokens = _count_context_tokens(job)
    # In the descent of a single fact each context is in one row, and then the row has a copy of the context's keys and
    # values before its own, besides the shared ones (`SharedContexts.prefix`).
    copies = 1
    if _count_facts(job) == 1:
        copies = 2
    kept_context_tokens = copies * context_tokens
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
    """Return how many facts one descent would take if the memory had no limit: those of the edits that run at once."""
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

    T: the tokens of the fact's rows
    c: the numbers of a token's keys and values in all blocks
    R: the rows, and one more, as the bare prompt counts twice here (not in T)
    t: the tokens of a row's tail, of which three states [d] are kept: the input of the edited block, that of the block
       above, and the last output
    d_ff: a row's key
    V: the clean logits

    A recurrent model keeps no keys and values, but two states [d] of each token: the input of the edited block and the
    last output.
    """
    shape = job.shape
    tokens = _count_fact_tokens(job)
    rows_with_bare = job.workload.rows + 1
    if shape.recurrent:
        states = 2.0 * shape.width * tokens
    else:
        states = tokens * shape.cache + 3.0 * rows_with_bare * _TAIL * shape.width
    return states + rows_with_bare * shape.inner + shape.vocabulary


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


def _checks_part(job: Job) -> Part:
    """Return the logits of a batch of rows of the checks before and after."""
    return Part(
        what="checks of unedited and edited model",
        bytes=float(BATCH_ROWS * job.shape.vocabulary * (job.number_bytes + 2 * FLOAT32)),
        phase="checking",
        where=job.where,
        formula=f"{BATCH_ROWS} rows of logits, with float32 copies",
    )
