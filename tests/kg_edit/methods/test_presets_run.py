"""A preset run as published, and what it did: layers, steps, weights on the losses, contexts, covariance, clamp.

The model is the published one with narrow layers: it has as many blocks, so that every layer is the published one and
no setting is changed. C is made up, of the tokens that are asked for only the number is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig
from kg_edit.edits.edit import Edit
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.locate_then_edit.descent import Delta, Descent, Stops, descend
from kg_edit.locate_then_edit.objective import Objective
from kg_edit.methods import find_method, value_method
from kg_edit.methods.alphaedit import method as alphaedit
from kg_edit.methods.memit import joint_method
from kg_edit.methods.memit import method as memit
from kg_edit.methods.presets import read_presets
from kg_edit.methods.rome import method as rome
from kg_edit.models import sampling
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.emmet import method as emmet
from tests.kg_edit.methods.test_presets import EDIT, EVERY, graph, names
from tests.kg_edit.tiny import byte_level
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions

NARROW = {
    **{"n_embd": 16, "n_head": 2, "n_positions": 128, "rotary_dim": 4, "vocab_size": 400},
    **{"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1},
    **{"max_position_embeddings": 128, "head_dim": 8},
}
RANK_ONE, JOINT = ("rome", "r-rome", "glame"), ("memit", "emmet", "alphaedit")


def every(*methods: str) -> Any:
    """The presets of ``methods``; all are slow, as their models are deep and their steps many."""
    keys = [(model, key) for model, key in EVERY if key.partition(":")[0] in methods]
    cases = [pytest.param(*key, marks=pytest.mark.slow, id="-".join(key)) for key in keys]
    return pytest.mark.parametrize(("model", "key"), cases)


@dataclass
class Source:
    """A graph that notes how much of it was asked for."""

    asked: list[tuple[int, int]] = field(default_factory=list)

    supports = frozenset(("hops", "per_node", "seed"))

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        self.asked.append((options.hops, options.per_node))
        return PrivateGraph(graph()).subgraph(edit, options)


@dataclass
class Seen:
    """What was done on the way to a patch."""

    patch: WeightPatch | Any = None
    model: LanguageModel | Any = None
    source: Source = field(default_factory=Source)
    sampled: list[tuple[int, int]] = field(default_factory=list)  # texts, new tokens of each
    optimisers: set[tuple[str, float, float]] = field(default_factory=set)  # class, learning rate, weight decay
    covariances: list[tuple[list[int], CovarianceConfig]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)  # on the diagonal of a joint solve
    objective: Objective | Any = None
    descent: Descent | Any = None
    limit: float | None = None  # what the change's norm is kept within


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    record = Seen()
    _note_sampling_and_optimisers(record, monkeypatch)
    _note_covariances(record, monkeypatch)

    def descended(objective: Objective, change: Delta, stops: Stops) -> list[Descent]:
        descents = descend(objective, change, stops)
        record.objective, record.descent = objective, descents[0]
        if hasattr(change, "_limit"):
            record.limit = float(change._limit[0])
        elif hasattr(change, "_value_norm"):  # GLAME's R-GNNs
            record.limit = change._config.clamp_norm_factor * float(change._value_norm[0])
        return descents

    for module in (rome, joint_method):
        monkeypatch.setattr(module, "descend", descended)
    for module in (memit, emmet, alphaedit):
        original = module.joint_directions

        def noting(*systems: Tensor, weight: float, original: Any = original, **options: Any) -> Tensor:
            record.weights.append(weight)
            directions: Tensor = original(*systems, weight=weight, **options)
            return directions

        monkeypatch.setattr(module, "joint_directions", noting)
    return record


def _note_sampling_and_optimisers(record: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    write = sampling.continue_text

    def writing(model: LanguageModel, ids: Tensor, mask: Tensor, *, tokens: int, **settings: Any) -> Tensor:
        record.sampled.append((len(ids), tokens))
        return write(model, ids, mask, tokens=tokens, **settings)

    monkeypatch.setattr(sampling, "continue_text", writing)
    for name in ("Adam", "AdamW"):
        monkeypatch.setattr(torch.optim, name, partial(_noted, record, name, getattr(torch.optim, name)))


def _noted(record: Seen, name: str, optimiser: Any, *args: Any, **settings: Any) -> Any:
    instance = optimiser(*args, **settings)
    record.optimisers.add((name, instance.defaults["lr"], instance.defaults["weight_decay"]))
    return instance


def _note_covariances(record: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    def several(model: LanguageModel, layers: Iterable[int], config: CovarianceConfig, **_: Any) -> Any:
        record.covariances.append((list(layers), config))
        size = weight_matrix(model.down_projection(0)).shape[1]
        rows = torch.randn(size, size // 2, generator=torch.Generator().manual_seed(0))
        moment = rows @ rows.T / size  # of half rank: AlphaEdit's null space
        return {layer: Covariance(moment=moment, tokens=1, ridge=1e-2, id="toy") for layer in layers}

    monkeypatch.setattr(value_method, "find_covariances", several)


def run(seen: Seen, model: str, key: str) -> dict[str, Any]:
    """Make an edit by the preset as it stands; its published settings."""
    method, preset = names(model, key)
    chosen, table = find_method(method), read_presets(model)
    config = chosen.config_class.preset(preset, method=method)
    seen.model = narrow(table.config)
    seen.patch = chosen(seen.model, config, graph=seen.source).edit([EDIT])
    return dict(table.methods[key].settings)


def narrow(published: dict[str, Any]) -> LanguageModel:
    """A random model with the published number of blocks, and a real tokenizer."""
    options = {name: NARROW.get(name, value) for name, value in published.items() if name != "model_type"}
    config = AutoConfig.for_model(published["model_type"], bos_token_id=0, eos_token_id=1, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.25)
    return LanguageModel.wrap(model, byte_level(), name="narrow")


def check_descent(seen: Seen, settings: dict[str, Any], *, norm_weight: float) -> None:
    """Steps until the loss is small enough; the loss's parts with their weights; the clamp."""
    losses, enough = seen.descent.losses, settings["stop_below"]
    passes = losses[:-1] if settings.get("dropout") else losses  # then the last evaluation is one without dropout
    assert all(total >= enough for total, _, _ in passes[:-1])
    most = settings["steps"] + settings.get("further_steps", 0)  # the random model's target is never the likeliest
    assert len(passes) == most or (len(passes) < most and passes[-1][0] < enough)
    assert seen.objective.kl_weight == settings["kl_weight"]
    (total, nll, kl), clean = losses[-1], float(seen.objective.states[0].norm())
    change = float(seen.descent.change.norm())
    expected = nll + settings["kl_weight"] * kl + norm_weight * change / clean**2
    assert total == pytest.approx(expected, rel=1e-4, abs=1e-5) and kl > 0
    assert seen.limit == pytest.approx(settings["clamp_norm_factor"] * clean, rel=1e-5)
    assert change <= seen.limit * 1.0001


