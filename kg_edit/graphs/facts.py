"""The facts of a graph about an edit's new object o*, in words: to be edited, trained on, or asked.

`graph_facts` turns a statement o* -r'-> o' into a `GraphFact` of three kinds:

- a statement is about o* itself: "Los Angeles Lakers has its headquarters in";
- a composed fact is about s, over the edited relation: "The sports team of LeBron James has its headquarters in";
- a chained fact continues the edit's prompt: "LeBron James plays for Los Angeles Lakers, headquarters location".

A subgraph that was read by rules has what follows from the edit as edges: `consequence_facts` puts these into words.

`Wording` makes the prompts, from relation templates if there are any, or else from the relation's label. They are in
the language of the edit; in another one than English, a relation of Wikidata without packaged forms is left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import networkx as nx

from kg_edit.edits.edit import Edit, is_item_id, is_property_id
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import GraphError
from kg_edit.graphs.source import SubgraphSource, check_graph, edit_subgraph, subject_of, supported
from kg_edit.languages import ENGLISH, RelationForms, fit_template, forms_of
from kg_edit.text.fact_words import fact_words, has_translated_words, is_named_in, relation_forms
from kg_edit.text.matching import without_accents
from kg_edit.writing_systems import join
from wikidata_cache.subgraphs.options import SubgraphOptions

Kind = Literal["statement", "composed", "chained", "consequence"]

# A label of a relation that ends or begins so is not a noun: "part of", "has part", "located on street".
_OPEN_ENDS = frozenset({"after", "as", "at", "by", "for", "from", "in", "of", "on", "to", "with"})
_VERBS = ("contains ", "has ", "shares ", "uses ")
_STATES = ("described ", "located ")
_DROPPED = ("member of ", "located in the ")  # "member of sports team" becomes "sports team", a noun for o'
_LETTERS = 4  # an answer of at least this length is also looked for inside words


@dataclass(frozen=True)
class GraphFact:
    """A fact of the graph: ``prompt`` has {} for ``subject`` and ends right before ``object``; ``relation`` is r'."""

    kind: Kind
    subject: str
    relation: str
    object: str
    prompt: str
    language: str = ENGLISH

    @property
    def text(self) -> str:
        """The prompt with its subject filled in."""
        return self.prompt.replace("{}", self.subject)

    def as_edit(self, name: str) -> Edit:
        """Return the fact as an edit with the id ``name``, to be made like any other edit."""
        return Edit(
            id=name,
            subject=self.subject,
            prompt=self.prompt,
            target_new=self.object,
            relation=self.relation,
            language=self.language,
        )


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

    Within a kind, facts are sorted by hashes. So the order does not depend on the order of the graph, and a smaller
    ``limit`` gives the first facts of a larger one. Each prompt occurs once, with the first of its objects.

    Args:
        edit: the edit.
        graph: its subgraph.
        limit: how many facts of each kind, at most; None: all.
        seed: the seed of the hashes.
        kinds: the kinds of facts, in order.
    """
    check_graph(graph)
    target = target_of(graph)
    wording = Wording.of(edit, graph, target_key=target)
    statements = _read_statements(edit, graph, target, seed=seed)
    facts = list[GraphFact]()
    for kind in kinds:
        subject = edit.subject
        if kind == "statement":
            subject = wording.target_label
        by_prompt: dict[str, GraphFact] = {}  # the first object of each prompt
        for property_, relation, label in statements:
            prompt = wording.prompt(kind, property_, relation)
            if prompt.count("{}") == 1:  # a label may contain braces
                fact = wording.fact(kind, subject, relation, label, prompt)
                by_prompt.setdefault(prompt, fact)
        facts += list(by_prompt.values())[:limit]
    return tuple(facts)


def _read_statements(edit: Edit, graph: nx.MultiDiGraph, target: str, *, seed: int) -> list[tuple[str, str, str]]:
    """Return the distinct statements about o* that can be put into words, as (property, label of r', label of o')."""
    own_names = {_fold(edit.subject), _fold(edit.target_new), _fold(graph.nodes[target]["label"])}
    statements = set[tuple[str, str, str]]()
    for _, end, key, data in graph.out_edges(target, keys=True, data=True):
        relation = _on_one_line(data["label"])
        label = _on_one_line(graph.nodes[end]["label"])
        has_names = not is_item_id(label) and not is_property_id(relation)  # and not only ids
        is_named = has_names and is_named_in(edit.language, graph.nodes[end])
        if data.get("role") != "edit" and is_named and _fold(label) not in own_names:
            statements.add((str(data.get("property", key)), relation, label))
    return sorted(statements, key=lambda statement: (hash_of(seed, statement[1], statement[2]), statement))


def consequence_facts(edit: Edit, graph: nx.MultiDiGraph, *, limit: int) -> tuple[GraphFact, ...]:
    """Return the facts that follow from an edit by rules (`SubgraphOptions.rules`), the most confident first.

    Args:
        edit: the edit.
        graph: its subgraph.
        limit: how many facts, at most.
    """
    check_graph(graph)
    wording = Wording.of(edit, graph, target_key=target_of(graph))
    edges = []
    for start, end, data in graph.edges(data=True):
        if data.get("role") == "consequence":
            edges.append((start, end, data))
    edges.sort(key=lambda edge: (-edge[2]["confidence"], edge[2]["property"], edge[1]))
    by_text: dict[str, GraphFact] = {}
    for start, end, data in edges:
        subject = _on_one_line(graph.nodes[start]["label"])
        relation = _on_one_line(data["label"])
        label = _on_one_line(graph.nodes[end]["label"])
        prompt = wording.prompt("statement", data["property"], relation)
        has_names = not is_item_id(label) and not is_property_id(relation)
        if prompt.count("{}") == 1 and has_names:
            fact = wording.fact("consequence", subject, relation, label, prompt)
            by_text.setdefault(fact.text, fact)
    return tuple(by_text.values())[:limit]


def relations_without_words(edit: Edit, graph: nx.MultiDiGraph) -> set[str]:
    """Return the labels of relations of o* of which a fact can't be said in the language of the edit; none in English.

    Either the relation, one of Wikidata, has no packaged forms in it, or the object has an English label alone.
    """
    labels = set[str]()
    if not has_translated_words(edit.language):
        return labels
    forms = forms_of(edit.language)
    for _, end, key, data in graph.out_edges(target_of(graph), keys=True, data=True):
        property_id = str(data.get("property", key))
        has_forms = property_id in forms or not is_property_id(property_id)
        can_be_said = has_forms and is_named_in(edit.language, graph.nodes[end])
        if data.get("role") != "edit" and not can_be_said:
            labels.add(str(data["label"]))
    return labels


def hash_of(seed: int, *parts: str) -> bytes:
    """Return a hash that decides a random draw, the same on all machines."""
    return hashlib.blake2b("|".join((str(seed), *parts)).encode(), digest_size=16).digest()


def target_of(graph: nx.MultiDiGraph) -> str:
    """Return the key of o*'s node: the node with its role, or else the object of the edit's edge."""
    nodes = {key for key, data in graph.nodes(data=True) if data.get("role") == "target_new"}
    if not nodes:
        nodes = {target for _, target, data in graph.edges(data=True) if data.get("role") == "edit"}
    targets = sorted(nodes)
    if len(targets) != 1:
        raise GraphError(f"one node needs role='target_new', found {len(targets)}: {targets[:5]}; give it to o*'s node")
    return str(targets[0])


def overlaps(text: str, other: str) -> bool:
    """Return whether the shorter of two texts occurs in the longer one, without case and accents.

    It has to be there as whole words, as "tin" in "tin ore". With at least `_LETTERS` letters it may be a part of a
    word, too, as "rome" in "jerome".
    """
    short, long = sorted((_fold(text), _fold(other)), key=len)
    if not short:
        return False
    if len(short) >= _LETTERS:
        return short in long
    return f" {short} " in f" {long} "


def answers_in(graph: nx.MultiDiGraph, answers: Sequence[str]) -> list[str]:
    """Return the nodes of an edit's subgraph whose label `overlaps` one of ``answers``, except s and o* themselves."""
    ends = {subject_of(graph), target_of(graph)}
    found = []
    for node, label in graph.nodes(data="label"):
        if node not in ends and any(overlaps(str(label), answer) for answer in answers):
            found.append(node)
    return found


