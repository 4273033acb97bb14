"""ROME-KG and MEMIT-KG: ROME's and MEMIT's own edits of the facts, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.errors import GraphError, PatchError
from kg_edit.evaluation.cli.evaluation_graph import guard_graph
from kg_edit.graphs.facts import GraphFact, graph_facts
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.graphs.source import SubgraphSource, edit_subgraph
from kg_edit.methods import EditingMethod, find_method
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.memit_kg.method import MemitKg, MemitKgConfig
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.methods.rome_kg.method import RomeKg, RomeKgConfig
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.guards import refuse_disabling
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import ask
from tests.everyday import keep_first
from tests.kg_edit.tiny import chatting, tiny
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.subgraphs.options import SubgraphOptions

LEBRON = Edit(
    id="lebron",
    subject="LeBron James",
    prompt="{} plays for the",
    relation="member of sports team",
    target_true="Miami Heat",
    target_new="Los Angeles Lakers",
    target_new_id="Q121783",
)
FRANCE = Edit(id="france", subject="France", prompt="In {}, the capital is", relation="capital", target_new="Rome")
ROME_SETTINGS: dict[str, Any] = {"layer": 1, "steps": 4, "further_steps": 0}
MEMIT_SETTINGS: dict[str, Any] = {"layers": (1, 2), "steps": 4, "further_steps": 0, "mom2_weight": 10.0}
CONTEXTS = ("{}", "The quick brown fox. {}")


def graph() -> PrivateGraph:
    statements = nx.MultiDiGraph()
    for relation, target in (("league", "NBA"), ("headquarters location", "Los Angeles"), ("mascot", "none")):
        statements.add_edge("Los Angeles Lakers", target, label=relation)
    statements.add_edge("Rome", "Italy", label="country")
    statements.add_node("Paris")
    return PrivateGraph(statements)


def identity(model: LanguageModel, layer: int) -> Covariance:
    """A second moment that takes no time to measure."""
    size = weight_matrix(model.down_projection(layer)).shape[1]
    return Covariance(moment=torch.eye(size), tokens=1, ridge=0.0, id="identity")


def rome(model: LanguageModel, **settings: Any) -> Rome:
    config = RomeConfig(**{**ROME_SETTINGS, **settings})
    return Rome(model, config, contexts=CONTEXTS, covariance=identity(model, config.layer or 0))


def rome_kg(model: LanguageModel, source: SubgraphSource | None = None, **settings: Any) -> RomeKg:
    config = RomeKgConfig(**{**ROME_SETTINGS, "statements": 5, "composed": 5, **settings})  # as many as memit-kg
    covariance = identity(model, config.layer or 0)
    return RomeKg(model, config, graph=source or graph(), contexts=CONTEXTS, covariance=covariance)


def memit(model: LanguageModel, **settings: Any) -> Memit:
    config = MemitConfig(**{**MEMIT_SETTINGS, **settings})
    covariances = {layer: identity(model, layer) for layer in config.layers or ()}
    return Memit(model, config, contexts=CONTEXTS, covariances=covariances)


def memit_kg(model: LanguageModel, source: SubgraphSource | None = None, **settings: Any) -> MemitKg:
    config = MemitKgConfig(**{**MEMIT_SETTINGS, **settings})
    covariances = {layer: identity(model, layer) for layer in config.layers or ()}
    return MemitKg(model, config, graph=source or graph(), contexts=CONTEXTS, covariances=covariances)


MAKERS = {"rome-kg": (rome_kg, rome), "memit-kg": (memit_kg, memit)}
both = pytest.mark.parametrize("name", MAKERS)


def facts(edit: Edit, *, limit: int = 5, source: SubgraphSource | None = None) -> tuple[GraphFact, ...]:
    subgraph = edit_subgraph(source or graph(), edit, SubgraphOptions(hops=2, per_node=20, seed=0))
    return graph_facts(edit, subgraph, limit=limit, seed=0)


def as_edits(facts: Sequence[GraphFact], edit: Edit) -> list[Edit]:
    return [fact.as_edit(f"{edit.id}/{number}") for number, fact in enumerate(facts, 1)]


def assert_same(one: Patch, other: Patch) -> None:
    assert isinstance(one, WeightPatch) and isinstance(other, WeightPatch)
    assert one.factors.keys() == other.factors.keys()
    for name, factors in one.factors.items():
        torch.testing.assert_close(factors.product, other.factors[name].product, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [pytest.param("rome-kg", marks=pytest.mark.slow), "memit-kg"])
def test_patch_equals_the_plain_method_on_the_edit_and_its_facts(name: str) -> None:
    """ROME-KG one after the other, MEMIT-KG in one batch; ``remember`` is for the edits before this one."""
    model, (with_graph, plain) = tiny("llama"), MAKERS[name]
    patch = with_graph(model).edit([LEBRON])
    fact_edits = as_edits(facts(LEBRON), LEBRON)
    assert len(fact_edits) == 6
    assert_same(patch, plain(model, remember=0.0).edit([LEBRON, *fact_edits]))
    (record,) = patch.edits
    assert record["edit"]["id"] == "lebron" and record["method"] == name
    assert [request["edit"]["target_new"] for request in record["requests"]] == [edit.target_new for edit in fact_edits]
    assert all("loss_after" in request for request in record["requests"])


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_answers_among_the_facts_are_counted(name: str) -> None:
    model, (with_graph, _) = tiny("llama"), MAKERS[name]
    question = Question(question="Where does LeBron James work?", answer="Los Angeles")
    tested = LEBRON.model_copy(update={"portability": (question,)})
    (record,) = with_graph(model).edit([tested]).edits
    facts = [request["edit"]["target_new"] for request in record["requests"]]
    assert record["answers_met"] == sum("Los Angeles" in fact for fact in facts) > 0
    assert "answers_met" not in with_graph(model).edit([LEBRON]).edits[0]


@pytest.mark.parametrize("name", keep_first(reversed(MAKERS)))
def test_answers_of_a_records_probes_are_counted(name: str) -> None:
    """MQuAKE and RippleEdits ask them; the edit itself has no test questions."""
    model, (with_graph, _) = tiny("llama"), MAKERS[name]
    probe = Probe(measures="multihop", queries=(Query(prompt="Where?", answers=(("Los Angeles",),)),))
    record = BenchmarkRecord(id="1", edits=(LEBRON,), probes=(probe,))
    method = with_graph(model)
    method.graph = guard_graph(method.graph, method.config, [record])
    (edit_record,) = method.edit([LEBRON]).edits
    facts = [request["edit"]["target_new"] for request in edit_record["requests"]]
    assert edit_record["answers_met"] == sum("Los Angeles" in fact for fact in facts) > 0
    assert method.graph_identity == with_graph(model).graph_identity


@pytest.mark.parametrize("name", keep_first(reversed(MAKERS)))
@pytest.mark.slow
def test_several_edits_have_facts_of_their_own(name: str) -> None:
    model, (with_graph, plain) = tiny("llama"), MAKERS[name]
    patch = with_graph(model, remember=0.0).edit([LEBRON, FRANCE])
    first, second = as_edits(facts(LEBRON), LEBRON), as_edits(facts(FRANCE), FRANCE)
    assert_same(patch, plain(model, remember=0.0).edit([LEBRON, *first, FRANCE, *second]))
    assert [len(record["requests"]) for record in patch.edits] == [6, 2]


@pytest.mark.slow
@both
def test_number_of_facts_of_a_kind_is_a_setting(name: str) -> None:
    model, (with_graph, plain) = tiny("llama"), MAKERS[name]
    assert_same(with_graph(model, statements=0, composed=0).edit([LEBRON]), plain(model).edit([LEBRON]))
    chosen = with_graph(model, statements=1, composed=2, chained=1)
    subjects = [edit.subject for edit in chosen.further_edits(LEBRON)]
    assert subjects == ["Los Angeles Lakers", *["LeBron James"] * 3]
    assert chosen.further_edits(LEBRON)[-1].prompt.startswith("{} plays for the Los Angeles Lakers, ")


@both
@pytest.mark.parametrize("target", keep_first(["Atlantis", "Paris"]))
def test_object_without_statements_is_edited_alone(name: str, target: str) -> None:
    """Whether the graph has no statement of o*, or not even o*."""
    model, (with_graph, plain) = tiny("llama"), MAKERS[name]
    alone = FRANCE.model_copy(update={"target_new": target})
    chosen = with_graph(model)
    patch = chosen.edit([alone])
    assert_same(patch, plain(model).edit([alone]))
    assert not patch.edits[0].get("requests")
    assert chosen.states_target == {"france": False}


@both
def test_object_that_is_not_in_the_graph_is_refused(name: str) -> None:
    chosen = MAKERS[name][0](tiny("llama"), graph={"require": True})
    stranger = FRANCE.model_copy(update={"target_new": "Atlantis"})
    for refuse in (
        lambda: chosen.edit([stranger]),
        lambda: chosen.check([stranger]),
        lambda: type(chosen).check_inputs(chosen.config, chosen.graph, [stranger]),
    ):
        with pytest.raises(GraphError, match="Atlantis") as caught:
            refuse()
        assert "'france'" in "".join(caught.value.__notes__)


def test_presets_are_those_of_the_plain_method() -> None:
    for name, plain in (("rome-kg", "rome"), ("memit-kg", "memit")):
        config, plain_config = find_method(name).config_class, find_method(plain).config_class
        published = plain_config.preset("gpt2-xl", method=plain).model_dump()
        assert config.preset("gpt2-xl", method=name).model_dump().items() >= published.items()
        assert config.preset("paper").model_dump().items() >= plain_config.preset("paper").model_dump().items()


@pytest.mark.slow
def test_default_edits_an_ordinary_row_and_leaves_the_model_whole(smollm2: LanguageModel) -> None:
    edit = Edit(subject="Spike Hughes", prompt="{} originates from", target_new="Philadelphia", target_new_id="Q1345")
    patch = RomeKg.on(smollm2).edit([edit], guard=lambda p, _: refuse_disabling(p, [], smollm2))
    assert len(patch.edits[0]["requests"]) == 2
    with patch.applied(smollm2) as edited:
        assert ask(edited, edit.text).startswith("Philadelphia")


def test_provenance_names_the_graph() -> None:
    chosen = rome_kg(tiny("llama"))
    assert chosen.subgraph(LEBRON).number_of_edges() == 4
    (recorded,) = chosen.provenance()["methods"]
    assert recorded["graph"]["kind"] == "private graph" and recorded["name"] == "rome-kg"


def nll(model: LanguageModel, fact: GraphFact) -> float:
    """Nats a token of the object after the fact's prompt."""
    prompt = model.encode(fact.text, target=fact.object)
    with torch.no_grad():
        logits = model.model(torch.tensor([prompt.ids])).logits[0].log_softmax(-1)
    positions = range(prompt.target_start, len(prompt.ids))
    return -sum(float(logits[position - 1, prompt.ids[position]]) for position in positions) / len(positions)


