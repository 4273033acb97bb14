"""What each family of methods does, as numbers: how often the model runs, what is solved, what is trained.

How much there is to compute: floating-point operations (FLOP) of what methods are made of, with their formulas.

A product of a weight with one token's state is 2 FLOP an element of the weight. With P the elements of one block's
matrices, L the number of blocks, l the edited one, d the width and V the vocabulary, a token's way

- forward through n blocks is 2 P n;
- there and back, where only states and no weights have gradients, 4 P n; with the weights' gradients 6 P n;
- through the head 2 d V, there and back 4 d V.

Attention between tokens (4 d a token and a token before it) is left out: a hundredth, in prompts of some dozen tokens.
What takes time without products of matrices is in `kg_edit.planning.calls`, bytes are in `kg_edit.planning.memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kg_edit.covariance.corpora import SelfCorpus
from kg_edit.covariance.keys import TRIED_TOKENS
from kg_edit.errors import ConfigError
from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.methods.workload import Family, Workload
from kg_edit.planning.calls import descent_calls, held_calls
from kg_edit.planning.memory import graph_parameters
from kg_edit.planning.shape import ModelShape
from kg_edit.value.objective import MOST_TOKENS

_TIMES_MOVED = 13  # read or written: 4.2 ns a number at 13 GB/s, in shapes of 135 M and 360 M


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A typical edit in tokens: CounterFact's prompts. ``before`` the subject's last token, from there on ``tail``.

    Of 200 records SmolLM2's tokenizer makes 4.1, 4.4 and 1.1 tokens on the average.
    """

    before: int = 4
    tail: int = 4
    target: int = 1  # tokens that are scored
    written: int = 10  # tokens that are written after a prompt to look at the result

    @property
    def length(self) -> int:
        """Of the prompt with its target."""
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
    """One edit's value by descent (ROME, GLAME, MEMIT's z): at most ``steps`` evaluations.

    Once, forward: N rows of prefix and tail, N (before + tail) 2 P L, and the contexts' own tokens (shared by edits).
    Each step, there and back: the tails in the blocks above l, (N + E) tail 4 P (L - l), where the ``essences`` E are
    "{subject} is a", padded to run with them; and the head where a target or its one token is predicted,
    (N target + E) 4 d V.
    """
    said = prompts or Prompts()
    above = shape.layers - layer
    once = (contexts * said.length + context_tokens) * 2.0 * shape.block * shape.layers
    blocks = (contexts + essences) * said.tail * 4.0 * shape.block * above
    head = (contexts * said.target + essences) * 4.0 * shape.width * shape.vocabulary
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
    return tokens * (token_flop(shape) + layers * float(shape.inner) ** 2)


def read_covariance_flop(shape: ModelShape, layer: int, *, tokens: int, layers: int = 1) -> float:
    """C from text that is read: no block above ``layer``, the highest, runs, and no head.

    tokens (2 P (layer + 1) + d_ff^2 layers), and 2 P L for each of those that show whether texts can be packed.
    """
    tried = float(TRIED_TOKENS) * 2.0 * shape.block * shape.layers
    return tried + tokens * (2.0 * shape.block * (layer + 1) + layers * float(shape.inner) ** 2)


def token_flop(shape: ModelShape) -> float:
    """A token's way through all blocks and the head, 2 P L + 2 d V."""
    return 2.0 * shape.block * shape.layers + 2.0 * shape.width * shape.vocabulary


def moved_bytes(shape: ModelShape, *, tokens: int, size: int) -> float:
    """What is read and written while the model writes ``tokens``, besides its weights.

    A block's states, 10 d + 5 d_ff numbers a token, each about six times there and back (norms, activations, sums:
    measured). Keys and values: a token is put behind those before it, for which all are read, written to a new place,
    and read for attention, 3 times half a text's length.
    """
    states = _TIMES_MOVED * shape.layers * (10.0 * shape.width + 5.0 * shape.inner)
    return size * tokens * (states + 3.0 * shape.cache * SelfCorpus.length / 2)