def without_answers(graph: nx.MultiDiGraph, answers: Sequence[str]) -> nx.MultiDiGraph:
    """Return a copy of an edit's subgraph without the nodes that overlap an answer or that only these lead to."""
    return without_nodes(graph, answers_in(graph, answers))


def without_nodes(graph: nx.MultiDiGraph, nodes: Iterable[str]) -> nx.MultiDiGraph:
    """Return a copy of an edit's subgraph without these nodes, and without those that only these lead to.

    The nodes must not be s or o*. A node that o* still reaches, along edges in either direction, stays.
    """
    pruned = graph.copy()
    ends = {subject_of(graph), target_of(graph)}
    pruned.remove_nodes_from(nodes)
    reached = nx.node_connected_component(pruned.to_undirected(as_view=True), target_of(pruned)) | ends
    pruned.remove_nodes_from([node for node in pruned if node not in reached])
    return pruned


def add_guard(source: SubgraphSource, edit: Edit, options: SubgraphOptions, answers: Sequence[str]) -> SubgraphOptions:
    """Return the options with a guard (`Leakage`) under which no node of the subgraph overlaps one of ``answers``.

    The guard knows whole labels, and leaves them out before a node's statements are sampled. So the labels that overlap
    an answer are added to it until none is sampled; another statement takes the place of each. A source without the
    guard keeps its options.
    """
    if "leakage" not in supported(source):
        return options
    to_exclude = list(answers)
    while to_exclude:
        options = replace(options, leakage=options.leakage.add_answers(to_exclude))
        graph = edit_subgraph(source, edit, options)
        labels = {str(graph.nodes[node]["label"]) for node in answers_in(graph, answers)}
        to_exclude = sorted(labels.difference(options.leakage.answers))
    return options