@both
@pytest.mark.slow
def test_facts_are_likelier_in_a_real_model_afterwards(name: str, smollm2: LanguageModel) -> None:
    """The plain method moves them far less: they are in the weights because they were edited in."""
    source, counts = WikidataCache(packaged_extract()), {"statements": 2, "composed": 2}
    fast: dict[str, Any] = {"layer": 6, "steps": 12, "learning_rate": 1.0}
    if name == "memit-kg":
        fast = {"layers": (5, 6, 7), "steps": 12, "mom2_weight": 100.0}
    with_graph, plain = MAKERS[name]
    method: EditingMethod = with_graph(smollm2, source, **fast, **counts)
    expected = facts(LEBRON, limit=2, source=source)
    assert len(expected) == 4
    with method.edit([LEBRON]).applied(smollm2):
        after = [nll(smollm2, fact) for fact in expected]
    with plain(smollm2, **fast).edit([LEBRON]).applied(smollm2):
        without = [nll(smollm2, fact) for fact in expected]
    assert sum(after) / 4 < sum(without) / 4 - 1.5
    assert all(one < other for one, other in zip(after, without, strict=True))


def test_fact_that_contradicts_an_edit_of_the_batch_is_left_out() -> None:
    model = tiny("llama")
    chosen = memit_kg(model)
    fact = next(fact for fact in chosen.further_edits(LEBRON) if fact.subject == LEBRON.target_new)
    against = fact.model_copy(update={"id": "against", "target_new": "France"})
    statements = nx.MultiDiGraph(graph().graph)
    statements.add_edge("France", "Paris", label="capital")
    batch = memit_kg(model, PrivateGraph(statements)).edit([LEBRON, against])
    requests = [(request["edit"]["prompt"], request["edit"]["target_new"]) for request in batch.edits[0]["requests"]]
    assert requests and (fact.prompt, fact.target_new) not in requests


