"""The memory that the covariance C [d_ff, d_ff] takes while it is measured, compared, factored and held.

C is the second moment of a layer's inputs over a text. It is compared with that of half the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from kg_edit.covariance.corpora import SelfCorpus, chunk_size
from kg_edit.covariance.keys import batch_tokens
from kg_edit.covariance.moment import WAITING
from kg_edit.planning.job import FLOAT32, FLOAT64, Job, Part


def covariance_parts(job: Job) -> Iterator[Part]:
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
    # A copy of C while it is factored; in a joint method four of its size: the eigenvectors and their workspace, or C
    # with the held keys.
    copies = 1
    if job.method.joint:
        copies = 4
    yield Part(
        what="factoring C",
        bytes=copies * square * FLOAT64,
        phase="factoring C",
        where=job.where,
        formula=f"d_ff² x {copies * FLOAT64}",
        of_covariance=True,
    )


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


def _comparing_part(job: Job, *, is_compared: bool) -> Part:
    """Return what a comparison of C with that of half the text takes: on the device if it has room, else on the CPU.

    The bytes of each of the d_ff² numbers, with nothing where C is not compared:

        3 x 8          C, its factor and a copy of it, in float64
        (8 + 4) / 2    for each layer: the upper half of its sum in float64, and that of a copy in float32
    """
    layers = len(job.layers)
    compared = 0.0
    if is_compared:
        compared = float(job.shape.inner) ** 2 * (3 * FLOAT64 + layers * (FLOAT64 + FLOAT32) / 2)
    where = job.where
    free = job.machine.accelerator
    if free is not None and free < job.model_bytes + compared:
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