@every(*RANK_ONE)
def test_preset_of_a_rank_one_method_is_followed(model: str, key: str, seen: Seen) -> None:
    settings = run(seen, model, key)
    layer, lengths = settings["layer"], settings["context_lengths"]
    assert list(seen.patch.factors) == [seen.model.weight_name(layer)]
    assert seen.covariances == [([layer], CovarianceConfig())]
    assert seen.sampled[: len(lengths)] == [(count, tokens - 1) for tokens, count in lengths]  # and the start token
    contexts = seen.patch.provenance["methods"][0]["contexts"]
    assert len(contexts) == 1 + sum(count for _, count in lengths) and contexts[0] == "{}"
    assert len(set(contexts)) > 0.9 * len(contexts)  # a random model may write a short text twice
    if key.startswith("glame"):
        assert seen.optimisers == {("AdamW", settings["learning_rate"], settings["weight_decay"])}
        assert seen.source.asked == [(settings["hops"], settings["per_node"])]
        check_descent(seen, settings, norm_weight=0.0)
    else:
        assert seen.optimisers == {("Adam", settings["learning_rate"], 0)}
        check_descent(seen, settings, norm_weight=settings["weight_decay"])


@every(*JOINT)
def test_preset_of_a_joint_method_is_followed(model: str, key: str, seen: Seen) -> None:
    settings = run(seen, model, key)
    layers = settings.get("layers") or [settings["layer"]]
    assert list(seen.patch.factors) == [seen.model.weight_name(layer) for layer in layers]
    assert seen.covariances == [(layers, CovarianceConfig())]
    starts, tokens = settings["context_starts"], settings["context_tokens"]
    shortest = min(len(seen.model.tokenizer(start, add_special_tokens=False)["input_ids"]) for start in starts)
    assert seen.sampled == [(len(starts), tokens - shortest)]
    bare, *others = seen.patch.provenance["methods"][0]["contexts"]
    assert bare == "{}" and [other.startswith(start) for start, other in zip(starts, others, strict=True)]
    weight = settings.get("mom2_weight") or settings.get("ridge")
    assert seen.weights == [weight] * len(layers) if weight else len(seen.weights) == 1
    assert seen.optimisers == {("Adam", settings["learning_rate"], 0)}
    check_descent(seen, settings, norm_weight=settings["weight_decay"])
