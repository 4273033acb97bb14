"""The setting ``graph.rules``: methods read what follows from the edit instead of all that is around it."""

from pathlib import Path

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, GraphError
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.methods.composed_facts import implied_facts, objects_of
from kg_edit.methods.glame.method import GlameConfig
from kg_edit.methods.graph_reader import fetch_subgraph
from kg_edit.methods.rome_kg.method import RomeKgConfig
from kg_edit.storage.setting_fields import input_files
from wikidata_cache import WikidataCache

LABELS = {
    "Q2": "Bob", "Q13": "Lyon", "Q22": "France", "Q41": "Turin", "Q51": "euro",
    "P19": "place of birth", "P17": "country", "P190": "twinned body", "P27": "country of citizenship",
}  # fmt: skip
EDIT = Edit(
    id="1", subject="Bob", subject_id="Q2", prompt="{} was born in", relation="place of birth", relation_id="P19",
    target_new="Lyon", target_new_id="Q13",
)  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> WikidataCache:
    rows = ["Q13\tP17\tQ22", "Q13\tP190\tQ41", "Q22\tP17\tQ22"]
    rows += [f"{name}\tlabel\t{label}" for name, label in LABELS.items()]
    (tmp_path / "graph.tsv").write_text("\n".join(rows) + "\n")
    return WikidataCache(tmp_path / "graph.tsv")


@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "rules.tsv").write_text("rule\tsupport\tconfidence\nP19(x,y) & P17(y,z) => P27(x,z)\t90\t0.85\n")
    return str(tmp_path / "rules.tsv")


def test_rome_kg_edits_what_must_change(source: WikidataCache, rules: str) -> None:
    config = RomeKgConfig(graph={"rules": rules})
    blind = RomeKgConfig().facts(EDIT, fetch_subgraph(source, EDIT, RomeKgConfig()))
    (fact,) = config.facts(EDIT, fetch_subgraph(source, EDIT, config))
    assert {fact.object for fact in blind} == {"France", "Turin"} and {fact.subject for fact in blind} == {"Lyon"}
    assert (fact.subject, fact.relation, fact.object) == ("Bob", "country of citizenship", "France")
    assert fact.as_edit("1/1").text.startswith("Bob ")


def test_glame_reads_premise_and_consequence(source: WikidataCache, rules: str) -> None:
    config = GlameConfig(graph={"rules": rules})
    graph = fetch_subgraph(source, EDIT, config)
    assert sorted(data["role"] for _, _, data in graph.edges(data=True)) == ["consequence", "edit", "statement"]
    assert graph.graph["consequences"][0]["rule"] == "P19(x,y) & P17(y,z) => P27(x,z)"
    assert implied_facts(graph, exclude=())[0].target == "France"
    assert list(objects_of(EDIT, graph, exclude=()).values()) == [["France"]]
    assert implied_facts(graph, exclude=("France",)) == []


def test_another_table_of_rules_is_another_run(rules: str) -> None:
    first = input_files(RomeKgConfig(graph={"rules": rules}))
    Path(rules).write_text(Path(rules).read_text().replace("0.85", "0.75"))
    assert list(first) == ["graph.rules"] and input_files(RomeKgConfig(graph={"rules": rules})) != first


def test_wrong_rules_are_refused(source: WikidataCache, rules: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"graph\.rules: .*absent\.tsv can't be read"):
        fetch_subgraph(source, EDIT, GlameConfig(graph={"rules": str(tmp_path / "absent.tsv")}))
    private = PrivateGraph(nx.MultiDiGraph([("Lyon", "France", {"label": "country"})]))
    with pytest.raises(ConfigError, match=r"does not support the setting graph\.rules"):
        fetch_subgraph(private, EDIT, GlameConfig(graph={"rules": rules}))


def test_statements_that_no_rule_reads_are_not_missing(source: WikidataCache, rules: str) -> None:
    mother = EDIT.model_copy(update={"relation": "mother", "relation_id": "P25"})
    with pytest.raises(GraphError, match=r"no rule of .*rules\.tsv adds a fact to it; .* 2 statements of o\*"):
        fetch_subgraph(source, mother, GlameConfig(graph={"rules": rules, "require": True}))
