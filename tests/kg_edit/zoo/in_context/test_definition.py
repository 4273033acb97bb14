"""A definition before the prompt: the fact, what a graph describes, or both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.evaluation.cli.evaluation_graph import guard_graph
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.zoo.in_context.definition import Definition, DefinitionConfig
from tests.kg_edit.tiny import tiny

EDIT = Edit(
    id="1", subject="Spike Hughes", prompt="{} originates from", target_new="Philadelphia",
    subject_id="Q7577017", target_new_id="Q1345",
)  # fmt: skip


class Graph:
    """As much of a `WikidataCache` as is asked."""

    source = None

    def __init__(self, **descriptions: str) -> None:
        self.found, self.asked = descriptions, list[Sequence[str]]()

    @property
    def facts(self) -> Graph:
        return self

    def descriptions(self, ids: Sequence[str]) -> dict[str, str]:
        self.asked.append(ids)
        return {key: self.found[key] for key in ids if key in self.found}

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        raise AssertionError


def inserted(graph: Any = None, **settings: Any) -> str:
    method = Definition(tiny("llama"), DefinitionConfig.preset("default", settings), graph=graph)
    patch = method.edit([EDIT])
    assert isinstance(patch, PromptPatch)
    return patch.prompt_transform("Spike Hughes was")


def test_fact_is_inserted_without_a_graph() -> None:
    assert inserted() == "Spike Hughes originates from Philadelphia.\nSpike Hughes was"


def test_definitions_of_a_graph_come_first() -> None:
    graph = Graph(Q7577017="British musician", Q1345="city in Pennsylvania")
    assert inserted(graph) == (
        "Spike Hughes: British musician. Philadelphia: city in Pennsylvania. "
        "Spike Hughes originates from Philadelphia.\nSpike Hughes was"
    )
    assert inserted(graph, insert="fact") == inserted()
    assert inserted(Graph(Q1345="city"), insert="definition") == "Philadelphia: city.\nSpike Hughes was"
    assert inserted(Graph(), insert="both") == inserted(), "what has no description is left out"


def test_exclude_answers_leaves_out_answers_of_test_questions() -> None:
    question = Question(question="In which state was Spike Hughes born?", answer="Pennsylvania")
    graph, edit = Graph(Q7577017="British musician", Q1345="city in Pennsylvania"), {"portability": (question,)}
    for excluded, city in ((False, "Philadelphia: city in Pennsylvania. "), (True, "")):
        config = DefinitionConfig.preset("default", {"exclude_answers": excluded})
        patch = Definition(tiny("llama"), config, graph=graph).edit([EDIT.model_copy(update=edit)])
        assert isinstance(patch, PromptPatch)
        assert patch.prompt_transform("Spike Hughes was").startswith(f"Spike Hughes: British musician. {city}Spike")


@pytest.mark.parametrize("excluded", [True, False])
def test_exclude_answers_leaves_out_answers_of_probes(excluded: bool) -> None:
    """The questions of MQuAKE and RippleEdits are probes of the record, not of the edit."""
    probe = Probe(measures="multihop", queries=(Query(prompt="In which state?", answers=(("Pennsylvania",),)),))
    record = BenchmarkRecord(id="1", edits=(EDIT,), probes=(probe,))
    graph: Any = Graph(Q7577017="British musician", Q1345="city in Pennsylvania")
    config = DefinitionConfig.preset("default", {"exclude_answers": excluded})
    patch = Definition(tiny("llama"), config, graph=guard_graph(graph, config, [record])).edit([EDIT])
    assert isinstance(patch, PromptPatch)
    assert ("Pennsylvania" in patch.prompt_transform("Spike Hughes was")) is not excluded


def test_entity_without_a_definition_inserts_nothing() -> None:
    assert inserted(Graph(), insert="definition") == "Spike Hughes was"


def test_graph_without_descriptions_changes_nothing() -> None:
    assert inserted(nx.MultiDiGraph()) == inserted()


def test_definition_of_an_edit_is_inserted_whole() -> None:
    method = Definition(tiny("llama"), DefinitionConfig())
    patch = method.edit([EDIT.model_copy(update={"ending": " in the north."})])
    assert isinstance(patch, PromptPatch)
    sentence = "Spike Hughes originates from Philadelphia in the north."
    assert patch.prompt_transform("Spike Hughes was") == f"{sentence}\nSpike Hughes was"


@pytest.mark.slow
def test_random_fact_is_drawn_from_other_subjects(tmp_path: Path) -> None:
    """Of another entity, the same for a seed; told where the edit's own would be."""
    rows = [
        {"id": str(n), "subject": name, "prompt": "{} is", "target_new": "a cat", "ending": " of the hills."}
        for n, name in enumerate(("spike hughes", "Bengal", "Sokoke"))
    ]
    file = tmp_path / "others.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts = {inserted(insert="random", others=str(file), seed=seed) for seed in range(9)}
    assert prompts == {f"{name} is a cat of the hills.\nSpike Hughes was" for name in ("Bengal", "Sokoke")}
    assert len({inserted(insert="random", others=str(file), seed=3) for _ in range(3)}) == 1


def test_graph_identity_is_recorded_if_the_graph_is_read() -> None:
    graph = Graph(Q1345="city")
    config = DefinitionConfig.preset("default", {})
    assert Definition(tiny("llama"), config, graph=graph).graph_identity == {"kind": "NoneType"}
    quiet = DefinitionConfig.preset("default", {"insert": "fact"})
    assert Definition(tiny("llama"), quiet, graph=graph).graph_identity is None