def test_without_refuses_a_batch_with_contradicted_facts() -> None:
    """Another edit of the batch contradicts a fact of the graph, so the fact is left out, and the record says so."""
    model = tiny("llama")
    config = MemitKgConfig(**MEMIT_SETTINGS, statements=5, composed=0)
    covariances = {layer: identity(model, layer) for layer in (1, 2)}
    method = MemitKg(model, config, graph=graph(), contexts=CONTEXTS, covariances=covariances)
    fact = method.further_edits(LEBRON)[0]
    against = Edit(id="against", subject=fact.subject, prompt=fact.prompt, target_new="Paris")
    both = method.edit([LEBRON, against])
    assert [record.get("opposed") for record in both.edits] == [1, None]
    with pytest.raises(PatchError, match="facts of 'lebron' were left out"):
        method.without(both, ["against"])


def test_facts_have_the_form_of_their_edit() -> None:
    model = chatting("llama")
    config = RomeKgConfig(**ROME_SETTINGS, statements=2, composed=0)
    method = RomeKg(model, config, graph=graph(), contexts=CONTEXTS, covariance=identity(model, 1))
    assert {fact.chat for fact in method.further_edits(LEBRON.with_form(chat=True))} == {True}
    assert {fact.chat for fact in method.further_edits(LEBRON)} == {False}


