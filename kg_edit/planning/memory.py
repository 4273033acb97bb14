"""How many bytes there must be: what stays (weights), what comes and goes (covariance, activations, optimiser)."""

from __future__ import annotations

from kg_edit.planning.shape import ModelShape

RUNTIME = 0.50e9  # Python with torch and transformers: 0.39 GB before any model, 0.11 more once one has run
_FLOAT32, _FLOAT64 = 4, 8
_READING = 64  # rows that are written after at once, each with a row of logits in float32, twice
_FEWEST, _MOST = 32, 512  # tokens a pass, as in `row_groups`
_WRITERS, _WRITTEN = 64, 128  # texts and their tokens, as in `corpora.SelfCorpus`


def weights_bytes(shape: ModelShape, *, size: int) -> float:
    """The model: a number of ``size`` bytes a parameter."""
    return float(size) * shape.parameters


def covariance_bytes(shape: ModelShape, *, layers: int) -> float:
    """C in float32 and its factor in float64, for each layer: 12 d_ff^2."""
    return layers * float(shape.inner) ** 2 * (_FLOAT32 + _FLOAT64)


def factoring_bytes(shape: ModelShape) -> float:
    """Four more float64 matrices of C's size while one C is factored: 32 d_ff^2."""
    return 4 * float(shape.inner) ** 2 * _FLOAT64


def measuring_bytes(shape: ModelShape, *, layers: int, size: int) -> float:
    """While the model writes the text that C is measured from: 64 texts of 128 tokens at a time.

    Their keys and values in all blocks, four copies of 64 rows of logits, and sums of half of C in float64.
    """
    cache = float(size) * shape.cache * _WRITERS * _WRITTEN
    return cache + 4.0 * _FLOAT32 * _WRITERS * shape.vocabulary + layers * float(shape.inner) ** 2 * _FLOAT64 / 2


def activations_bytes(shape: ModelShape, layer: int, *, tokens: float, size: int, limit: float) -> float:
    """What a pass with gradient keeps for the way back: 10 d + 5 d_ff numbers a token and block, and its logits.

    ``tokens`` is what all rows have, ``limit`` the bytes that a pass should stay within (--memory); a pass has 32
    tokens at least and 512 at most.
    """
    numbers = (10.0 * shape.width + 5.0 * shape.inner) * (shape.layers - layer) + shape.vocabulary
    at_once = max(_FEWEST, min(_MOST, limit / (size * numbers)))
    return size * numbers * min(at_once, tokens)


def optimiser_bytes(parameters: float) -> float:
    """A trained number's gradient, Adam's two means and its copy for the way back, in float32."""
    return 4.0 * _FLOAT32 * parameters


def graph_parameters(shape: ModelShape, *, hops: int) -> float:
    """Of the R-GNN: two matrices [d, d] a hop."""
    return 2.0 * hops * shape.width**2


def patch_bytes(shape: ModelShape, *, edits: int, layers: int = 1) -> float:
    """Rank one an edit and layer: d + d_ff numbers in float32; also the size of the file."""
    return float(_FLOAT32) * edits * layers * (shape.width + shape.inner)


def reading_bytes(shape: ModelShape, *, size: int) -> float:
    """Looking at an edit's prompts before and after: logits of some dozen rows, and their copies."""
    return float(_READING * shape.vocabulary * (size + 2 * _FLOAT32))
