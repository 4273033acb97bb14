"""What each family of methods does, as numbers: how often the model runs, what is solved, what is trained.

How much there is to compute: floating-point operations (FLOP) of what methods are made of, with their formulas.

A product of a weight with one token's state is 2 FLOP an element of the weight. With P the elements of one block's
matrices, L the number of blocks, l the edited one, d the width and V the vocabulary, a token's way

- forward through n blocks is 2 P n;
- there and back, where only states and no weights have gradients, 4 P n; with the weights' gradients 6 P n;
- through the head 2 d V, there and back 4 d V.

Attention between tokens (4 d a token and a token before it) is left out: a hundredth, in prompts of some dozen tokens.

How many bytes there must be: what stays (weights), what comes and goes (covariance, activations, optimiser).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kg_edit.errors import ConfigError
from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.methods.base import DEPTH
from kg_edit.methods.memit.base import default_layers
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


_CODEBOOK_DEPTH = 0.75


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """``layers`` that are written or read back to; FLOP an edit (``each``), a batch (``solve``) and a run (``once``).

    The last two are in float64. ``covariance`` is the number of tokens that C is measured from (0: no C), ``trained``
    how many numbers an optimiser holds, ``tokens`` how many an edit's rows have, ``facts`` how many are written for
    one edit, ``dense`` whether a patch holds whole matrices.
    """

    layers: tuple[int, ...]
    each: float
    tokens: float
    solve: float = 0.0
    once: float = 0.0
    covariance: int = 0
    trained: float = 0.0
    facts: int = 1
    dense: bool = False
    notes: tuple[str, ...] = ()


def recipe_of(method: type[EditingMethod], config: MethodConfig, shape: ModelShape, *, edits: int) -> Recipe:
    """The recipe of a method with its settings, for a run of ``edits``.

    Raises:
        ConfigError: nothing is known of how much this method computes; or the model has no such layer.
    """
    fields = type(config).model_fields.keys()
    family = next((make for asks, make in _FAMILIES if asks <= fields), _prompt if method.kind == "prompt" else None)
    if family is None:
        raise ConfigError(
            f"it is not known how much {method.name} computes; try it with `kg-edit edit` on one edit, and multiply"
        )
    found = family(config, shape, edits)
    if beyond := [layer for layer in found.layers if not 0 <= layer < shape.layers]:
        raise ConfigError(f"{shape.name} has layers 0 to {shape.layers - 1}; layer {beyond[0]} is none of them")
    return found


def _rank_one(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """ROME and what is made like it; with ``representation_layer`` also GLAME's R-GNN."""
    layer = _at(config, shape, DEPTH)
    facts, more = _facts(config), getattr(config, "recalled", 0) + getattr(config, "stated", 0)  # more: glame-plus
    contexts = 1 + sum(count for _, count in config.context_lengths) + more
    shared = round(sum(length * count for length, count in config.context_lengths) / (edits * facts))
    descent = descent_flop(shape, layer, contexts=contexts, context_tokens=shared, steps=config.steps)
    found = Recipe(
        layers=(layer,),
        each=facts * descent,
        tokens=contexts * Prompts().tail,
        once=cholesky_flop(shape),
        covariance=config.covariance.tokens or 10 * shape.inner,
        trained=float(shape.width),
        facts=facts,
    )
    return _with_graph(found, config, shape)


