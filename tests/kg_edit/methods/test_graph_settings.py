"""The settings ``graph.*``: which statements of a node get in, for every method that reads a graph."""

from __future__ import annotations

import re
from typing import Any

import networkx as nx
import pytest

from kg_edit.cli.method_plan import parse_settings
from kg_edit.edits.edit import Edit, Question
from kg_edit.errors import ConfigError
from kg_edit.graphs.controls import WithAnswersNamed
from kg_edit.graphs.facts import answers_in
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import SubgraphSource, subject_of
from kg_edit.methods import EditingMethod, find_method, method_names
from kg_edit.methods.graph_reader import GraphReader, GraphSettings, asked_answers, fetch_subgraph
from tests.kg_edit.methods.quick import QUICK, UNTRAINED
from tests.kg_edit.tiny import tiny
from wikidata_cache import Leakage, WikidataCache, packaged_extract
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions

READERS = [name for name in method_names() if find_method(name).needs_graph]
POLICIES = ("uniform", "relation-stratified", "inverse-hub")
LEBRON = Edit(
    id="lebron",
    subject="LeBron James",
    subject_id="Q36159",
    prompt="{} plays for the",
    relation_id="P54",
    target_new="Los Angeles Lakers",
    target_new_id="Q121783",
)
PARIS = Edit(
    id="paris",
    subject="Paris",
    subject_id="Q90",
    prompt="{} is the capital of",
    relation_id="P1376",
    target_new="Italy",
    target_new_id="Q38",
)


@pytest.fixture(scope="module")
def wikidata() -> WikidataCache:
    return WikidataCache(packaged_extract())


class Asked:
    """A graph that notes what it is asked for."""

    def __init__(self, source: WikidataCache) -> None:
        self.source, self.asked = source, list[SubgraphOptions]()

    supports = WikidataCache.supports

    def subgraph(self, edit: Edit, options: SubgraphOptions = DEFAULTS) -> nx.MultiDiGraph:
        self.asked.append(options)
        return self.source.subgraph(edit, options)


def settings(name: str, *pairs: str) -> GraphSettings:
    config = find_method(name).config_class.preset("default", parse_settings(list(pairs)), method=name)
    assert isinstance(config, GraphSettings)
    return config


def graph_method(name: str, source: SubgraphSource, *pairs: str) -> EditingMethod:
    quick = {key: value for key, value in QUICK[name].items() if key != "pool"}
    config = settings(name, *pairs)
    quick_config = type(config)(**{**quick, **{key: getattr(config, key) for key in config.model_fields_set}})
    return find_method(name)(tiny("llama"), quick_config, graph=source)


def test_methods_that_read_a_graph() -> None:
    assert {"glame", "glame-batch", "glame-plus", "rome-kg", "memit-kg", "glame-random"} <= set(READERS)
    assert all(issubclass(find_method(name), GraphReader) for name in READERS)


@pytest.mark.parametrize("name", READERS)
def test_graph_settings_reach_the_source(name: str, wikidata: WikidataCache) -> None:
    source = Asked(wikidata)
    method = graph_method(name, source, "per_node=3", "graph.policy=inverse-hub", 'graph.leakage.answers=["Q65"]')
    graph = method.subgraph(LEBRON)
    assert graph is not None and (graph.graph["policy"], "Q65" in graph) == ("inverse-hub", False)
    assert {(options.per_node, options.policy, options.leakage) for options in source.asked} == {
        (3, "inverse-hub", Leakage(("Q65",)))
    }
    recorded = method.provenance()["methods"][0]["config"]["graph"]
    assert (recorded["policy"], recorded["leakage"]["answers"]) == ("inverse-hub", ["Q65"])


