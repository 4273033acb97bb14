"""The graph that an evaluation lets a method read: without the answers of the probes, where the settings ask for it."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.evaluation.cli.evaluation_graph import graph_for, guard_graph
from kg_edit.graphs.controls import hidden_answers, probe_answers
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import graph_identity
from kg_edit.methods import find_method
from kg_edit.methods.composed_facts import Answer, objects_of
from kg_edit.methods.glame_plus.questions import RippleTargets, TeacherQuestion, excluded_answers
from kg_edit.methods.graph_reader import fetch_subgraph
from tests.kg_edit.tiny import tiny
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.subgraphs.options import SubgraphOptions

EDIT = Edit(id="1", subject="Ann", prompt="{} lives in", relation_id="P27", target_new="Italy")
ASKED = Query(prompt="What is the capital of the country of Ann?", answers=(("Rome",),))
RECORD = BenchmarkRecord(id="1", edits=(EDIT,), probes=(Probe(measures="multihop", queries=(ASKED,)),))


def facts() -> PrivateGraph:
    graph = nx.MultiDiGraph()
    graph.add_edge("Italy", "Rome", label="P36")
    graph.add_edge("Italy", "Europe", label="P30")
    return PrivateGraph(graph)


@pytest.mark.parametrize("name", ["glame-plus", "glame", "rome-kg"])
def test_answers_of_probes_are_left_out(name: str) -> None:
    """As `exclude_answers` asks, which glame-plus sets by default."""
    kind = find_method(name).config_class
    for excluded in (True, False):
        config: Any = kind.preset("default", {"exclude_answers": excluded})
        source = guard_graph(facts(), config, [RECORD])
        assert source is not None
        graph = fetch_subgraph(source, EDIT, config)
        assert ("Rome" in graph) is not excluded and "Europe" in graph
    assert kind.preset("default").exclude_answers is (name == "glame-plus")  # type: ignore[attr-defined]


@pytest.mark.parametrize("excluded", [True, False])
def test_random_graph_works_behind_a_guard(excluded: bool) -> None:
    graph = WikidataCache(packaged_extract())
    edit = Edit(id="1", subject="Ann", prompt="{} lives in", relation_id="P27", target_new="Italy", target_new_id="Q38")
    record = RECORD.model_copy(update={"edits": (edit,)})
    chosen = find_method("glame-random")
    config: Any = chosen.config_class.preset("default", {"exclude_answers": excluded, "per_node": 4})
    source = guard_graph(graph, config, [record])
    method: Any = chosen(tiny("llama"), config, graph=source)
    plain: Any = chosen(tiny("llama"), config, graph=graph)
    assert set(method.subgraph(edit)) == set(plain.subgraph(edit)) and len(plain.subgraph(edit)) == 6


def test_subgraph_is_the_same_if_the_answers_are_only_named() -> None:
    config: Any = find_method("glame").config_class.preset("default")
    source = guard_graph(facts(), config, [RECORD])
    assert source is not None and probe_answers(source, EDIT) == ("Rome",) and hidden_answers(source, EDIT) == ()
    named, plain = fetch_subgraph(source, EDIT, config), fetch_subgraph(facts(), EDIT, config)
    assert named.graph == plain.graph and set(named.edges(keys=True)) == set(plain.edges(keys=True))
    assert graph_identity(source) == graph_identity(facts())


def test_glame_plus_learns_no_answer_of_a_probe() -> None:
    config: Any = find_method("glame-plus").config_class.preset("default")
    source = guard_graph(facts(), config, [RECORD])
    assert source is not None
    objects = objects_of(EDIT, fetch_subgraph(source, EDIT, config), exclude=excluded_answers(EDIT, config))
    assert [label for labels in objects.values() for label in labels] == ["Europe"]


def test_glame_plus_learns_no_answer_of_a_probe_from_the_model() -> None:
    """The unedited model may know the answer too, which no graph can leave out."""
    config: Any = find_method("glame-plus").config_class.preset("default")
    source = guard_graph(facts(), config, [RECORD])
    targets = RippleTargets(edit=EDIT, objects={}, config=config, excluded=excluded_answers(EDIT, config, source))
    question = TeacherQuestion(noun="capital", of="Italy", examples=())
    rome, milan = (Answer(text=text, ids=(), soft_target=None) for text in ("Rome", "Milan"))
    assert targets.fact_to_learn(question, rome) is None
    assert targets.fact_to_learn(question, milan) is not None
    assert excluded_answers(EDIT, config, facts()) == []


def test_answers_of_probes_take_no_place_in_the_sample() -> None:
    """The guard of the right graph leaves them out before statements are drawn, as it does an edit's own answers."""
    edit = Edit(id="1", subject="Ann", prompt="{} lives in", relation_id="P27", target_new="Italy", target_new_id="Q38")
    graph = WikidataCache(packaged_extract())
    unguarded = graph.subgraph(edit, SubgraphOptions(hops=2, per_node=8, seed=0))
    names = [str(label) for _, end, label in _labelled(unguarded)][:4]
    probes = (Probe(measures="multihop", queries=(Query(prompt="Where?", answers=(tuple(names),)),)),)
    config: Any = find_method("glame").config_class.preset("default", {"exclude_answers": True, "per_node": 8})
    source = guard_graph(graph, config, [BenchmarkRecord(id="1", edits=(edit,), probes=probes)])
    assert source is not None
    subgraph = fetch_subgraph(source, edit, config)
    assert not set(names) & {label for _, label in subgraph.nodes(data="label")}
    assert len(_labelled(subgraph)) == len(_labelled(unguarded)) == 8


def _labelled(graph: nx.MultiDiGraph) -> list[tuple[str, str, str]]:
    """The statements about o* that were sampled, with the object's label."""
    root = next(node for node, data in graph.nodes(data=True) if data.get("role") == "target_new")
    return [(root, end, graph.nodes[end]["label"]) for _, end, data in graph.out_edges(root, data=True)]


@pytest.mark.parametrize("control", [None, "wrong", "shuffled", "none"])
def test_no_control_states_a_withheld_answer(control: str | None) -> None:
    """The statements of another record's o* may name it: here both countries use the euro."""
    shared = nx.MultiDiGraph()
    for country, capital in (("Italy", "Rome"), ("France", "Paris"), ("Spain", "Madrid")):
        shared.add_edge(country, "euro", label="P38")
        shared.add_edge(country, capital, label="P36")
    query = Query(prompt="What is the currency of the country of Ann?", answers=(("euro",),))
    hidden = (Probe(measures="ripples-unknown.withheld", queries=(query,)),)
    others = [
        BenchmarkRecord(id=number, edits=(EDIT.model_copy(update={"id": number, "target_new": name}),))
        for number, name in (("2", "France"), ("3", "Spain"))
    ]
    source = graph_for(PrivateGraph(shared), [RECORD.model_copy(update={"probes": hidden}), *others], control)
    assert source is not None
    graph = source.subgraph(EDIT)
    assert "euro" not in graph
    assert ("Rome" in graph) is (control is None)
    assert {"Paris", "Madrid"} & set(graph) or control not in ("wrong", "shuffled")
