"""The ablations are GLAME with one part out, and can't be anything else; the control sees a wrong graph."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
import torch

from kg_edit.graphs.facts import target_of
from kg_edit.methods import find_method
from kg_edit.methods.glame.method import Glame, GlameConfig
from kg_edit.methods.glame.variants import POOL, GlameRandom, GlameRandomConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.methods.test_methods import EDIT, delta, graph, method
from tests.kg_edit.tiny import tiny
from wikidata_cache import WikidataCache, packaged_extract

SETTINGS: dict[str, Any] = {"layer": 1, "steps": 4, "further_steps": 0, "context_lengths": ((4, 1),)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "ablation"),
    keep_first([("glame-mlp", {"use_graph": False}), ("glame-gnn", {"relations": False})], unpack=True),
)
def test_ablation_is_glame_with_one_setting_off(name: str, ablation: dict[str, bool]) -> None:
    model = tiny("llama")
    patch = method(name, model).edit([EDIT])
    assert torch.equal(delta(patch), delta(method("glame", model, **ablation).edit([EDIT])))
    assert not torch.equal(delta(patch), delta(method("glame", model).edit([EDIT])))
    assert patch.provenance["methods"][0]["name"] == name and patch.edits[0]["method"] == name


@pytest.mark.parametrize("name", ["glame-mlp", "glame-gnn"])
def test_ablation_has_no_gate_in_the_papers_preset(name: str) -> None:
    assert find_method(name).config_class.preset("paper").model_dump()["gate"] is False


@pytest.mark.parametrize("name", ["glame-mlp", "glame-gnn", "glame-random"])
def test_variants_have_the_published_settings_of_glame(name: str) -> None:
    published = find_method("glame").config_class.preset("gpt2-xl", method="glame").model_dump()
    settings = find_method(name).config_class.preset("gpt2-xl", method=name).model_dump()
    differs = {key for key, value in published.items() if settings[key] != value}
    assert differs <= {"use_graph", "relations"}


def cities() -> nx.MultiDiGraph:
    rivers = nx.MultiDiGraph()
    for city, river in (("Los Angeles Lakers", "none"), ("Oslo", "Aker"), ("Bonn", "Rhine")):
        rivers.add_edge(city, river, label="river")
    rivers.add_node("Nowhere")
    return rivers


def control(model: LanguageModel, *pool: str) -> GlameRandom:
    config = GlameRandomConfig(**SETTINGS, pool=pool, covariance={"tokens": 200})  # type: ignore[arg-type]
    return GlameRandom(model, config, graph=cities())


def test_control_reads_other_statements() -> None:
    chosen = control(tiny("llama"), "Oslo", "Bonn")
    subgraph = chosen.subgraph(EDIT)
    ends = {subgraph.nodes[end]["label"] for end in subgraph.successors(target_of(subgraph))}
    assert len(ends) == 1 and ends <= {"Aker", "Rhine"}
    assert chosen.graph_identity is not None and chosen.graph_identity["kind"] == "wrong graph"
    wider = control(tiny("llama"), "Oslo", "Bonn", "Paris")
    assert wider.graph_identity != chosen.graph_identity


def test_default_pool_is_in_the_packaged_extract() -> None:
    edit = EDIT.model_copy(update={"target_new_id": "Q121783", "relation": "member of sports team"})
    GlameRandom.check_inputs(GlameRandomConfig(per_node=3), WikidataCache(packaged_extract()), [edit])
    assert len(set(POOL)) == len(POOL)


class NearGlame(Glame):
    """GLAME with one more term of the loss: 1000 (1 - cos(m*, m))."""

    def penalty(self, change: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return 1000 * (1 - torch.cosine_similarity(value + change, value, dim=-1))


def test_penalty_of_a_subclass_is_a_term_of_the_loss() -> None:
    model, records = tiny("llama"), []
    for kind in (Glame, NearGlame):
        config = GlameConfig.preset("default", {**QUICK["glame"], "steps": 10})
        (patch,) = kind(model, config, graph=graph()).edit_each([EDIT])
        assert isinstance(patch, Patch)
        records.append(patch.edits[0])
    plain, near = records
    assert near["norms"]["change"] < 0.5 * plain["norms"]["change"]
    assert plain["loss_after"] == pytest.approx(
        plain["nll_after"] + GlameConfig().kl_weight * plain["kl_after"], abs=1e-4
    )
    assert near["loss_after"] > near["nll_after"] + GlameConfig().kl_weight * near["kl_after"]
