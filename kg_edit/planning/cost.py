"""What each family of methods does, as numbers: how often the model runs, what is solved, what is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kg_edit.errors import ConfigError
from kg_edit.methods import EditingMethod, MethodConfig
from kg_edit.methods.common_settings import DEPTH
from kg_edit.methods.joint_config import default_layers
from kg_edit.planning import work
from kg_edit.planning.memory import graph_parameters
from kg_edit.planning.shape import ModelShape
from kg_edit.planning.work import Prompts

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
    descent = work.descent_flop(shape, layer, contexts=contexts, context_tokens=shared, steps=config.steps)
    found = Recipe(
        layers=(layer,),
        each=facts * descent,
        tokens=contexts * Prompts().tail,
        once=work.cholesky_flop(shape),
        covariance=config.covariance.tokens or 10 * shape.inner,
        trained=float(shape.width),
        facts=facts,
    )
    return _with_graph(found, config, shape)


def _joint(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """MEMIT and what is made like it: values by descent in the last layer, then a solve in each layer."""
    layers, facts = _written(config, shape), _facts(config)
    contexts, count = 1 + len(config.context_starts), len(config.context_starts) * config.context_tokens
    descent = work.descent_flop(
        shape, layers[-1], contexts=contexts, context_tokens=round(count / (edits * facts)), steps=config.steps
    )
    factors = work.eigenvectors_flop if hasattr(config, "threshold") else work.cholesky_flop
    found = Recipe(
        layers=layers,
        each=facts * (descent + work.keys_flop(shape, layers=len(layers), contexts=contexts)),
        tokens=contexts * Prompts().tail * facts,
        solve=work.joint_solve_flop(shape, layers=len(layers), facts=edits * facts),
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
    more = work.graph_flop(shape, layer, hops=config.hops, per_node=config.per_node, steps=config.steps)
    return replace(found, each=found.each + more, trained=graph_parameters(shape, hops=config.hops))


def _tuning(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """Fine-tuning of one down-projection."""
    layer = _at(config, shape, DEPTH)
    rows = 1 + min(edits - 1, getattr(config, "replayed", 0))
    return Recipe(
        layers=(layer,),
        each=work.tuning_flop(shape, layer, steps=config.steps, rows=rows),
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
        each=work.tuning_flop(shape, min(layers), steps=config.steps),
        tokens=Prompts().length,
        trained=2.0 * matrices * config.rank * shape.width,
        facts=config.rank,
    )


def _codebook(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """GRACE: one value by descent at the prompt's last token."""
    layer = _at(config, shape, _CODEBOOK_DEPTH)
    each = work.descent_flop(shape, layer, contexts=1, context_tokens=0, steps=config.steps)
    return Recipe(layers=(layer,), each=each, tokens=Prompts().target, trained=float(shape.width))


def _neurons(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """KN: attributions in all layers."""
    contexts = 1 + sum(count for _, count in config.context_lengths)
    each = work.attribution_flop(shape, contexts=contexts, steps=config.steps)
    return Recipe(layers=config.layers or tuple(range(shape.layers)), each=each, tokens=contexts * Prompts().tail)


def _hypernetwork(config: Any, shape: ModelShape, edits: int) -> Recipe:
    """MEND, once its editor is trained."""
    layers = tuple(range(max(0, shape.layers - config.blocks), shape.layers))
    note = "training the editor (kg-edit mend train) is not counted"
    return Recipe(layers=layers, each=work.gradient_flop(shape), tokens=Prompts().length, facts=10, notes=(note,))


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
