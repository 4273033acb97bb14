"""How much there is to compute: floating-point operations (FLOP) of what methods are made of, with their formulas.

A product of a weight with one token's state is 2 FLOP an element of the weight. With P the elements of one block's
matrices, L the number of blocks, l the edited one, d the width and V the vocabulary, a token's way

- forward through n blocks is 2 P n;
- there and back, where only states and no weights have gradients, 4 P n; with the weights' gradients 6 P n;
- through the head 2 d V, there and back 4 d V.

Attention between tokens (4 d a token and a token before it) is left out: a hundredth, in prompts of some dozen tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from kg_edit.planning.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A typical edit in tokens: CounterFact's prompts. ``before`` the subject's last token, from there on ``tail``."""

    before: int = 4
    tail: int = 6
    target: int = 1  # tokens that are scored: 1.2 on the average
    written: int = 10  # tokens that are written after a prompt to look at the result

    @property
    def length(self) -> int:
        """Of the prompt with its target."""
        return self.before + self.tail


def descent_flop(
    shape: ModelShape, layer: int, *, contexts: int, context_tokens: int, steps: int, prompts: Prompts | None = None
) -> float:
    """One edit's value by descent (ROME, GLAME, MEMIT's z): at most ``steps`` evaluations.

    Once, forward: N rows of prefix and tail, N (before + tail) 2 P L, and the contexts' own tokens (shared by edits).
    Each step, there and back: the tails in the blocks above l, N tail 4 P (L - l), the head where a target is
    predicted, N target 4 d V; and the same for the one token of "{subject} is a".
    """
    said = prompts or Prompts()
    above = shape.layers - layer
    once = (contexts * said.length + context_tokens) * 2.0 * shape.block * shape.layers
    blocks = (contexts * said.tail + 1) * 4.0 * shape.block * above
    head = (contexts * said.target + 1) * 4.0 * shape.width * shape.vocabulary
    return once + steps * (blocks + head)


def tuning_flop(shape: ModelShape, layer: int, *, steps: int, rows: int = 1, prompts: Prompts | None = None) -> float:
    """One edit by gradient descent on few weights in ``layer`` or above it.

    Once, forward below the layer: rows length 2 P layer. Each step, there and back above it: rows length
    4 P (L - layer), the trained weight's own gradient, 2 d d_ff a token, and the head there and back, 4 d V a target.
    """
    said = prompts or Prompts()
    once = rows * said.length * 2.0 * shape.block * layer
    blocks = said.length * (4.0 * shape.block * (shape.layers - layer) + 2.0 * shape.width * shape.inner)
    return once + steps * rows * (blocks + said.target * 4.0 * shape.width * shape.vocabulary)


def graph_flop(shape: ModelShape, layer: int, *, hops: int, per_node: int, steps: int) -> float:
    """GLAME's share: labels' hidden states, 2 P layer a token of about 2 (nodes + relations) labels of four tokens.

    Each step of the R-GNN, there and back: 2 hops matrices [d, d] on each of the nodes, 3 x 2 d^2; and AdamW's dozen
    operations on each of its 2 hops d^2 parameters.
    """
    nodes = 2.0 + per_node * max(1, hops - 1)
    labels = 2 * nodes * 4 * 2.0 * shape.block * layer
    network = 2 * hops * shape.width**2
    return labels + steps * network * (6.0 * nodes + 12)


def covariance_flop(shape: ModelShape, *, tokens: int, layers: int = 1) -> float:
    """C from text that the model writes: a token's way through all blocks and the head, and k k^T.

    tokens (2 P L + 2 d V + d_ff^2 layers): of the symmetric product, 2 d_ff^2, only half is computed.
    """
    written = 2.0 * shape.block * shape.layers + 2.0 * shape.width * shape.vocabulary
    return tokens * (written + layers * float(shape.inner) ** 2)


def cholesky_flop(shape: ModelShape, *, layers: int = 1) -> float:
    """Factors of C, once a layer: d_ff^3 / 3, in float64."""
    return layers * float(shape.inner) ** 3 / 3


def eigenvectors_flop(shape: ModelShape, *, layers: int = 1) -> float:
    """Eigenvectors of C (AlphaEdit), once a layer: about 9 d_ff^3, in float64."""
    return layers * 9 * float(shape.inner) ** 3


def joint_solve_flop(shape: ModelShape, *, layers: int, facts: int) -> float:
    """A batch of n facts written together, in each layer, in float64: C^-1 K, the small system, its factors.

    2 d_ff^2 n + 2 d_ff n^2 + n^3 / 3; for more facts than d_ff the system is that of size d_ff instead.
    """
    small = min(facts, shape.inner)
    return layers * (2.0 * shape.inner**2 * facts + 2.0 * shape.inner * facts * small + small**3 / 3)


def attribution_flop(shape: ModelShape, *, contexts: int, steps: int, prompts: Prompts | None = None) -> float:
    """KN: integrated gradients of every layer, there and back through the blocks above it.

    The sum over layers l of N steps tail 4 P (L - l) is N steps tail 4 P L (L + 1) / 2.
    """
    tail = (prompts or Prompts()).tail
    return contexts * steps * tail * 4.0 * shape.block * shape.layers * (shape.layers + 1) / 2


def gradient_flop(shape: ModelShape, *, prompts: Prompts | None = None) -> float:
    """MEND: one look and one gradient, 4 P L a token; what the editor network does is small beside it."""
    return (prompts or Prompts()).length * 4.0 * shape.block * shape.layers


def keys_flop(shape: ModelShape, *, layers: int, contexts: int, prompts: Prompts | None = None) -> float:
    """Keys of one edit in several layers: its prompt in every context, forward once a layer, N length 2 P L each."""
    return layers * contexts * (prompts or Prompts()).length * 2.0 * shape.block * shape.layers


def written_flop(shape: ModelShape, *, prompts: int, said: Prompts | None = None) -> float:
    """Looking at ``prompts`` of one edit, before and after: 2 (length + written) (2 P L + 2 d V)."""
    tokens = (said or Prompts()).length + (said or Prompts()).written
    return 2.0 * prompts * tokens * (2.0 * shape.block * shape.layers + 2.0 * shape.width * shape.vocabulary)
