"""The facts that a graph states about an edit's new object o*, in words: to be edited, trained on, or asked.

`graph_facts` turns a statement o* -r'-> o' into a `GraphFact` of three kinds:

- a statement is about o* itself: "Los Angeles Lakers has its headquarters in";
- a composed fact is about s, over the edited relation: "The sports team of LeBron James has its headquarters in";
- a chained fact continues the edit's prompt: "LeBron James plays for Los Angeles Lakers, headquarters location".

`Wording` makes the prompts, from relation templates if there are any, or else from the relation's label.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import networkx as nx

from kg_edit.edits.edit import Edit, is_entity_id, is_property_id
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import GraphError
from kg_edit.graphs.source import check_graph, subject_of

_OPEN_ENDS = frozenset({"after", "as", "at", "by", "for", "from", "in", "of", "on", "to", "with"})  # as in "part of"
_VERBS = ("contains ", "has ", "shares ", "uses ")
_STATES = ("described ", "located ")
_DROPPED = ("member of ", "located in the ")  # "member of sports team" becomes "sports team", a name for o'
Kind = Literal["statement", "composed", "chained"]
_Statement = tuple[str, str, str]  # property, r', o'
_LETTERS = 4  # an answer of at least this length is also looked for inside words


@dataclass(frozen=True)
class GraphFact:
    """A fact of the graph: ``prompt`` has {} for ``subject`` and ends right before ``object``; ``relation`` is r'."""

    kind: Kind
    subject: str
    relation: str
    object: str
    prompt: str

    @property
    def text(self) -> str:
        """The prompt with its subject filled in."""
        return self.prompt.replace("{}", self.subject)

    def as_edit(self, name: str) -> Edit:
        """The fact as an edit with the id ``name``, to be made like any other edit."""
        return Edit(id=name, subject=self.subject, prompt=self.prompt, target_new=self.object, relation=self.relation)


def graph_facts(
    edit: Edit,
    graph: nx.MultiDiGraph,
    *,
    limit: int | None,
    seed: int,
    exclude: Sequence[str] = (),
    kinds: Sequence[Kind] = ("statement", "composed"),
    templates: RelationTemplates | None = None,
) -> tuple[GraphFact, ...]:
    """At most ``limit`` facts of each kind (None: all) from the statements of o* in the edit's subgraph.

    The kinds come in the given order. Within a kind, facts are sorted by hashes with ``seed``. So the order does not
    depend on the order of the graph, and fewer facts are the first ones of more. Each prompt occurs once: if a relation
    has several objects, the first one is kept. Facts are left out if their object is s, o*, only an id, or `overlaps`
    one of ``exclude``. Only statements of o* itself are used. The result is empty if the graph has none.

    Raises:
        GraphError: the graph is not an edit's subgraph, or a label is missing.
        EditFileError: the packaged table of relation templates is damaged.
    """
    check_graph(graph)
    wording = Wording.of(edit, graph, target=target_of(graph), templates=templates or RelationTemplates.load())
    statements = sorted(_statements(edit, graph, exclude), key=lambda found: (_priority(found, seed), found))
    return tuple(fact for kind in kinds for fact in _of_kind(kind, edit, statements, wording)[:limit])


def _of_kind(kind: Kind, edit: Edit, statements: Iterable[_Statement], wording: Wording) -> list[GraphFact]:
    """The statements as facts of one kind, each prompt once."""
    subject = wording.target if kind == "statement" else edit.subject
    found: dict[str, GraphFact] = {}
    for property_, relation, target in statements:
        prompt = wording.prompt(kind, property_, relation)
        if prompt.count("{}") == 1:  # a label may contain braces
            fact = GraphFact(kind=kind, subject=subject, relation=relation, object=target, prompt=prompt)
            found.setdefault(prompt, fact)
    return list(found.values())


def _statements(edit: Edit, graph: nx.MultiDiGraph, exclude: Sequence[str]) -> Iterator[_Statement]:
    """Yield the graph's distinct usable statements about o*, as labels."""
    target = target_of(graph)
    taken = {_folded(edit.subject), _folded(edit.target_new), _folded(graph.nodes[target]["label"])}
    edges = graph.out_edges(target, keys=True, data=True)
    found = {
        (str(data.get("property", key)), _plain(data["label"]), _plain(graph.nodes[end]["label"]))
        for _, end, key, data in edges
        if data.get("role") != "edit"
    }
    for statement in found:
        _, relation, label = statement
        unnamed = is_entity_id(label) or is_property_id(relation)
        if not (unnamed or _folded(label) in taken or _gives_away(label, exclude)):
            yield statement


