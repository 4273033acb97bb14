"""How a fact of the graph is worded: relation templates where there are some, else the relation's label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import networkx as nx

from kg_edit.edits.edit import Edit, is_property_id
from kg_edit.edits.templates import RelationTemplates

_OPEN_ENDS = frozenset({"after", "as", "at", "by", "for", "from", "in", "of", "on", "to", "with"})  # "part of"
_VERBS = ("contains ", "has ", "shares ", "uses ")
_STATES = ("described ", "located ")
_DROPPED = ("member of ", "located in the ")  # of "member of sports team": what is left names o'


@dataclass(frozen=True)
class Wording:
    """The words for facts around one edit: o*'s label, the thing that s has by r ("the sports team of {}")."""

    edit_prompt: str
    target: str
    thing: str | None
    templates: RelationTemplates

    @classmethod
    def of(cls, edit: Edit, graph: nx.MultiDiGraph, *, target: str, templates: RelationTemplates) -> Self:
        """The words for facts around ``edit``, where ``target`` is the key of o*."""
        label = " ".join(graph.nodes[target]["label"].split())
        noun = noun_for(_relation(edit, graph, templates))
        return cls(edit.prompt, label, f"the {noun} of {{}}" if noun else None, templates)

    def prompt(self, kind: str, property_id: str, relation: str) -> str:
        """The prompt of a statement, a composed or a chained fact with r' = ``relation``; {} stands for its subject."""
        template = self._template(property_id, relation)
        if kind == "statement":
            return template
        if kind == "chained":
            return f"{self.edit_prompt} {self.target}, {relation}"
        if self.thing:
            told = template.replace("{}", self.thing)
            return told[0].upper() + told[1:]
        if template.startswith("{} "):
            return f"{self.edit_prompt} one that {template.removeprefix('{} ')}"
        return f"{self.edit_prompt} one whose {relation} is"

    def _template(self, property_id: str, relation: str) -> str:
        row = self.templates.find(property_id) or self.templates.find(relation)
        if row:
            return row.template
        if relation.startswith(_VERBS):
            return f"{{}} {relation}"
        return f"The {noun} of {{}} is" if (noun := noun_for(relation)) else f"{{}} is {relation}"


def noun_for(relation: str | None) -> str | None:
    """What a relation's object is called: "sports team" for "member of sports team"; None for such as "part of"."""
    for start in _DROPPED:
        relation = (relation or "").removeprefix(start)
    if not relation or relation.split()[-1] in _OPEN_ENDS or relation.startswith((*_VERBS, *_STATES)):
        return None
    return relation


def _relation(edit: Edit, graph: nx.MultiDiGraph, templates: RelationTemplates) -> str | None:
    """The label of r: the graph's, the edit's, the table's; None where only the prompt's words are there."""
    row = templates.find(edit.relation_id) or templates.find(edit.relation)
    in_graph = [str(data["label"]) for _, _, data in graph.edges(data=True) if data.get("role") == "edit"]
    bare = edit.model_copy(update={"relation": None}).relation_text
    labels = [*in_graph, edit.relation, row.label if row else None]
    return next((" ".join(label.split()) for label in labels if label and _names(label, bare)), None)


def _names(label: str, words_of_prompt: str) -> bool:
    return label != words_of_prompt and not is_property_id(label)
