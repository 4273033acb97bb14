"""A toy graph of countries, and `graph-memory` on it with a tiny model."""

from __future__ import annotations

from typing import Any

import networkx as nx

from kg_edit.edits.edit import Edit, LocalityPrompt, Question
from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.methods.graph_memory.patch import GraphMemoryPatch
from kg_edit.methods.graph_memory.walk import Walk, Walker
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.tiny import tiny

SONY = Edit(
    id="sony",
    subject="Sony",
    prompt="{} lies in the country of",
    relation="country",
    relation_id="P17",
    target_true="Japan",
    target_new="Bulgaria",
)
BULGARIA = Edit(
    id="bulgaria",
    subject="Bulgaria",
    prompt="The capital city of {} is",
    relation="capital",
    relation_id="P36",
    target_new="Oslo",
)
# An edit for the packaged graph, in which Turkey is Q43, and its capital Ankara Q3640
TO_TURKEY = Edit(
    id="sony",
    subject="Sony",
    prompt="{} lies in the country of",
    relation="country",
    relation_id="P17",
    target_true="Japan",
    target_new="Turkey",
    portability=(Question(question="What is the capital of the country of Sony?", answer="Ankara"),),
    locality=(LocalityPrompt(prompt="Who is the founder of Toyota?"),),
)
FACTS = (
    ("Bulgaria", "capital", "Sofia"),
    ("Bulgaria", "currency", "lev"),
    ("Bulgaria", "continent", "Europe"),
    ("Sofia", "head of government", "Vassil Terziev"),
    ("Oslo", "head of government", "Marianne Borgen"),
)


def graph(*facts: tuple[str, str, str]) -> nx.MultiDiGraph:
    """The toy graph as a private one."""
    made = nx.MultiDiGraph()
    for start, relation, end in (*FACTS, *facts):
        made.add_edge(start, end, label=relation)
    return made


def memory(*edits: Edit, model: LanguageModel | None = None, **settings: Any) -> GraphMemoryPatch:
    """The patch of edits over the toy graph; by default words alone choose, and the model is asked for nothing."""
    chosen = {"choose": "words", "recall": False, **settings}
    patch = GraphMemory.on(model or tiny("llama"), settings=chosen, graph=graph()).edit(edits)
    assert isinstance(patch, GraphMemoryPatch)
    return patch


def walked(patch: GraphMemoryPatch, question: str) -> Walk:
    """The walk of a question."""
    return Walker(patch.graph, tiny("llama"), patch.rule).walk(question)


def things(walk: Walk) -> list[str]:
    """The labels of the things of a walk, in order."""
    if not walk:
        return []
    return [walk.statements[0].subject.label, *(statement.object.label for statement in walk.statements)]