def comparing_flop(shape: ModelShape, *, tokens: int, layers: int, piece: int) -> float:
    """Comparing C with that of half the text: at each doubling two factorisations, in float64.

    Looked at is after each ``piece`` of the text, from d_ff tokens on.
    """
    marks = 1
    while tokens / 2 ** (marks + 1) >= shape.inner:
        marks += 1
    return 2 * min(marks, -(-tokens // piece) - 1) * cholesky_flop(shape, layers=layers)


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


def keys_flop(
    shape: ModelShape, layers: Sequence[int], *, contexts: int, context_tokens: int, prompts: Prompts | None = None
) -> float:
    """Keys and states of one edit in several ``layers``: its prompt up to the subject's end in every context.

    Once a layer, up to the last one: (N (before + 1) + context tokens) 2 P (l + 1).
    """
    tokens = contexts * ((prompts or Prompts()).before + 1) + context_tokens
    return len(layers) * tokens * 2.0 * shape.block * (layers[-1] + 1)


def held_tokens(load: Workload, *, prompts: Prompts | None = None) -> float:
    """Tokens of the rows of an edit whose keys are held, contexts included; none where no row's are."""
    share = load.held / max(1, load.rows)
    return share * (load.rows * (prompts or Prompts()).length + load.context_tokens)


def held_flop(shape: ModelShape, layers: Sequence[int], *, load: Workload) -> float:
    """The keys of one fact's other tokens: its rows run once more up to each layer, 2 P (l + 1) a token."""
    return held_tokens(load) * 2.0 * shape.block * sum(layer + 1 for layer in layers)


def held_solve_flop(shape: ModelShape, *, layers: int, keys: float) -> float:
    """What ``keys`` that are held add to the solve of each layer, in float64: 2 d_ff^2 a key.

    From d_ff keys on also one more factorisation, d_ff^3 / 3.
    """
    more = cholesky_flop(shape, layers=layers) if keys >= shape.inner else 0.0
    return layers * 2.0 * float(shape.inner) ** 2 * keys + more


def written_flop(shape: ModelShape, *, prompts: int, said: Prompts | None = None) -> float:
    """Looking at ``prompts`` of one edit, before and after: 2 (length + written) (2 P L + 2 d V)."""
    tokens = (said or Prompts()).length + (said or Prompts()).written
    return 2.0 * prompts * tokens * token_flop(shape)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """``layers`` that are written or read back to; FLOP an edit (``each``), a batch (``solve``) and a run (``once``).

    The last two are in float64. ``covariance`` is the number of tokens that C is measured from (0: no C), ``trained``
    how many numbers an optimiser holds, ``tokens`` how many an edit's rows have, ``facts`` the rank of what is written
    for one edit, ``dense`` whether a patch holds whole matrices. The model itself writes the text for C if ``written``;
    ``contexts`` are FLOP of writing contexts, a run; ``prefix`` tokens of a fact whose keys and values are held;
    ``calls`` are small calls an edit, ``together`` the edits that run
    in the same passes without being joint.
    """

    layers: tuple[int, ...]
    each: float
    tokens: float
    solve: float = 0.0
    once: float = 0.0
    covariance: int = 0
    written: bool = True
    contexts: float = 0.0
    prefix: float = 0.0
    calls: float = 0.0
    together: int = 1
    trained: float = 0.0
    facts: int = 1
    dense: bool = False
    notes: tuple[str, ...] = ()


def recipe_of(method: type[EditingMethod], config: MethodConfig, shape: ModelShape, *, edits: int) -> Recipe:
    """The recipe of a method with its settings, for a run of ``edits``: what its class and its config say of it.

    Of a method whose class names no family the model and looking at the edits are reckoned alone, which a note says.

    Raises:
        ConfigError: the model has no such layer.
    """
    layers = config.written_layers(shape.layers)
    if beyond := [layer for layer in layers if not 0 <= layer < shape.layers]:
        raise ConfigError(f"{shape.name} has layers 0 to {shape.layers - 1}; layer {beyond[0]} is none of them")
    load = config.workload(edits=edits)
    written = Written(load=load, layers=layers, shape=shape, facts=edits * load.facts)
    recipe = _RECIPES[method.family](written) if method.family in _RECIPES else _undeclared(written, method.name)
    trained = trained_numbers(method, written)
    corpus = load.covariance.corpus if load.covariance else "self"
    return replace(
        recipe,
        layers=layers,
        trained=trained,
        dense=method.trains in ("weight", "all weights"),
        written=corpus == "self",
        contexts=load.context_tokens * token_flop(shape),
        prefix=load.rows * Prompts().length + load.context_tokens if method.trains == "value" else 0.0,
        together=min(edits, load.together),
    )


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a method says of its work, on a model: the layers that are written, and the ``facts`` of all edits."""

    load: Workload
    layers: tuple[int, ...]
    shape: ModelShape
    facts: int

    @property
    def descent(self) -> float:
        """FLOP of one fact's value; what runs once for all facts is shared by them."""
        load = self.load
        shared = round(load.context_tokens / self.facts)
        return descent_flop(self.shape, self.layers[-1], contexts=load.rows, context_tokens=shared, steps=load.steps)

    @property
    def own_keys(self) -> float:
        """FLOP of one fact's keys that are held."""
        return held_flop(self.shape, self.layers, load=self.load)

    def calls(self, *, passes: float, essences: int = 1) -> float:
        """Small calls of one fact, which takes part in so many ``passes`` a step (a share of one, with others)."""
        load, above = self.load, self.shape.layers - self.layers[-1]
        descent = descent_calls(
            steps=load.steps, rows=load.rows + essences, blocks=self.shape.layers, above=above, passes=passes
        )
        return descent + (held_calls(self.layers) if load.held else 0.0)

    @property
    def network(self) -> float:
        """FLOP of one edit's R-GNN, where there is one."""
        load, found = self.load, self.load.network
        if found is None:
            return 0.0
        layer = self.layers[-1] if found.layer is None else found.layer
        return graph_flop(self.shape, layer, hops=found.hops, per_node=found.per_node, steps=load.steps)

    @property
    def covariance(self) -> int:
        """Tokens that C is measured from; the model writes whole pieces."""
        config = self.load.covariance
        if config is None:
            return 0
        wanted, piece = config.tokens_for(self.shape.inner), SelfCorpus.rows * SelfCorpus.length
        return -(-wanted // piece) * piece if config.corpus == "self" else wanted


def trained_numbers(method: type[EditingMethod], written: Written) -> float:
    """How many numbers an optimiser holds at once: of one edit, or of all where the method is joint."""
    shape, load, width = written.shape, written.load, float(written.shape.width)
    match method.trains:
        case "value":
            return width * (written.facts if method.joint else 1)
        case "graph network":
            return graph_parameters(shape, hops=load.network.hops) if load.network else 0.0
        case "weight":
            return width * shape.inner
        case "all weights":
            return shape.block * len(written.layers)
        case "adapters":
            return 2.0 * len(written.layers) * load.matrices * load.rank * width
        case "nothing":
            return 0.0


def _rank_one(of: Written) -> Recipe:
    """A value by descent for each fact in turn, and one factor of C."""
    load, shape = of.load, of.shape
    return Recipe(
        layers=of.layers,
        each=load.facts * (of.descent + of.own_keys) + of.network,
        tokens=load.rows * Prompts().tail,
        once=cholesky_flop(shape),
        solve=held_solve_flop(shape, layers=1, keys=held_tokens(load)) if load.held else 0.0,
        calls=load.facts * of.calls(passes=1),
        covariance=of.covariance,
        facts=load.facts,
    )


def _joint(of: Written) -> Recipe:
    """Values by descent in the last layer, then a solve for all facts in each layer."""
    load, shape, layers = of.load, of.shape, len(of.layers)
    factors = eigenvectors_flop if load.eigenvectors else cholesky_flop
    keys = keys_flop(shape, of.layers, contexts=load.rows, context_tokens=load.context_tokens)
    held = held_solve_flop(shape, layers=layers, keys=of.facts * held_tokens(load)) if load.held else 0.0
    tokens = load.rows * Prompts().tail
    return Recipe(
        layers=of.layers,
        each=load.facts * (of.descent + keys + of.own_keys) + of.network,
        tokens=tokens * load.facts,
        solve=joint_solve_flop(shape, layers=layers, facts=of.facts) + held,
        calls=load.facts * of.calls(passes=max(1 / of.facts, tokens / MOST_TOKENS)),
        once=factors(shape, layers=layers),
        covariance=of.covariance,
        facts=load.facts,
    )


def _tuning(of: Written) -> Recipe:
    """Descent on weights or on their factors, back to the lowest layer."""
    each = tuning_flop(of.shape, min(of.layers), steps=of.load.steps, rows=of.load.rows)
    return Recipe(layers=of.layers, each=each, tokens=Prompts().length, facts=of.load.rank)


def _codebook(of: Written) -> Recipe:
    """One value by descent at the prompt's last token: nothing but the target comes after it, and no essence."""
    said, load, together = Prompts(), of.load, min(of.facts, of.load.together)
    own = Prompts(before=said.length - said.target, tail=said.target, target=said.target)
    sizes = {"contexts": load.rows, "context_tokens": 0, "steps": load.steps, "essences": 0}
    return Recipe(
        layers=of.layers,
        each=descent_flop(of.shape, of.layers[-1], prompts=own, **sizes),
        tokens=own.tail * together,
        calls=of.calls(passes=1 / together, essences=0),
    )


def _neurons(of: Written) -> Recipe:
    """Knowledge neurons: integrated gradients of the answer's probability, in all layers."""
    each = attribution_flop(of.shape, contexts=of.load.rows, steps=of.load.steps)
    return Recipe(layers=of.layers, each=each, tokens=of.load.rows * Prompts().tail)


def _hypernetwork(of: Written) -> Recipe:
    """One gradient of rank one a token, once the editor is trained."""
    tokens, note = Prompts().length, "training the editor (kg-edit mend train) is not counted"
    return Recipe(layers=of.layers, each=gradient_flop(of.shape), tokens=tokens, facts=tokens, notes=(note,))


def _in_context(of: Written) -> Recipe:
    """Nothing is computed when an edit is made; prompts get longer."""
    return Recipe(layers=(), each=0.0, tokens=0.0, notes=("each prompt gets longer by what is put before it",))


def _undeclared(of: Written, name: str) -> Recipe:
    """The model, its prompts, and a patch of rank one."""
    note = (
        f"the method {name} does not say how much it computes (family, workload): its edits are not counted; "
        "try it with `kg-edit edit` on one edit, and multiply"
    )
    return Recipe(layers=of.layers, each=0.0, tokens=0.0, facts=of.load.facts, notes=(note,))


_RECIPES: Mapping[Family | None, Callable[[Written], Recipe]] = {
    "rank-one": _rank_one,
    "joint": _joint,
    "fine-tuning": _tuning,
    "adapters": _tuning,
    "codebook": _codebook,
    "neurons": _neurons,
    "hypernetwork": _hypernetwork,
    "in-context": _in_context,
}