def test_subgraphs_are_cached_up_to_a_limit(wikidata: WikidataCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg_edit.methods.graph_reader.SUBGRAPHS", 2)
    source = Asked(wikidata)
    method = graph_method("glame", source)
    first, second, third = (LEBRON.model_copy(update={"id": name}) for name in "abc")
    for edit, calls in ((first, 1), (first, 1), (second, 2), (first, 2), (third, 3), (second, 3), (first, 4)):
        method.subgraph(edit)
        assert len(source.asked) == calls
    checked = Asked(wikidata)
    find_method("rome-kg").check_inputs(settings("rome-kg"), checked, [first])
    assert len(checked.asked) == 1


@pytest.mark.parametrize(
    ("target", "label"),
    [
        ("Philadelphia", "Los Angeles Lakers"),
        ("Lakers", None),
        ("Los Ángeles lakers", None),  # accents, case and single words are no contradiction
    ],
)
def test_id_of_another_object_is_named(
    target: str, label: str | None, wikidata: WikidataCache, caplog: pytest.LogCaptureFixture
) -> None:
    edits = [PARIS, LEBRON.model_copy(update={"target_new": target})]
    find_method("glame").check_inputs(settings("glame"), wikidata, edits)
    expected = f"1 of 2 edits have .* 'lebron': Q121783 is '{label}', not '{target}'"
    assert [bool(re.search(expected, message)) for message in caplog.messages] == [True] * bool(label)


@pytest.mark.parametrize("name", READERS)
def test_default_settings_ask_for_a_default_subgraph(name: str, wikidata: WikidataCache) -> None:
    source = Asked(wikidata)
    assert graph_method(name, source).subgraph(LEBRON) is not None
    assert all(set(options.changed()) <= {"hops", "per_node", "seed"} for options in source.asked)


@pytest.mark.parametrize("name", READERS)
def test_saved_settings_are_read_again(name: str) -> None:
    config = settings(name, "graph.direction=both", "graph.leakage.drop_old_edge=false")
    saved = config.model_dump(mode="json")
    assert saved["graph"] == {
        "policy": "uniform",
        "direction": "both",
        "leakage": {"answers": [], "drop_old_edge": False},
        "require": False,
        "rules": None,
        "values": False,
    }
    assert type(config)(**saved) == config


@pytest.mark.parametrize("name", ["glame", "rome-kg", "glame-random"])
def test_policies_give_different_subgraphs(name: str, wikidata: WikidataCache) -> None:
    graphs = [
        graph_method(name, wikidata, "per_node=8", f"graph.policy={policy}").subgraph(PARIS) for policy in POLICIES
    ]
    statements = [frozenset(graph.edges(keys=True)) for graph in graphs if graph is not None]
    assert len(set(statements)) == 3
    assert {len(edges) for edges in statements} == {9}  # the edit's own edge, and eight statements of o*


ANSWER = Question(question="On which sea does the land lie?", answer="Adriatic", aliases=("the Adriatic Sea",))


@pytest.mark.parametrize("name", [name for name in READERS if name != "glame-plus"])
def test_exclude_answers_removes_answers_before_sampling(name: str, wikidata: WikidataCache, caplog: Any) -> None:
    """By the graph's own guard, before it samples."""
    caplog.set_level("INFO", logger="kg_edit.methods.graph_reader")
    open_, guarded = (graph_method(name, wikidata, "per_node=400", *more) for more in ((), ("exclude_answers=true",)))
    labels = sorted(str(label) for _, label in open_.subgraph(PARIS).nodes(data="label"))  # type: ignore[union-attr]
    word = next(label for label in labels if " " in label and "Italy" not in label)
    edit = PARIS.model_copy(update={"portability": (Question(question="Which?", answer=word.split()[0]),)})
    source = Asked(wikidata)
    guarded.graph = open_.graph if name == "glame-random" else source
    graph = guarded.subgraph(edit)
    assert graph is not None and not answers_in(graph, (word.split()[0],)) and len(graph) > 1
    if name != "glame-random":
        assert source.asked[0].leakage == Leakage((word.split()[0],))
        assert open_.subgraph(edit) and not caplog.records, "nothing to report of an edit of one's own"
        open_.graph = WithAnswersNamed(wikidata, names={edit.id: frozenset(asked_answers(edit))})
        open_._subgraphs.clear()  # type: ignore[attr-defined]
        met = open_.find_labels_of_answers(edit, open_.subgraph(edit))  # type: ignore[attr-defined]
        assert word in met and len(caplog.records) == 1 and "exclude_answers=true" in caplog.text


@pytest.mark.parametrize("name", ["glame", "rome-kg"])
def test_exclude_answers_samples_others_in_their_place(name: str, wikidata: WikidataCache) -> None:
    """Also of a name that only overlaps an answer, which the graph's own guard does not know."""
    open_, guarded = (graph_method(name, wikidata, "per_node=8", *more) for more in ((), ("exclude_answers=true",)))
    graph = open_.subgraph(PARIS)
    assert graph is not None
    labels = sorted(str(label) for node, label in graph.nodes(data="label") if node not in ("Q38", subject_of(graph)))
    word = next(label for label in labels if " " in label).split()[0]
    sampled = guarded.subgraph(PARIS.model_copy(update={"portability": (Question(question="Which?", answer=word),)}))
    assert sampled is not None and not answers_in(sampled, (word,))
    assert sampled.number_of_edges() == graph.number_of_edges() == 9


def test_exclude_answers_works_on_a_private_graph() -> None:
    graph = nx.MultiDiGraph()
    graph.add_edge("Italy", "Adriatic coast", label="lies on")
    graph.add_edge("Adriatic coast", "Rimini", label="has")
    graph.add_edge("Italy", "Europe", label="continent")
    edit = PARIS.model_copy(update={"target_new_id": None, "portability": (ANSWER,)})
    for name, nodes in (("glame", {"Italy", "Europe"}), ("rome-kg", {"Italy", "Europe"})):
        config = settings(name, "exclude_answers=true", *(["hops=3"] if name == "glame" else []))
        assert {node for node in fetch_subgraph(PrivateGraph(graph), edit, config) if node != "_:subject"} == nodes


def test_glame_plus_filters_answers_itself() -> None:
    """Word by word, as in runs made before: the graph is asked for everything."""
    config = settings("glame-plus")
    assert config.exclude_answers and not config.guards_answers and config.model_dump()["exclude_answers"]


def test_direction_both_adds_incoming_statements(wikidata: WikidataCache) -> None:
    out, both = (
        graph_method("glame", wikidata, "per_node=20", f"graph.direction={direction}").subgraph(PARIS)
        for direction in ("out", "both")
    )
    assert out is not None and both is not None
    assert out.in_degree("Q38") == 1 < both.in_degree("Q38")


def test_wrong_graph_has_incoming_statements(wikidata: WikidataCache) -> None:
    right, wrong = (
        graph_method(name, wikidata, "per_node=20", "graph.direction=both").subgraph(PARIS)
        for name in ("glame", "glame-random")
    )
    assert right is not None and wrong is not None
    assert wrong.degree("Q38") == right.degree("Q38")
    assert wrong.graph["direction"] == "both" and wrong.in_degree("Q38") > 1
    assert not set(wrong.edges(keys=True)) & set(right.edges(keys=True)) - {("Q90", "Q38", "P1376")}


class Own:
    """A user's own graph without options."""

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        return private().subgraph(edit)


def private() -> PrivateGraph:
    graph = nx.MultiDiGraph()
    graph.add_edge("Los Angeles Lakers", "NBA", label="league")
    graph.add_edge("Chicago Bulls", "Chicago", label="city")
    return PrivateGraph(graph)


@pytest.mark.parametrize("source", [private(), Own()], ids=["networkx", "own"])
@pytest.mark.parametrize("name", READERS)
def test_private_graph_refuses_settings_that_it_does_not_support(name: str, source: SubgraphSource) -> None:
    method = find_method(name)
    edit = LEBRON.model_copy(update={"target_new_id": None, "relation": "member of sports team"})
    pool = {"pool": ("Chicago Bulls",)} if name == "glame-random" else UNTRAINED.get(name, {})
    config = method.config_class.preset("default", pool, method=name)
    method.check_inputs(config, source, [edit])
    with_policy = method.config_class.preset("default", {**pool, "graph": {"policy": "inverse-hub"}}, method=name)
    with pytest.raises(ConfigError, match=r"does not support the setting graph\.policy.*Leave the setting out"):
        method.check_inputs(with_policy, source, [edit])
