"""Count the floating-point operations (FLOP) of the parts of all methods, with their formulas.

A product of a weight with one token's state is 2 FLOP per element of the weight. With P the elements of one block's
matrices, L the number of blocks, l the edited one, d the width and V the vocabulary, one token costs

- forward through n blocks: 2 P n;
- forward and backward, if only states and no weights have gradients: 4 P n; with the weights' gradients: 6 P n;
- through the head: 2 d V; forward and backward: 4 d V.

Attention between tokens (4 d for a token and each token before it) is left out: it is a hundredth, in prompts of some
dozen tokens. `kg_edit.planning.calls` counts the time outside matrix products, `kg_edit.planning.memory` the bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from kg_edit.covariance.corpora import SelfCorpus
from kg_edit.covariance.keys import TRIED_TOKENS
from kg_edit.methods.workload import Workload
from kg_edit.planning.shape import ModelShape

_TIMES_MOVED = 13  # reads and writes: 4.2 ns a number at 13 GB/s, in shapes of 135 M and 360 M


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The token counts of a typical edit, as in CounterFact: ``before`` the subject's last token, and ``tail`` from
    there on.

    On average over 200 records, SmolLM2's tokenizer makes 4.1, 4.4 and 1.1 tokens (before, tail, target).
    """

    before: int = 4
    tail: int = 4
    target: int = 1  # tokens that are scored
    written: int = 10  # tokens that are generated after a prompt to check the result

    @property
    def length(self) -> int:
        """Tokens of the prompt with its target."""
        return self.before + self.tail


def descent_flop(
    shape: ModelShape,
    layer: int,
    *,
    contexts: int,
    context_tokens: int,
    steps: int,
    prompts: Prompts | None = None,
    essences: int = 1,
) -> float:
    """The descent on one edit's value (ROME, GLAME, MEMIT's z): at most ``steps`` evaluations.

    Once, forward: N rows of prefix and tail, N (before + tail) 2 P L, and the contexts' own tokens (shared by edits).
    Each step, forward and backward: the tails in the blocks above l, (N + E) tail 4 P (L - l), where the ``essences`` E
    are "{subject} is a", padded to run with them; and the head where a target or its one token is predicted, (N target
    + E) 4 d V.
    """
    said = prompts or Prompts()
    above = shape.layers - layer
    once = (contexts * said.length + context_tokens) * 2.0 * shape.block * shape.layers
    blocks = (contexts + essences) * said.tail * 4.0 * shape.block * above
    head = (contexts * said.target + essences) * 4.0 * shape.width * shape.vocabulary
    return once + steps * (blocks + head)


def tuning_flop(shape: ModelShape, layer: int, *, steps: int, rows: int = 1, prompts: Prompts | None = None) -> float:
    """One edit by gradient descent on few weights in ``layer`` or above it.

    Once, forward below the layer: rows length 2 P layer. Each step, forward and backward above it: rows length
    4 P (L - layer), the trained weight's own gradient, 2 d d_ff a token, and the head, 4 d V a target.
    """
    said = prompts or Prompts()
    once = rows * said.length * 2.0 * shape.block * layer
    blocks = said.length * (4.0 * shape.block * (shape.layers - layer) + 2.0 * shape.width * shape.inner)
    return once + steps * rows * (blocks + said.target * 4.0 * shape.width * shape.vocabulary)


def graph_flop(shape: ModelShape, layer: int, *, hops: int, per_node: int, steps: int) -> float:
    """GLAME's part: the hidden states of labels, 2 P layer a token, of about 2 (nodes + relations) labels of four
    tokens.

    Each step of the R-GNN, forward and backward: 2 hops matrices [d, d] on each of the nodes, 3 x 2 d^2; and AdamW's
    dozen operations on each of its 2 hops d^2 parameters.
    """
    nodes = 2.0 + per_node * max(1, hops - 1)
    labels = 2 * nodes * 4 * 2.0 * shape.block * layer
    network = 2 * hops * shape.width**2
    return labels + steps * network * (6.0 * nodes + 12)


def covariance_flop(shape: ModelShape, *, tokens: int, layers: int = 1) -> float:
    """C from text that the model writes: each token goes through all blocks and the head, and adds k k^T.

    tokens (2 P L + 2 d V + d_ff^2 layers): of the symmetric product, 2 d_ff^2, only half is computed.
    """
    return tokens * (token_flop(shape) + layers * float(shape.inner) ** 2)


def read_covariance_flop(shape: ModelShape, layer: int, *, tokens: int, layers: int = 1) -> float:
    """C from text that is read: no block above ``layer``, the highest one, runs, and no head.

    tokens (2 P (layer + 1) + d_ff^2 layers), and 2 P L for each token of the trial that shows whether texts can be
    packed.
    """
    tried = float(TRIED_TOKENS) * 2.0 * shape.block * shape.layers
    return tried + tokens * (2.0 * shape.block * (layer + 1) + layers * float(shape.inner) ** 2)


def token_flop(shape: ModelShape) -> float:
    """One token through all blocks and the head, 2 P L + 2 d V."""
    return 2.0 * shape.block * shape.layers + 2.0 * shape.width * shape.vocabulary


