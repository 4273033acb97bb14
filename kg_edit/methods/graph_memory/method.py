"""`graph-memory`: the graph beside the weights. An edit is kept as a statement, with what the graph states around it.

No weight changes. When the model gets a prompt (`patch`), a walk begins at the edited thing that the prompt names, and
follows the statements that it asks for. Their sentences are put before the question. The graph is read once, when an
edit is made, so the patch needs no graph afterwards.

The idea is that of GMeLLo, RAE (Shi et al. 2024, arXiv 2403.19631) and KEDKG (Lu et al. 2024, arXiv 2412.13782): edits
are a graph over Wikidata, and multi-hop questions are answered along its paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import networkx as nx
from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit, is_item_id, is_property_id
from kg_edit.errors import GraphError
from kg_edit.graphs.controls import Control
from kg_edit.graphs.facts import target_of
from kg_edit.graphs.source import ABSENT, read_subgraph, subject_of, supported
from kg_edit.languages import words_of
from kg_edit.methods.entries import method_entry
from kg_edit.methods.graph_memory.edited_graph import Entity, RememberedEdit, Statement, key_from_node
from kg_edit.methods.graph_memory.patch import GraphMemoryPatch
from kg_edit.methods.graph_memory.relation_words import Relation, RelationWords, join_place
from kg_edit.methods.graph_memory.walk import WalkRule
from kg_edit.methods.graph_reader import GraphReader, GraphSettings
from kg_edit.patches.base import Patch
from kg_edit.patches.walks import Origin
from kg_edit.text.fact_words import has_translated_words, warn_of_english, warn_of_left_out
from wikidata_cache import WikidataCache

_VAGUE = {"P31", "P279", "P361", "P527", "P1889", "P1552"}  # kinds, parts and the like, which nobody asks for
_ENTITY = "http://www.wikidata.org/entity/"
# The aliases of items in a language
_ALIASES = (
    "SELECT ?s ?a WHERE {{ VALUES ?s {{ {things} }} ?s <http://www.w3.org/2004/02/skos/core#altLabel> ?a "
    'FILTER(LANG(?a) = "{language}") }} ORDER BY ?s ?a'
)


class GraphMemoryConfig(GraphSettings, WalkRule):
    """What is read of the graph, and how the walks are made."""

    per_node: PositiveInt = Field(500, description="number of statements of a thing to choose from")
    hops: PositiveInt = Field(3, description="how many hops from the subject the statements reach; 1: the edit alone")
    per_relation: PositiveInt = Field(8, description="maximum number of objects of one relation of a thing")
    leading: bool = Field(
        True, description="also keep statements that lead to s, so that a question that does not name s can be walked"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "rae": {"choose": "question", "recall": False, "compared": 12},
        "kedkg": {"choose": "noun", "recall": True, "margin": 0.0},
    }

    @property
    def subgraph_hops(self) -> int:
        """The hops of the subgraph."""
        return self.hops

    @property
    def walk_rule(self) -> WalkRule:
        """The settings that the patch needs: those of its walks."""
        return WalkRule.model_validate(self.model_dump(include=set(WalkRule.model_fields)))


class GraphMemory(GraphReader):
    """Keeps an edit and the statements around it in the patch; the model's weights stay as they are."""

    entry = method_entry("graph-memory")
    config_class = GraphMemoryConfig
    config: GraphMemoryConfig

    @cached_property
    def _words(self) -> dict[str, RelationWords]:
        """The words of the languages of the edits so far, by language; `_find_words` fills it."""
        return {}

    def _find_words(self, edit: Edit) -> RelationWords:
        """Return the packaged words in the language of an edit, or the English ones."""
        if edit.language not in self._words:
            self._words[edit.language] = RelationWords(edit.language)
        return self._words[edit.language]

    def check(self, edits: Sequence[Edit]) -> None:
        """Check the edits, and warn of languages in which the method has no words."""
        super().check(edits)
        warn_of_english(edits, method=self.name)

    def empty_patch(self) -> Patch:
        """Return a patch without edits; it changes nothing."""
        return GraphMemoryPatch(remembered=(), provenance=self.provenance())

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return a patch of the one edit, with the statements of its subgraph."""
        (edit,) = edits
        graph = self.subgraph(edit)
        warn_of_left_out(edit, self._find_left_out(edit, graph), method=self.name)
        statements = [*self._read_statements(edit, graph), *self._read_leading_to_subject(edit)]
        implied = [statement for statement in statements if statement.origin == "rule"]
        stated = [statement for statement in statements if statement.origin == "graph"]
        remembered = RememberedEdit(
            id=edit.id,
            prompt=edit.text,
            fact=self._state_edit(edit, graph),
            implied=tuple(implied),
            stated=tuple(stated),
        )
        notes = {"statements": len(stated), "implied": len(implied)}
        provenance = {**self.provenance(), "edits": [{**self.record(edit), **notes}]}
        return GraphMemoryPatch(remembered=((self.config.walk_rule, remembered),), provenance=provenance)

    def _state_edit(self, edit: Edit, graph: nx.MultiDiGraph) -> Statement:
        """Return the edit as a statement."""
        start = subject_of(graph)
        end = target_of(graph)
        aliases = self._fetch_aliases([start, end], edit.language)
        subject = Entity(key=key_from_node(start, edit.subject), label=edit.subject, aliases=aliases.get(start, ()))
        target = Entity(key=key_from_node(end, edit.target_new), label=edit.target_new, aliases=aliases.get(end, ()))
        label = edit.relation or edit.relation_text
        words = self._find_words(edit)
        key = edit.relation_id or words.property_of(edit.relation, edit.prompt) or label
        relation = words.relation(key, label)
        sentence_template = relation.sentence_template
        if not relation.noun:  # the edit's own prompt says it better
            stop = words_of(edit.language).stop
            sentence_template = join_place(edit.prompt) + edit.ending.removesuffix(stop) + stop
        return Statement(
            subject=subject,
            relation_key=key,
            relation_label=label,
            object=target,
            origin="edit",
            relation_name=relation.name,
            sentence_template=sentence_template,
            edit=edit.id,
            language=words.language,
        )

    def _read_statements(self, edit: Edit, graph: nx.MultiDiGraph) -> Iterator[Statement]:
        """Yield the statements of a subgraph, at most ``per_relation`` for each relation of a thing.

        The edit itself is left out, as are statements of kinds and parts (`_VAGUE`), those in which a part has no name,
        and those that can't be said in the language of the edit.
        """
        words = self._find_words(edit)
        counts: dict[tuple[str, str], int] = {}
        edges = sorted(graph.edges(keys=True, data=True), key=lambda edge: edge[:3])  # without the data
        for start, end, key, data in edges:
            property_ = str(data.get("property", key))
            label = str(data["label"])
            subject = _entity_of(graph, start)
            target = _entity_of(graph, end)
            is_nameless = is_item_id(subject.label) or is_item_id(target.label) or is_property_id(label)
            if data.get("role") == "edit" or is_nameless or property_ in _VAGUE:
                continue
            counts[start, property_] = counts.get((start, property_), 0) + 1
            if counts[start, property_] > self.config.per_relation:
                continue
            origin: Origin = "graph"
            if data.get("role") == "consequence":  # the subgraph's word for what a rule implies
                origin = "rule"
            relation = words.relation(property_, label)
            if not _can_be_said(relation, data):
                continue
            yield Statement(
                subject=subject,
                relation_key=property_,
                relation_label=label,
                object=target,
                origin=origin,
                relation_name=relation.name,
                sentence_template=relation.sentence_template,
                edit=edit.id,
                language=words.language,
            )

    def _find_left_out(self, edit: Edit, graph: nx.MultiDiGraph) -> set[str]:
        """Return the labels of the relations in a subgraph that can't be said in the language of the edit."""
        words = self._find_words(edit)
        labels = set[str]()
        for _, _, key, data in graph.edges(keys=True, data=True):
            label = str(data["label"])
            relation = words.relation(str(data.get("property", key)), label)
            if data.get("role") != "edit" and not _can_be_said(relation, data):
                labels.add(label)
        return labels

    def _read_leading_to_subject(self, edit: Edit) -> Iterator[Statement]:
        """Yield the statements of the source that lead to s, with the aliases of their subjects."""
        graph = self._read_around_subject(edit)
        if graph is None:
            return
        s = target_of(graph)  # s is the object of the made-up edit that `_read_around_subject` asks for
        leading = []
        for statement in self._read_statements(edit, graph):
            if statement.object.key == s and statement.subject.key != s:
                leading.append(statement)
        aliases = self._fetch_aliases([statement.subject.key for statement in leading], edit.language)
        for statement in leading:
            names = aliases.get(statement.subject.key, ())
            subject = statement.subject.model_copy(update={"aliases": names})
            yield statement.model_copy(update={"subject": subject})

    def _read_around_subject(self, edit: Edit) -> nx.MultiDiGraph | None:
        """Return a subgraph with what leads to s; None if the source has no s, or can't be asked for it.

        A source is asked for the subgraph of an edit, and its second hop is around the edit's object. So it is asked
        for that of an edit whose object is s, here Japan, in both directions:

            the thing --relation--> Japan <--country-- Tokyo        leads to s: it is read
                                    Japan --continent--> Asia       leads away from s: the edit's own subgraph has it
        """
        if not self.config.leading or "direction" not in supported(self.graph):
            return None
        to_s = Edit(
            id=edit.id,
            subject="the thing",
            prompt="{} is",
            relation="relation",
            target_new=edit.subject,
            target_new_id=edit.subject_id,
        )
        settings = self.config.graph.model_copy(update={"direction": "both"})
        try:
            options = settings.options(hops=2, per_node=self.config.per_node, seed=self.config.seed)
            return read_subgraph(self.graph, to_s, options)
        except (*ABSENT, GraphError):
            return None

    def _fetch_aliases(self, nodes: Sequence[str], language: str) -> dict[str, tuple[str, ...]]:
        """Return the aliases of the nodes that are items (Q17) in a language, by node; none of another source's."""
        wikidata = self.graph
        while isinstance(wikidata, Control):  # a control around the right graph
            wikidata = wikidata.right
        items = sorted(node for node in nodes if is_item_id(node) and node.startswith("Q"))
        if not isinstance(wikidata, WikidataCache) or not items:
            return {}
        things = " ".join(f"<{_ENTITY}{item}>" for item in items)
        aliases: dict[str, list[str]] = {}
        for row in wikidata.query(_ALIASES.format(things=things, language=language)):
            item = row["s"].removeprefix(_ENTITY)
            aliases.setdefault(item, []).append(row["a"])
        return {item: tuple(names) for item, names in aliases.items()}


def _can_be_said(relation: Relation, data: Mapping[str, Any]) -> bool:
    """Return whether a relation has packaged words in its language, or the edge with this ``data`` a label in it."""
    if not has_translated_words(relation.language_words.language) or relation.forms is not None:
        return True
    return bool(data["label"] != data.get("default_label"))


def _entity_of(graph: nx.MultiDiGraph, node: str) -> Entity:
    """Return the thing of a subgraph's node."""
    label = str(graph.nodes[node]["label"])
    return Entity(key=key_from_node(node, label), label=label)
