"""From a text to the entities that it may mean, each with reasons; never a silent guess.

From a graph to a linker over it, offline or online.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from wikidata_cache import deny_lists
from wikidata_cache.labels.label_index import EntityKind
from wikidata_cache.linking import candidates as points
from wikidata_cache.linking.candidates import Draft, Linked, Reason, gather, ranked
from wikidata_cache.linking.knowledge import (
    Ends,
    GraphKnowledge,
    Knowledge,
    ask_ahead,
    check_relation,
    open_index,
    sample_ends,
    stated_there,
)
from wikidata_cache.linking.online import ActionApi, OnlineKnowledge
from wikidata_cache.sources.queries import Role
from wikidata_cache.subgraphs.facts import Facts


class Linker:
    """Links texts to the entities of a `Knowledge`; `graph` is where relations are looked up.

    Items of `internal` classes (by default disambiguation pages, categories, templates and lists) are no
    candidates. What was learnt of a relation is kept as long as the object lives.
    """

    def __init__(self, knowledge: Knowledge, graph: Facts, *, internal: Collection[str] | None = None) -> None:
        self.knowledge = knowledge
        self._graph = graph
        self._internal = frozenset(deny_lists.internal_classes() if internal is None else internal)
        self._ends: dict[tuple[str, Role], Ends | None] = {}

    def link(
        self,
        text: str,
        *,
        relation: str | None = None,
        role: Role = "object",
        kind: EntityKind = "item",
        expected_label: str | None = None,
        limit: int = 10,
    ) -> Linked:
        """The candidates for a text, or for an id, which is then checked against `expected_label`.

        `relation` (a property id) and `role` say where in a fact the entity stands; candidates of the types
        that stand there in the graph are favoured. Raises BadOptionError for a relation that is no id.
        """
        drafts = self.drafts(text, relation=relation, role=role, kind=kind, expected_label=expected_label)
        return self.finished(text, drafts, relation=relation, role=role, limit=limit)

    def drafts(
        self,
        text: str,
        *,
        relation: str | None = None,
        role: Role = "object",
        kind: EntityKind = "item",
        expected_label: str | None = None,
        only_id: bool = False,
    ) -> list[Draft]:
        """All candidates for a text, unranked, to which reasons may be added; with `only_id` the id that it is.

        Raises BadOptionError for a relation that is no id.
        """
        if relation is not None:
            check_relation(relation)
        drafts = gather(
            self.knowledge,
            text.strip(),
            kind,
            expected_label=expected_label,
            internal=self._internal,
            only_id=only_id,
        )
        if relation and kind == "item":
            self._relate(drafts, relation, role)
        return drafts

    def finished(
        self, text: str, drafts: Sequence[Draft], *, relation: str | None, role: Role, limit: int = 10
    ) -> Linked:
        """The best `limit` of the drafts, ranked, with their types in words."""
        best = ranked(drafts)[:limit]
        names = self.knowledge.labels(set().union(*(draft.about.types for draft in best)))
        notes = (
            [f"types were not compared: {self._graph.source.name} shows no {role}s of {relation}"]
            if relation and self._at_end(relation, role) is None
            else []
        )
        return Linked(text, tuple(draft.candidate(names) for draft in best), self.knowledge.name, tuple(notes))

    def knows_property(self, relation: str) -> bool:
        """Whether the graph has a label or typed values or subjects of a property; raises BadOptionError."""
        stands = any(self._at_end(relation, role) is not None for role in ("object", "subject"))
        return stands or bool(self.knowledge.labels([relation]))

    def ask_ends(self, candidates: Mapping[tuple[str, Role], Collection[str]]) -> None:
        """Ask ahead about ends of relations (property and role) and the ids of the candidates for them."""
        ask_ahead(self._graph, candidates)

    def _relate(self, drafts: Sequence[Draft], relation: str, role: Role) -> None:
        """Add what the relation says: do such entities stand at this end of it, does this one?"""
        ends = self._at_end(relation, role)
        if ends is None:
            return
        kinds = set().union(*(draft.about.types for draft in drafts))
        names = self.knowledge.labels(kinds & ends.shares.keys())
        present = stated_there(self._graph, relation, role, [draft.id for draft in drafts])
        for draft in drafts:
            reason = points.for_type(draft.about, ends, names)
            draft.add(reason, settles=False if reason and reason.points < 0 else None)
            if draft.id in present:
                draft.add(Reason(points.AT_THIS_END, f"{role} of {relation} in the graph"), settles=None)

    def _at_end(self, relation: str, role: Role) -> Ends | None:
        key = relation, role
        if key not in self._ends:
            self._ends[key] = sample_ends(self._graph, relation, role)
        return self._ends[key]


def open_linker(facts: Facts, *, api: ActionApi | None = None) -> Linker:
    """A linker over a graph and its label index; with `api`, candidates come from there instead.

    What stands at the ends of a relation is always looked up in the graph. Raises LabelIndexError.
    """
    knowledge = OnlineKnowledge(api) if api else GraphKnowledge(facts, open_index(facts.source))
    return Linker(knowledge, facts, internal=facts.internal)
