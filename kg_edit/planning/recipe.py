"""Describe the work of each family of methods in numbers: how often the model runs, what is solved, what is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from kg_edit.covariance.corpora import SelfCorpus
from kg_edit.errors import ConfigError
from kg_edit.locate_then_edit.objective import MOST_TOKENS
from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.methods.workload import Family, Workload
from kg_edit.planning.calls import codebook_calls, descent_calls, held_calls, written_calls
from kg_edit.planning.cost import (
    Prompts,
    attribution_flop,
    cholesky_flop,
    descent_flop,
    eigenvectors_flop,
    gradient_flop,
    graph_flop,
    held_flop,
    held_solve_flop,
    held_tokens,
    joint_solve_flop,
    keys_flop,
    token_flop,
    tuning_flop,
)
from kg_edit.planning.memory import graph_parameters, optimiser_bytes
from kg_edit.planning.shape import ModelShape


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The work of a method in numbers.

    ``layers`` are those that are written, or to which the backward pass goes. FLOP: ``each`` for an edit, ``solve`` for
    a batch, ``once`` for a run, the last two in float64; ``contexts`` for writing contexts, once a run. ``covariance``
    is the number of tokens from which C is measured (0: no C); if ``written``, the model itself writes their text.
    ``trained`` is the number of values in the optimiser, ``tokens`` the tokens of an edit's rows, ``facts`` the rank of
    one edit's update, ``dense`` whether a patch has whole matrices. ``prefix`` is the number of tokens of a fact whose
    keys and values are held, in ``rows`` rows; ``kept`` is the number of tokens of an edit whose keys and values are
    kept for later edits. ``calls`` is the number of small calls for an edit, ``together`` the number of edits in the
    same passes without being joint.
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
    rows: int = 0
    kept: int = 0
    calls: float = 0.0
    together: int = 1
    trained: float = 0.0
    facts: int = 1
    dense: bool = False
    notes: tuple[str, ...] = ()


def recipe_of(method: type[EditingMethod], config: MethodConfig, shape: ModelShape, *, edits: int) -> Recipe:
    """The recipe of a method with its settings, for a run of ``edits``, from what its class and its config declare.

    If a method's class declares no family, only the model and the check of the edits are counted; a note says so.

    Raises:
        ConfigError: the model has no such layer.
    """
    layers = config.written_layers(shape.layers)
    if beyond := [layer for layer in layers if not 0 <= layer < shape.layers]:
        raise ConfigError(f"there is no layer {beyond[0]}: {shape.name} has layers 0 to {shape.layers - 1}")
    load = config.workload(edits=edits)
    own = layers[:1] if method.family == "rank-one" else layers[-1:]
    written = Written(load=load, layers=layers, searched=own[0] if own else 0, shape=shape, facts=edits * load.facts)
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
        rows=load.rows + 1,
        kept=load.kept,
        together=min(edits, load.together),
    )


@dataclass(frozen=True, kw_only=True)
class Written:
    """The work that a method declares, on a model: the layers that are written, and the ``facts`` of all edits.

    The values are those of the layer ``searched``: the last one that is written, but the first one of a rank-one
    method, which may write a late layer too (`glame-plus`).
    """

    load: Workload
    layers: tuple[int, ...]
    searched: int
    shape: ModelShape
    facts: int

    @property
    def descent(self) -> float:
        """FLOP of one fact's value; the work that is done once for all facts is shared."""
        load = self.load
        shared = round(load.context_tokens / self.facts)
        return descent_flop(self.shape, self.searched, contexts=load.rows, context_tokens=shared, steps=load.steps)

    @property
    def own_keys(self) -> float:
        """FLOP of one fact's held keys."""
        return held_flop(self.shape, self.layers, load=self.load)

    def calls(self, *, passes: float, essences: int = 1) -> float:
        """Small calls of one fact, which takes part in ``passes`` passes a step (a share of one, with others)."""
        load, above = self.load, self.shape.layers - self.searched
        descent = descent_calls(
            steps=load.steps, rows=load.rows + essences, blocks=self.shape.layers, above=above, passes=passes
        )
        return descent + (held_calls(self.layers, passes=min(1.0, passes)) if load.held else 0.0)

    @property
    def network(self) -> float:
        """FLOP of one edit's R-GNN; 0 without one."""
        load, found = self.load, self.load.network
        if found is None:
            return 0.0
        layer = self.searched if found.layer is None else found.layer
        return graph_flop(self.shape, layer, hops=found.hops, per_node=found.per_node, steps=load.steps)

    @property
    def covariance(self) -> int:
        """Tokens from which C is measured; a model that writes them writes whole pieces."""
        config = self.load.covariance
        if config is None:
            return 0
        wanted, piece = config.tokens_for(self.shape.inner), SelfCorpus.rows * SelfCorpus.length
        return -(-wanted // piece) * piece if config.corpus == "self" else wanted


def trained_numbers(method: type[EditingMethod], written: Written) -> float:
    """The number of values that an optimiser holds at once: of one edit, or of all edits if the method is joint."""
    shape, load, width = written.shape, written.load, float(written.shape.width)
    match method.trains:
        case "value":
            return width * (written.facts if method.joint else 1)
        case "graph network":
            each = graph_parameters(shape, hops=load.network.hops) if load.network else 0.0
            return each * (_at_once(method, each, facts=written.facts) if each and method.joint else 1)
        case "weight":
            return width * shape.inner
        case "all weights":
            return shape.block * len(written.layers)
        case "adapters":
            return 2.0 * len(written.layers) * load.matrices * load.rank * width
        case "nothing":
            return 0.0


def _at_once(method: type[EditingMethod], parameters: float, *, facts: int) -> int:
    """The facts of a batch that are trained at once: as many as fit into the method's memory, at least one."""
    return max(1, min(facts, int(method.memory * 1e6 / optimiser_bytes(parameters))))


def _rank_one(of: Written) -> Recipe:
    """A value by descent for each fact in turn, and one factorisation of C."""
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
    calls = of.calls(passes=max(1 / of.facts, tokens / MOST_TOKENS)) + written_calls(layers=layers, facts=of.facts)
    return Recipe(
        layers=of.layers,
        each=load.facts * (of.descent + keys + of.own_keys) + of.network,
        tokens=tokens * load.facts,
        solve=joint_solve_flop(shape, layers=layers, facts=of.facts) + held,
        calls=load.facts * calls,
        once=factors(shape, layers=layers),
        covariance=of.covariance,
        facts=load.facts,
    )


def _tuning(of: Written) -> Recipe:
    """Descent on weights or on their factors; the backward pass goes down to the lowest layer."""
    each = tuning_flop(of.shape, min(of.layers), steps=of.load.steps, rows=of.load.rows)
    return Recipe(layers=of.layers, each=each, tokens=Prompts().length, facts=of.load.rank)


def _codebook(of: Written) -> Recipe:
    """One value by descent at the prompt's last token: only the target comes after it, and there is no essence."""
    said, load, together = Prompts(), of.load, min(of.facts, of.load.together)
    own = Prompts(before=said.length - said.target, tail=said.target, target=said.target)
    sizes = {"contexts": load.rows, "context_tokens": 0, "steps": load.steps, "essences": 0}
    return Recipe(
        layers=of.layers,
        each=descent_flop(of.shape, of.layers[-1], prompts=own, **sizes),
        tokens=own.tail * together,
        calls=of.calls(passes=1 / together, essences=0) + codebook_calls(facts=of.facts),
    )


def _neurons(of: Written) -> Recipe:
    """Knowledge neurons: integrated gradients of the answer's probability, in all layers."""
    each = attribution_flop(of.shape, contexts=of.load.rows, steps=of.load.steps)
    return Recipe(layers=of.layers, each=each, tokens=of.load.rows * Prompts().tail)


def _hypernetwork(of: Written) -> Recipe:
    """One gradient of rank one for each token, once the editor is trained."""
    tokens, note = Prompts().length, "training the editor (kg-edit mend train) is not counted"
    return Recipe(layers=of.layers, each=gradient_flop(of.shape), tokens=tokens, facts=tokens, notes=(note,))


def _in_context(of: Written) -> Recipe:
    """Nothing is computed when an edit is made, but prompts get longer."""
    return Recipe(
        layers=(),
        each=0.0,
        tokens=0.0,
        notes=("each prompt gets longer by the text that is put before it",),
    )


def _undeclared(of: Written, name: str) -> Recipe:
    """Only the model, its prompts, and a patch of rank one."""
    note = (
        f"the method {name} does not declare how much it computes (family, workload), so its edits are not counted; "
        "measure one edit with `kg-edit edit`, and multiply"
    )
    return Recipe(layers=of.layers, each=0.0, tokens=0.0, facts=of.load.facts, notes=(note,))


_RECIPES: Mapping[Family | None, Callable[[Written], Recipe]] = {
    "rank-one": _rank_one,
    "joint": _joint,
    "fine-tuning": _tuning,
    "low-rank": _tuning,
    "adapter": _tuning,
    "codebook": _codebook,
    "neurons": _neurons,
    "hypernetwork": _hypernetwork,
    "in-context": _in_context,
}