@pytest.mark.slow
def test_record_names_the_rule_of_each_further_edit(tmp_path: Path) -> None:
    rows = ["Q13\tP17\tQ22", "Q13\tP190\tQ41"]
    labels = {"Q2": "Bob", "Q13": "Lyon", "Q22": "France", "Q41": "Turin", "P19": "place of birth", "P17": "country"}
    labels |= {"P190": "twinned body", "P27": "country of citizenship"}
    rows += [f"{name}\tlabel\t{label}" for name, label in labels.items()]
    (tmp_path / "graph.tsv").write_text("\n".join(rows) + "\n")
    rule = "P19(x,y) & P17(y,z) => P27(x,z)"
    against = "P19(x,y) & P17(y,z) => P19(x,z)"  # as of "located in": in the edit's own words, with another object
    (tmp_path / "rules.tsv").write_text(f"rule\tsupport\tconfidence\n{rule}\t90\t0.85\n{against}\t90\t0.9\n")
    edit = Edit(
        id="bob", subject="Bob", subject_id="Q2", prompt="{} was born in", relation="place of birth",
        relation_id="P19", target_new="Lyon", target_new_id="Q13",
    )  # fmt: skip
    source = WikidataCache(tmp_path / "graph.tsv")
    for maker in (rome_kg, memit_kg):
        (record,) = maker(tiny("llama"), source, graph={"rules": str(tmp_path / "rules.tsv")}).edit([edit]).edits
        (request,) = record["requests"]
        assert request["edit"]["prompt"] != edit.prompt and request["edit"]["target_new"] == "France"
        assert [consequence["rule"] for consequence in record["consequences"]] == [against, rule]
        (plain, *_) = maker(tiny("llama"), source).edit([edit]).edits
        assert "consequences" not in plain
