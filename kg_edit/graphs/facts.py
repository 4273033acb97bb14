"""The facts of a graph about an edit's new object o*, in words: to be edited, trained on, or asked.

`graph_facts` turns a statement o* -r'-> o' into a `GraphFact` of three kinds:

- a statement is about o* itself: "Los Angeles Lakers has its headquarters in";
- a composed fact is about s, over the edited relation: "The sports team of LeBron James has its headquarters in";
- a chained fact continues the edit's prompt: "LeBron James plays for Los Angeles Lakers, headquarters location".

A subgraph that was read by rules has what follows from the edit as edges: `consequence_facts` puts these into words.

`Wording` makes the prompts, from relation templates if there are any, or else from the relation's label.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import networkx as nx

from kg_edit.edits.edit import Edit, is_entity_id, is_property_id
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import GraphError
from kg_edit.graphs.source import SubgraphSource, check_graph, edit_subgraph, subject_of, supported
from kg_edit.text.matching import without_accents
from wikidata_cache.subgraphs.options import SubgraphOptions

_OPEN_ENDS = frozenset({"after", "as", "at", "by", "for", "from", "in", "of", "on", "to", "with"})  # as in "part of"
_VERBS = ("contains ", "has ", "shares ", "uses ")
_STATES = ("described ", "located ")
_DROPPED = ("member of ", "located in the ")  # "member of sports team" becomes "sports team", a name for o'
Kind = Literal["statement", "composed", "chained", "consequence"]
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
        """Return the fact as an edit with the id ``name``, to be made like any other edit."""
        return Edit(id=name, subject=self.subject, prompt=self.prompt, target_new=self.object, relation=self.relation)


def graph_facts(
    edit: Edit,
    graph: nx.MultiDiGraph,
    *,
    limit: int | None,
    seed: int,
    kinds: Sequence[Kind] = ("statement", "composed"),
) -> tuple[GraphFact, ...]:
    """Return facts from the statements of o* in the edit's subgraph; none if the graph has no statement of o*.

    Facts whose object is s, o* or an id are left out.

    Within a kind, facts are sorted by hashes. So the order does not depend on the order of the graph, and fewer facts
    are the first ones of more. Each prompt occurs once: of several objects of a relation, the first one counts.

    Args:
        edit: the edit.
        graph: its subgraph.
        limit: how many facts of each kind, at most; None: all.
        seed: the seed of the hashes.
        kinds: the kinds of facts, in order.
    """
    check_graph(graph)
    target = target_of(graph)
    wording = Wording.of(edit, graph, target=target)

    # The distinct statements about o* that can be used, as labels: (property, r', o').
    taken = {_fold(edit.subject), _fold(edit.target_new), _fold(graph.nodes[target]["label"])}
    statements = set[tuple[str, str, str]]()
    for _, end, key, data in graph.out_edges(target, keys=True, data=True):
        relation = _on_one_line(data["label"])
        label = _on_one_line(graph.nodes[end]["label"])
        has_names = not is_entity_id(label) and not is_property_id(relation)  # and not only ids
        if data.get("role") != "edit" and has_names and _fold(label) not in taken:
            statements.add((str(data.get("property", key)), relation, label))
    usable = sorted(statements, key=lambda statement: (hash_of(seed, statement[1], statement[2]), statement))

    # Each kind in the given order, each prompt once: the first object of a relation counts.
    facts = list[GraphFact]()
    for kind in kinds:
        subject = wording.target if kind == "statement" else edit.subject
        by_prompt: dict[str, GraphFact] = {}
        for property_, relation, label in usable:
            prompt = wording.prompt(kind, property_, relation)
            if prompt.count("{}") == 1:  # a label may contain braces
                fact = GraphFact(kind=kind, subject=subject, relation=relation, object=label, prompt=prompt)
                by_prompt.setdefault(prompt, fact)
        facts += list(by_prompt.values())[:limit]
    return tuple(facts)


def consequence_facts(edit: Edit, graph: nx.MultiDiGraph, *, limit: int) -> tuple[GraphFact, ...]:
    """Return the facts that follow from an edit by rules (`SubgraphOptions.rules`), the most confident first.

    The arguments are those of `graph_facts`.
    """
    check_graph(graph)
    wording = Wording.of(edit, graph, target=target_of(graph))
    edges = [edge for edge in graph.edges(data=True) if edge[2].get("role") == "consequence"]
    edges.sort(key=lambda edge: (-edge[2]["confidence"], edge[2]["property"], edge[1]))
    by_text: dict[str, GraphFact] = {}
    for start, end, data in edges:
        subject = _on_one_line(graph.nodes[start]["label"])
        relation = _on_one_line(data["label"])
        label = _on_one_line(graph.nodes[end]["label"])
        prompt = wording.prompt("statement", data["property"], relation)
        if prompt.count("{}") == 1 and not (is_entity_id(label) or is_property_id(relation)):
            fact = GraphFact(kind="consequence", subject=subject, relation=relation, object=label, prompt=prompt)
            by_text.setdefault(fact.text, fact)
    return tuple(by_text.values())[:limit]


def hash_of(seed: int, *parts: str) -> bytes:
    """Return a hash that decides a random draw, the same on all machines."""
    return hashlib.blake2b("|".join((str(seed), *parts)).encode(), digest_size=16).digest()


def target_of(graph: nx.MultiDiGraph) -> str:
    """Return the key of o*'s node: the node with its role, or else the object of the edit's edge."""
    roles = [key for key, data in graph.nodes(data=True) if data.get("role") == "target_new"]
    edges = [target for _, target, data in graph.edges(data=True) if data.get("role") == "edit"]
    targets = sorted(set(roles or edges))
    if len(targets) != 1:
        raise GraphError(f"one node needs role='target_new', found {len(targets)}: {targets[:5]}; give it to o*'s node")
    return str(targets[0])


def overlaps(text: str, other: str) -> bool:
    """Return whether the words of one text occur in the other, without case and accents; long names in a word too."""
    one = _fold(text)
    two = _fold(other)
    if not one or not two:
        return False
    short, long = sorted((one, two), key=len)
    return f" {short} " in f" {long} " or (len(short) >= _LETTERS and short in long)


def answers_in(graph: nx.MultiDiGraph, answers: Sequence[str]) -> list[str]:
    """Return the nodes of an edit's subgraph whose label `overlaps` one of ``answers``, except s and o* themselves."""
    ends = {subject_of(graph), target_of(graph)}
    labels = {node: str(label) for node, label in graph.nodes(data="label") if node not in ends}
    return [node for node, label in labels.items() if any(overlaps(label, answer) for answer in answers)]