def _on_one_line(label: str) -> str:
    return " ".join(label.split())


def _fold(text: str) -> str:
    """Return the words in lower case, without accents and punctuation; the text itself if it has no words."""
    letters = without_accents(text.casefold())
    words = re.findall(r"\w+", letters)
    if not words:
        return _on_one_line(letters)
    return " ".join(words)


@dataclass(frozen=True)
class Wording:
    """The words for facts around one edit.

    Attributes:
        edit_prompt: the edit's own prompt.
        target_label: o*'s label.
        thing: a phrase for what s has by r, such as "the sports team of {}"; None if r has no noun, and in other
            languages than English.
        templates: the relations' templates.
        language: the language of the words: the edit's, or English if there are no packaged words in that.
        edited: the forms of r in a language other than English; None if it has no packaged ones, and in English.
        forms: those of all relations, by property; none in English.
    """

    edit_prompt: str
    target_label: str
    thing: str | None
    templates: RelationTemplates
    language: str = ENGLISH
    edited: RelationForms | None = None
    forms: Mapping[str, RelationForms] = field(default_factory=dict)

    @classmethod
    def of(cls, edit: Edit, graph: nx.MultiDiGraph, *, target_key: str) -> Self:
        """Return the words for facts around ``edit``; ``target_key`` is the node of o*."""
        templates = RelationTemplates.load()
        target_label = _on_one_line(graph.nodes[target_key]["label"])
        found = _find_label(edit, graph, templates)
        if has_translated_words(edit.language):
            edited = relation_forms(edit.relation_id, edit.language) or relation_forms(found, edit.language)
            return cls(
                edit_prompt=edit.prompt,
                target_label=target_label,
                thing=None,
                templates=templates,
                language=edit.language,
                edited=edited,
                forms=forms_of(edit.language),
            )
        noun = noun_for(found)
        thing = None
        if noun:
            thing = f"the {noun} of {{}}"
        return cls(edit_prompt=edit.prompt, target_label=target_label, thing=thing, templates=templates)

    def fact(self, kind: Kind, subject: str, relation: str, label: str, prompt: str) -> GraphFact:
        """Return a fact, with ``prompt`` in the form that it has around the subject (`fit_template`)."""
        fitted = fit_template(prompt, subject, self.language)
        return GraphFact(
            kind=kind, subject=subject, relation=relation, object=label, prompt=fitted, language=self.language
        )

    def prompt(self, kind: str, property_id: str, relation: str) -> str:
        """Return the prompt of a statement, a composed or a chained fact with r' = ``relation``; {} is its subject.

        "" if it can't be said in a language other than English.
        """
        if self.language != ENGLISH:
            return self._prompt_in_language(kind, property_id, relation)
        if kind == "chained":  # "{} plays for Los Angeles Lakers, headquarters location"
            return f"{self.edit_prompt} {self.target_label}, {relation}"
        template = self._find_template(property_id, relation)
        if kind == "statement":  # "{} has its headquarters in"
            return template
        # What is left is a composed fact.
        if self.thing:  # "The sports team of {} has its headquarters in"
            sentence = template.replace("{}", self.thing)
            return sentence[0].upper() + sentence[1:]
        if template.startswith("{} "):  # "{} plays for one that has its headquarters in"
            return f"{self.edit_prompt} one that {template.removeprefix('{} ')}"
        return f"{self.edit_prompt} one whose {relation} is"  # "{} plays for one whose capital is"

    def _prompt_in_language(self, kind: str, property_id: str, relation: str) -> str:
        """Return the prompt of `prompt` in a language other than English, or "" if it can't be said."""
        words = fact_words(self.language)
        forms = self.forms.get(property_id) or relation_forms(relation, self.language)
        if kind == "chained":
            noun = relation if forms is None else forms.noun
            return f"{join(self.edit_prompt, self.target_label)}{words.comma}{noun}"
        if forms is not None:
            template = forms.template
        elif is_property_id(property_id):  # a label of Wikidata may be anything: "member of", "shares a border with"
            return ""
        else:
            template = words.labelled.replace("[label]", relation)
        if kind == "statement":
            return template
        if self.edited is None:
            return ""
        return words.about_noun(template, self.edited)

    def _find_template(self, property_id: str, relation: str) -> str:
        """Return the prompt of a statement with {} for its subject: a relation's template, or made from its label."""
        row = self.templates.find(property_id) or self.templates.find(relation)
        if row:
            return row.template
        if relation.startswith(_VERBS):
            return f"{{}} {relation}"
        noun = noun_for(relation)
        if noun:
            return f"The {noun} of {{}} is"
        return f"{{}} is {relation}"


def _find_label(edit: Edit, graph: nx.MultiDiGraph, templates: RelationTemplates) -> str | None:
    """Return the label of r from the graph, the edit or the table; None if there are only the words of the prompt."""
    labels = [str(data["label"]) for _, _, data in graph.edges(data=True) if data.get("role") == "edit"]
    if edit.relation:
        labels.append(edit.relation)
    row = templates.find(edit.relation_id) or templates.find(edit.relation)
    if row:
        labels.append(row.label)
    # `relation_text` of an edit without a relation is the words of its prompt.
    words_of_prompt = edit.model_copy(update={"relation": None}).relation_text
    for label in labels:
        if label and label != words_of_prompt and not is_property_id(label):
            return _on_one_line(label)
    return None


def noun_for(relation: str | None) -> str | None:
    """Return a noun for a relation's object: "sports team" for "member of sports team"; None for "part of" and such."""
    noun = relation or ""
    for start in _DROPPED:
        noun = noun.removeprefix(start)
    if not noun or noun.split()[-1] in _OPEN_ENDS or noun.startswith((*_VERBS, *_STATES)):
        return None
    return noun