def _gives_away(label: str, answers: Iterable[str]) -> bool:
    return any(overlaps(label, answer) for answer in answers)


def _priority(statement: _Statement, seed: int) -> bytes:
    _, relation, target = statement
    return hashlib.blake2b("|".join((str(seed), relation, target)).encode(), digest_size=16).digest()


def target_of(graph: nx.MultiDiGraph) -> str:
    """The key of o*'s node: the node with its role, or else the object of the edit's edge.

    Raises:
        GraphError: there is no such node, or several.
    """
    roles = [key for key, data in graph.nodes(data=True) if data.get("role") == "target_new"]
    edges = [target for _, target, data in graph.edges(data=True) if data.get("role") == "edit"]
    found = sorted({*roles} or {*edges})
    if len(found) != 1:
        raise GraphError(f"one node needs role='target_new', found {len(found)}: {found[:5]}; give it to o*'s node")
    return str(found[0])


def overlaps(text: str, other: str) -> bool:
    """Whether the words of one text occur in the other, ignoring case and accents; longer names also inside a word."""
    one, two = _folded(text), _folded(other)
    if not one or not two:
        return False
    short, long = sorted((one, two), key=len)
    return f" {short} " in f" {long} " or (len(short) >= _LETTERS and short in long)


def answers_in(graph: nx.MultiDiGraph, answers: Sequence[str]) -> list[str]:
    """The nodes of an edit's subgraph whose label `overlaps` one of ``answers``; never the edit's own subject and
    object.

    Raises:
        GraphError: the graph is not an edit's subgraph.
    """
    ends = {subject_of(graph), target_of(graph)}
    labels = graph.nodes(data="label")
    return [node for node, label in labels if node not in ends and _gives_away(str(label), answers)]


def without_answers(graph: nx.MultiDiGraph, answers: Sequence[str]) -> nx.MultiDiGraph:
    """A copy of an edit's subgraph without the nodes that overlap an answer, and without those that only they lead to.

    Raises:
        GraphError: the graph is not an edit's subgraph.
    """
    made, ends = graph.copy(), {subject_of(graph), target_of(graph)}
    made.remove_nodes_from(answers_in(graph, answers))
    reached = nx.node_connected_component(made.to_undirected(as_view=True), target_of(made)) | ends
    made.remove_nodes_from([node for node in made if node not in reached])
    return made


def _plain(label: str) -> str:
    return " ".join(label.split())


def _folded(text: str) -> str:
    """The words in lower case, without accents and punctuation; the text itself if it has no words."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", letters)) or _plain(letters)


@dataclass(frozen=True)
class Wording:
    """The words for facts around one edit: o*'s label, and a phrase for what s has by r ("the sports team of {}")."""

    edit_prompt: str
    target: str
    thing: str | None
    templates: RelationTemplates

    @classmethod
    def of(cls, edit: Edit, graph: nx.MultiDiGraph, *, target: str, templates: RelationTemplates) -> Self:
        """Make the words for facts around ``edit``; ``target`` is the key of o*."""
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
            sentence = template.replace("{}", self.thing)
            return sentence[0].upper() + sentence[1:]
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
    """A noun for a relation's object: "sports team" for "member of sports team"; None for "part of" and the like."""
    for start in _DROPPED:
        relation = (relation or "").removeprefix(start)
    if not relation or relation.split()[-1] in _OPEN_ENDS or relation.startswith((*_VERBS, *_STATES)):
        return None
    return relation


def _relation(edit: Edit, graph: nx.MultiDiGraph, templates: RelationTemplates) -> str | None:
    """The label of r from the graph, the edit or the table; None if it is only the prompt's words."""
    row = templates.find(edit.relation_id) or templates.find(edit.relation)
    in_graph = [str(data["label"]) for _, _, data in graph.edges(data=True) if data.get("role") == "edit"]
    bare = edit.model_copy(update={"relation": None}).relation_text
    labels = [*in_graph, edit.relation, row.label if row else None]
    return next((" ".join(label.split()) for label in labels if label and _names(label, bare)), None)


def _names(label: str, words_of_prompt: str) -> bool:
    return label != words_of_prompt and not is_property_id(label)
