"""Count the bytes of a run: what stays (weights), and what comes and goes (covariance, activations, optimiser)."""

from __future__ import annotations

from kg_edit.covariance.corpora import SelfCorpus
from kg_edit.covariance.keys import BATCH_TOKENS
from kg_edit.locate_then_edit.objective import numbers_kept, tokens_at_once
from kg_edit.models.prefix_store import MEGABYTES
from kg_edit.planning.shape import ModelShape
from kg_edit.scoring.greedy import BATCH_ROWS

RUNTIME = 0.50e9  # Python with torch and transformers: 0.39 GB before any model, 0.11 more once one has run
_FLOAT32, _FLOAT64 = 4, 8
_RECORD, _ENCODED = 9e3, 10e3


def weights_bytes(shape: ModelShape, *, size: int) -> float:
    """The model: ``size`` bytes for each parameter."""
    return float(size) * shape.parameters


def covariance_bytes(shape: ModelShape, *, layers: int) -> float:
    """C in float32 and its factor in float64, for each layer: 12 d_ff^2."""
    return layers * float(shape.inner) ** 2 * (_FLOAT32 + _FLOAT64)


def factoring_bytes(shape: ModelShape, *, joint: bool) -> float:
    """Memory while one C is factored: its copy in float64, 8 d_ff^2.

    A batch needs four such matrices, 32 d_ff^2: eigenvectors with their workspace, or C with the held keys.
    """
    return (4 if joint else 1) * float(shape.inner) ** 2 * _FLOAT64


def measuring_bytes(shape: ModelShape, *, layers: int, size: int) -> float:
    """Memory while the model writes the text from which C is measured: 64 texts of 128 tokens at a time.

    Their keys and values in all blocks, four copies of 64 rows of logits, and sums of half of C in float64.
    """
    cache = float(size) * shape.cache * SelfCorpus.rows * SelfCorpus.length
    return cache + 4.0 * _FLOAT32 * SelfCorpus.rows * shape.vocabulary + layers * float(shape.inner) ** 2 * _FLOAT64 / 2


def reading_covariance_bytes(shape: ModelShape, *, layers: int, size: int) -> float:
    """Memory while C is measured from text that is read.

    A block's states in a pass, d_ff three times and d four times a token; the waiting keys; and sums of half of C in
    float64.
    """
    states = size * BATCH_TOKENS * (4.0 * shape.width + 3.0 * shape.inner)
    return states + layers * (_FLOAT32 * BATCH_TOKENS * shape.inner + float(shape.inner) ** 2 * _FLOAT64 / 2)


def comparing_bytes(shape: ModelShape, *, layers: int) -> float:
    """Memory while C is compared with that of half the text: both, a factor of each and a copy, in float64: 40 d_ff^2.

    Also the sums of all layers, with those of the half in float32: 6 d_ff^2 each.
    """
    return float(shape.inner) ** 2 * (5 * _FLOAT64 + layers * (_FLOAT64 + _FLOAT32) / 2)


def activations_bytes(shape: ModelShape, layer: int, *, tokens: float, size: int, limit: float) -> float:
    """What a pass with gradients keeps for its backward pass, computed as in `objective.tokens_within`.

    ``tokens`` is the number of tokens of all rows, ``limit`` the bytes that a pass should not exceed (--memory).
    """
    blocks = shape.layers - layer
    each = size * float(numbers_kept(shape.width, shape.inner, blocks=blocks, vocabulary=shape.vocabulary))
    return each * min(tokens_at_once(each, limit=limit), tokens)


def prompts_bytes(
    shape: ModelShape, *, facts: float, tokens: float, tails: float, rows: float, size: int, limit: float
) -> float:
    """What is held of the prompts of the ``facts`` that a descent takes at once.

    For each fact: keys and values of ``tokens`` tokens in all blocks; the input of the edited block, the input of the
    one above and the output of the last, 3 d for each token of its ``tails``; the keys of its ``rows``, d_ff each; and
    the clean logits of one row. As in `kg_edit.methods.memit.method`, the number of facts is such that 2 d numbers for
    each token and block stay within ``limit`` bytes.
    """
    reckoned = 2.0 * shape.width * shape.layers * size * max(tokens, 1)
    each = tokens * shape.cache + 3.0 * tails * shape.width + rows * shape.inner + shape.vocabulary
    return min(facts, max(1.0, limit / reckoned)) * each * size


def kept_bytes(shape: ModelShape, *, edits: int, tokens: int, size: int) -> float:
    """Keys and values of ``tokens`` of each edit, kept for later edits within the limit of a `PrefixStore`."""
    return min(MEGABYTES * 2**20, float(edits) * tokens * shape.cache * size)


def optimiser_bytes(parameters: float) -> float:
    """For each trained number: its gradient, Adam's two means and a copy for the backward pass, in float32."""
    return 4.0 * _FLOAT32 * parameters


def graph_parameters(shape: ModelShape, *, hops: int) -> float:
    """Parameters of the R-GNN: two matrices [d, d] for each hop."""
    return 2.0 * hops * shape.width**2


def patch_bytes(shape: ModelShape, *, edits: int, layers: int = 1) -> float:
    """A rank-one update for each edit and layer: d + d_ff numbers in float32; also the size of the file."""
    return float(_FLOAT32) * edits * layers * (shape.width + shape.inner)


def records_bytes(shape: ModelShape, *, edits: int, joint: bool, layers: int = 1) -> float:
    """What is held of each edit beside tensors of the model: its texts and its record, 9 kB (measured).

    A batch also holds each fact's encoded prompts, 10 kB, and four matrices of keys in float64 in a layer, 32 d_ff.
    """
    each = _RECORD + (_ENCODED + layers * 4.0 * _FLOAT64 * shape.inner if joint else 0.0)
    return edits * each


def reading_bytes(shape: ModelShape, *, size: int) -> float:
    """Memory to check an edit's prompts: a row of logits for each row of a batch, and its float32 copies."""
    return float(BATCH_ROWS * shape.vocabulary * (size + 2 * _FLOAT32))
