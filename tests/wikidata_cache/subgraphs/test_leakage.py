"""No subgraph spells out what a test asks."""

from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from tests.wikidata_cache.wikidata_helpers import EDITS, SPIKE, Edit, Server, as_json, triples
from wikidata_cache import Leakage, WikidataCache
from wikidata_cache.ids import ENTITY
from wikidata_cache.subgraphs.options import SubgraphOptions

EDIT = Edit("One", "Two", "Six", subject_id="Q1", relation_id="P2", target_new_id="Q2", target_true_id="Q6")
BOTH_ENDS = ("target_new", "subject")


@pytest.mark.parametrize("answer", ["Q3", "Three", "  three ", "\uff34\uff28\uff32\uff25\uff25"])
def test_answers_stay_out(toy: WikidataCache, answer: str) -> None:
    graph = toy.subgraph(EDIT, SubgraphOptions(hops=4, leakage=Leakage(answers=(answer,))))
    assert "Q3" not in graph
    assert triples(graph) == {("Q1", "P2", "Q2"), ("Q2", "P2", "Q4"), ("Q2", "P2", "Q1")}
    assert graph.graph["dropped"]["answer"] == 2  # Q2 P1 Q3, Q4 P3 Q3
    assert graph.graph["leakage"] == {"answers": [answer], "drop_old_edge": True}


def test_merged_answer_stays_out(toy_file: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.nt"
    merged.write_text(f"<{ENTITY}Q33> <http://www.w3.org/2002/07/owl#sameAs> <{ENTITY}Q3> .\n")
    toy = WikidataCache([toy_file, merged])
    graph = toy.subgraph(EDIT, SubgraphOptions(hops=4, leakage=Leakage(answers=("Q33",))))
    assert "Q3" not in graph
    assert graph.graph["leakage"]["answers"] == ["Q33", "Q3"]


def test_offline_answer_needs_no_redirect_in_the_cache(server: Server, cache_path: str) -> None:
    online = WikidataCache(server.url, cache=cache_path).subgraph(SPIKE)
    offline = WikidataCache(cache=cache_path).subgraph(SPIKE, SubgraphOptions(leakage=Leakage(answers=("Q30",))))
    assert "Q30" in online and "Q30" not in offline


def test_absent_answers_change_nothing(toy: WikidataCache) -> None:
    plain = toy.subgraph(EDIT, SubgraphOptions(hops=4))
    guarded = toy.subgraph(EDIT, SubgraphOptions(hops=4, leakage=Leakage(answers=("Q404", "Nobody"))))
    assert triples(guarded) == triples(plain)
    assert guarded.graph["content_hash"] == plain.graph["content_hash"]


def test_answers_exempt_the_ends_of_the_edit(toy: WikidataCache) -> None:
    graph = toy.subgraph(EDIT, SubgraphOptions(leakage=Leakage(answers=("Q1", "Two"))))
    assert triples(graph) == triples(toy.subgraph(EDIT))


def test_answers_stay_out_of_incoming_statements(toy: WikidataCache) -> None:
    edit = replace(EDIT, target_new="Three", target_new_id="Q3")
    assert "Q4" in toy.subgraph(edit, SubgraphOptions(direction="both"))
    guarded = toy.subgraph(edit, SubgraphOptions(direction="both", leakage=Leakage(answers=("Four",))))
    assert "Q4" not in guarded and "Q2" in guarded


def test_old_edge_is_allowed_for_controls(toy: WikidataCache) -> None:
    control = toy.subgraph(EDIT, SubgraphOptions(roots=BOTH_ENDS, leakage=Leakage(drop_old_edge=False)))
    assert triples(control) - triples(toy.subgraph(EDIT, SubgraphOptions(roots=BOTH_ENDS))) == {("Q1", "P2", "Q6")}
    assert "old_edge" not in control.graph["dropped"]
    both = toy.subgraph(EDIT, SubgraphOptions(roots=BOTH_ENDS, leakage=Leakage(answers=("Six",), drop_old_edge=False)))
    assert "Q6" not in both


def test_answers_and_roots_may_be_iterators(toy: WikidataCache) -> None:
    answers = (answer for answer in ["Q3"])
    graph = toy.subgraph(EDIT, SubgraphOptions(roots=iter(BOTH_ENDS), leakage=Leakage(answers=answers)))  # type: ignore[arg-type]
    expected = toy.subgraph(EDIT, SubgraphOptions(roots=BOTH_ENDS, leakage=Leakage(answers=("Q3",))))
    assert as_json(graph) == as_json(expected)


def test_real_answers_stay_out(cache: WikidataCache) -> None:
    for edit in EDITS:
        open_graph = cache.subgraph(edit, SubgraphOptions(hops=3, direction="both", per_node=10))
        ends = {edit.subject_id or "_:subject", edit.target_new_id}
        answer = sorted(set(open_graph) - ends)[0]
        label = open_graph.nodes[answer]["label"].upper()
        guarded = cache.subgraph(
            edit, SubgraphOptions(hops=3, direction="both", per_node=10, leakage=Leakage(answers=(label,)))
        )
        assert answer not in guarded
        assert nx.is_weakly_connected(guarded)