def moved_bytes(shape: ModelShape, *, tokens: int, size: int) -> float:
    """Bytes read and written while the model writes ``tokens``, besides its weights.

    A block's states, 10 d + 5 d_ff numbers a token, each moved about six times (norms, activations, sums: measured).
    Keys and values: to append a token, those of all earlier tokens are read, written to a new place, and read for
    attention, 3 times half a text's length.
    """
    states = _TIMES_MOVED * shape.layers * (10.0 * shape.width + 5.0 * shape.inner)
    return size * tokens * (states + 3.0 * shape.cache * SelfCorpus.length / 2)


def comparing_flop(shape: ModelShape, *, tokens: int, layers: int, piece: int) -> float:
    """Comparing C with that of half the text: at each doubling two factorisations, in float64.

    Comparisons are made after each ``piece`` of the text, from d_ff tokens on.
    """
    marks = 1
    while tokens / 2 ** (marks + 1) >= shape.inner:
        marks += 1
    return 2 * min(marks, -(-tokens // piece) - 1) * cholesky_flop(shape, layers=layers)


def cholesky_flop(shape: ModelShape, *, layers: int = 1) -> float:
    """Factors of C, once for each layer: d_ff^3 / 3, in float64."""
    return layers * float(shape.inner) ** 3 / 3


def eigenvectors_flop(shape: ModelShape, *, layers: int = 1) -> float:
    """Eigenvectors of C (AlphaEdit), once for each layer: about 9 d_ff^3, in float64."""
    return layers * 9 * float(shape.inner) ** 3


def joint_solve_flop(shape: ModelShape, *, layers: int, facts: int) -> float:
    """The joint solve for a batch of n facts, in each layer, in float64: C^-1 K, the small system, its factors.

    2 d_ff^2 n + 2 d_ff n^2 + n^3 / 3; for more facts than d_ff, the system has size d_ff instead.
    """
    small = min(facts, shape.inner)
    return layers * (2.0 * shape.inner**2 * facts + 2.0 * shape.inner * facts * small + small**3 / 3)


def attribution_flop(shape: ModelShape, *, contexts: int, steps: int, prompts: Prompts | None = None) -> float:
    """KN: integrated gradients of every layer, forward and backward through the blocks above it.

    The sum over layers l of N steps tail 4 P (L - l) is N steps tail 4 P L (L + 1) / 2.
    """
    tail = (prompts or Prompts()).tail
    return contexts * steps * tail * 4.0 * shape.block * shape.layers * (shape.layers + 1) / 2


def gradient_flop(shape: ModelShape, *, prompts: Prompts | None = None) -> float:
    """MEND: one forward and one backward pass, 4 P L a token; the editor network's own cost is small in comparison."""
    return (prompts or Prompts()).length * 4.0 * shape.block * shape.layers


def keys_flop(
    shape: ModelShape, layers: Sequence[int], *, contexts: int, context_tokens: int, prompts: Prompts | None = None
) -> float:
    """Keys and states of one edit in several ``layers``: its prompt up to the subject's end in every context.

    N (before + 1) + context tokens, each 2 P for a block. Up to the last of ``layers`` once; then, for each further
    layer, from the layer before it (`kg_edit.models.replay.Ascending`).
    """
    tokens = contexts * ((prompts or Prompts()).before + 1) + context_tokens
    blocks = layers[-1] + 1 + sum(layers[-1] - layer + 1 for layer in layers[:-1])
    return tokens * 2.0 * shape.block * blocks


def held_tokens(load: Workload, *, prompts: Prompts | None = None) -> float:
    """Tokens of the rows of an edit whose keys are held, including contexts; 0 if no row has held keys."""
    share = load.held / max(1, load.rows)
    return share * (load.rows * (prompts or Prompts()).length + load.context_tokens)


def held_flop(shape: ModelShape, layers: Sequence[int], *, load: Workload) -> float:
    """The keys of one fact's other tokens, 2 P for a token and block.

    Its rows run once more, up to the last of ``layers``; then from each layer to the next (`Ascending`).
    """
    between = sum(after - before + 1 for before, after in itertools.pairwise(layers)) + (len(layers) > 1)
    return held_tokens(load) * 2.0 * shape.block * (layers[-1] + 1 + between)


def held_solve_flop(shape: ModelShape, *, layers: int, keys: float) -> float:
    """The additional solve cost of ``keys`` held keys in each layer, in float64: 2 d_ff^2 a key.

    From d_ff keys on, also one more factorisation, d_ff^3 / 3.
    """
    more = cholesky_flop(shape, layers=layers) if keys >= shape.inner else 0.0
    return layers * 2.0 * float(shape.inner) ** 2 * keys + more


def written_flop(shape: ModelShape, *, prompts: int, said: Prompts | None = None) -> float:
    """Checking ``prompts`` prompts of one edit, before and after: 2 (length + written) (2 P L + 2 d V) each."""
    tokens = (said or Prompts()).length + (said or Prompts()).written
    return 2.0 * prompts * tokens * token_flop(shape)