def _joint(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """MEMIT and what is made like it: values by descent in the last layer, then a solve in each layer."""
    layers, facts = _written(config, shape), _facts(config)
    contexts, count = 1 + len(config.context_starts), len(config.context_starts) * config.context_tokens
    descent = descent_flop(
        shape, layers[-1], contexts=contexts, context_tokens=round(count / (edits * facts)), steps=config.steps
    )
    factors = eigenvectors_flop if hasattr(config, "threshold") else cholesky_flop
    found = Recipe(
        layers=layers,
        each=facts * (descent + keys_flop(shape, layers=len(layers), contexts=contexts)),
        tokens=contexts * Prompts().tail * facts,
        solve=joint_solve_flop(shape, layers=len(layers), facts=edits * facts),
        once=factors(shape, layers=len(layers)),
        covariance=config.covariance.tokens or 10 * shape.inner,
        trained=float(shape.width) * edits * facts,
        facts=facts,
    )
    return _with_graph(found, config, shape)


def _with_graph(found: Recipe, config: Any, shape: ModelShape) -> Recipe:
    """With GLAME's R-GNN in the place of a free change, where the settings have one."""
    if not hasattr(config, "representation_layer"):
        return found
    layer = found.layers[-1] if config.representation_layer is None else config.representation_layer
    more = graph_flop(shape, layer, hops=config.hops, per_node=config.per_node, steps=config.steps)
    return replace(found, each=found.each + more, trained=graph_parameters(shape, hops=config.hops))


def _tuning(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """Fine-tuning of one down-projection."""
    layer = _at(config, shape, DEPTH)
    rows = 1 + min(edits - 1, getattr(config, "replayed", 0))
    return Recipe(
        layers=(layer,),
        each=tuning_flop(shape, layer, steps=config.steps, rows=rows),
        tokens=Prompts().length,
        trained=float(shape.width) * shape.inner,
        dense=True,
    )


def _adapters(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """LoRA: a pair of factors for four matrices a block, or for those that are named."""
    layers = tuple(range(shape.layers)) if config.layers is None else tuple(config.layers)
    matrices = len(layers) * (4 if config.modules is None else len(config.modules))
    return Recipe(
        layers=layers,
        each=tuning_flop(shape, min(layers), steps=config.steps),
        tokens=Prompts().length,
        trained=2.0 * matrices * config.rank * shape.width,
        facts=config.rank,
    )


def _codebook(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """GRACE: one value by descent at the prompt's last token."""
    layer = _at(config, shape, _CODEBOOK_DEPTH)
    each = descent_flop(shape, layer, contexts=1, context_tokens=0, steps=config.steps)
    return Recipe(layers=(layer,), each=each, tokens=Prompts().target, trained=float(shape.width))


def _neurons(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """KN: attributions in all layers."""
    contexts = 1 + sum(count for _, count in config.context_lengths)
    each = attribution_flop(shape, contexts=contexts, steps=config.steps)
    return Recipe(layers=config.layers or tuple(range(shape.layers)), each=each, tokens=contexts * Prompts().tail)


def _hypernetwork(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """MEND, once its editor is trained."""
    layers = tuple(range(max(0, shape.layers - config.blocks), shape.layers))
    note = "training the editor (kg-edit mend train) is not counted"
    return Recipe(layers=layers, each=gradient_flop(shape), tokens=Prompts().length, facts=10, notes=(note,))


def _prompt(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """Nothing is computed when an edit is made; prompts get longer."""
    return Recipe(layers=(), each=0.0, tokens=0.0, notes=("each prompt gets longer by what is put before it",))


def _at(config: Any, shape: ModelShape, depth: float) -> int:
    """The layer of the settings, else the one at a share of the depth."""
    return round(depth * shape.layers) if config.layer is None else int(config.layer)


def _written(config: Any, shape: ModelShape) -> tuple[int, ...]:
    """The layers that are written together."""
    if hasattr(config, "layer"):
        return (_at(config, shape, DEPTH),)
    return config.layers or default_layers(shape.layers)


def _facts(config: Any) -> int:
    """How many facts are written for an edit: with the graph's as further requests, those too."""
    return 1 + sum(getattr(config, name, 0) for name in ("statements", "composed", "chained"))


_Family = Callable[[Any, ModelShape, int], Recipe]
_FAMILIES: tuple[tuple[frozenset[str], _Family], ...] = (  # a config with all these fields is of that family
    (frozenset({"covariance", "context_starts", "steps"}), _joint),
    (frozenset({"covariance", "context_lengths", "steps", "layer"}), _rank_one),
    (frozenset({"rank", "alpha", "layers", "modules", "steps"}), _adapters),
    (frozenset({"layer", "steps", "deferral"}), _codebook),
    (frozenset({"steps", "erase", "write", "context_lengths"}), _neurons),
    (frozenset({"network", "edit_lr", "blocks"}), _hypernetwork),
    (frozenset({"layer", "steps", "learning_rate", "aim"}), _tuning),
)