def without_answers(graph: nx.MultiDiGraph, answers: Sequence[str]) -> nx.MultiDiGraph:
    """Return a copy of an edit's subgraph without the nodes that overlap an answer or that only these lead to."""
    return without_nodes(graph, answers_in(graph, answers))


def without_nodes(graph: nx.MultiDiGraph, nodes: Iterable[str]) -> nx.MultiDiGraph:
    """Return a copy of an edit's subgraph without these nodes, and without those that only these lead to."""
    pruned = graph.copy()
    ends = {subject_of(graph), target_of(graph)}
    pruned.remove_nodes_from(nodes)
    reached = nx.node_connected_component(pruned.to_undirected(as_view=True), target_of(pruned)) | ends
    pruned.remove_nodes_from([node for node in pruned if node not in reached])
    return pruned


def guarding(source: SubgraphSource, edit: Edit, options: SubgraphOptions, answers: Sequence[str]) -> SubgraphOptions:
    """Return the options with a guard (`Leakage`) under which no node of the subgraph overlaps one of ``answers``.

    The guard leaves out whole labels, before a node's statements are sampled. So the labels that overlap an answer join
    it until none is sampled, and another statement takes the place of each. A source without the guard keeps its
    options.
    """
    met = list(answers) if "leakage" in supported(source) else []
    while met:
        options = replace(options, leakage=options.leakage.add_answers(met))
        graph = edit_subgraph(source, edit, options)
        labels = {str(graph.nodes[node]["label"]) for node in answers_in(graph, answers)}
        met = sorted(labels.difference(options.leakage.answers))
    return options


def _on_one_line(label: str) -> str:
    return " ".join(label.split())


def _fold(text: str) -> str:
    """Return the words in lower case, without accents and punctuation; the text itself if it has no words."""
    letters = without_accents(text.casefold())
    return " ".join(re.findall(r"\w+", letters)) or _on_one_line(letters)


@dataclass(frozen=True)
class Wording:
    """The words for facts around one edit: o*'s label, and a phrase for what s has by r ("the sports team of {}")."""

    edit_prompt: str
    target: str
    thing: str | None
    templates: RelationTemplates

    @classmethod
    def of(cls, edit: Edit, graph: nx.MultiDiGraph, *, target: str) -> Self:
        """Return the words for facts around ``edit``; ``target`` is the key of o*."""
        templates = RelationTemplates.load()
        # The label of r from the graph, the edit or the table; none if it is only the prompt's words.
        row = templates.find(edit.relation_id) or templates.find(edit.relation)
        in_graph = [str(data["label"]) for _, _, data in graph.edges(data=True) if data.get("role") == "edit"]
        words_of_prompt = edit.model_copy(update={"relation": None}).relation_text
        relation = None
        for label in (*in_graph, edit.relation, row.label if row else None):
            if label and label != words_of_prompt and not is_property_id(label):
                relation = _on_one_line(label)
                break
        noun = noun_for(relation)
        thing = f"the {noun} of {{}}" if noun else None
        return cls(edit.prompt, _on_one_line(graph.nodes[target]["label"]), thing, templates)

    def prompt(self, kind: str, property_id: str, relation: str) -> str:
        """Return the prompt of a statement, a composed or a chained fact with r' = ``relation``; {} is its subject."""
        if kind == "chained":
            return f"{self.edit_prompt} {self.target}, {relation}"
        row = self.templates.find(property_id) or self.templates.find(relation)
        noun = noun_for(relation)
        if row:
            template = row.template
        elif relation.startswith(_VERBS):
            template = f"{{}} {relation}"
        elif noun:
            template = f"The {noun} of {{}} is"
        else:
            template = f"{{}} is {relation}"
        if kind == "statement":
            return template
        if self.thing:  # a composed fact: "The sports team of {} has its headquarters in"
            sentence = template.replace("{}", self.thing)
            return sentence[0].upper() + sentence[1:]
        if template.startswith("{} "):
            return f"{self.edit_prompt} one that {template.removeprefix('{} ')}"
        return f"{self.edit_prompt} one whose {relation} is"


def noun_for(relation: str | None) -> str | None:
    """Return a noun for a relation's object: "sports team" for "member of sports team"; None for "part of" and such."""
    for start in _DROPPED:
        relation = (relation or "").removeprefix(start)
    if not relation or relation.split()[-1] in _OPEN_ENDS or relation.startswith((*_VERBS, *_STATES)):
        return None
    return relation
