"""`Linker`: from a text to the entities that it may mean, scored and explained; it never guesses silently.

Candidates come from a `Knowledge`; with a relation, those that stand at its end in the graph, or are of a type that
does, are favoured. `open_linker` makes a linker over a graph, offline or with Wikidata's API.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from wikidata_cache import deny_lists
from wikidata_cache.labels.label_index import EntityKind
from wikidata_cache.linking import candidates as scores
from wikidata_cache.linking.candidates import CandidateBuilder, LinkResult, Reason, build_candidates, ranked
from wikidata_cache.linking.knowledge import (
    GraphKnowledge,
    Knowledge,
    RelationEndTypes,
    check_relation,
    items_at_end,
    open_index,
    prefetch_ends,
    sample_end_types,
)
from wikidata_cache.linking.online import ActionApi, OnlineKnowledge
from wikidata_cache.sources.queries import Role
from wikidata_cache.subgraphs.facts import Facts


class Linker:
    """Links texts to the entities of `knowledge`; `graph` is where relations are looked up.

    Items of `internal` classes (by default disambiguation pages, categories, templates and lists) are no
    candidates. What was sampled of a relation is kept as long as the object lives.
    """

    def __init__(self, knowledge: Knowledge, graph: Facts, *, internal: Collection[str] | None = None) -> None:
        self.knowledge = knowledge
        self._graph = graph
        self._internal = frozenset(deny_lists.internal_classes() if internal is None else internal)
        self._ends: dict[tuple[str, Role], RelationEndTypes | None] = {}

    def link(
        self,
        text: str,
        *,
        relation: str | None = None,
        role: Role = "object",
        kind: EntityKind = "item",
        expected_label: str | None = None,
        limit: int = 10,
    ) -> LinkResult:
        """The candidates for a text, or for an id, which is then checked against `expected_label`.

        `relation` (a property id) and `role` say where in a fact the entity stands; candidates of the types
        that stand there in the graph are favoured. Raises BadOptionError for a relation that is no id.
        """
        builders = self.builders(text, relation=relation, role=role, kind=kind, expected_label=expected_label)
        return self.result(text, builders, relation=relation, role=role, limit=limit)

    def builders(
        self,
        text: str,
        *,
        relation: str | None = None,
        role: Role = "object",
        kind: EntityKind = "item",
        expected_label: str | None = None,
        only_id: bool = False,
    ) -> list[CandidateBuilder]:
        """Unranked candidates for a text, to which reasons may be added; with `only_id` the text is an id, not a name.

        Raises BadOptionError for a relation that is no id.
        """
        if relation is not None:
            check_relation(relation)
        builders = build_candidates(
            self.knowledge,
            text.strip(),
            kind,
            expected_label=expected_label,
            internal=self._internal,
            only_id=only_id,
        )
        if relation and kind == "item":
            self._relate(builders, relation, role)
        return builders

    def result(
        self, text: str, builders: Sequence[CandidateBuilder], *, relation: str | None, role: Role, limit: int = 10
    ) -> LinkResult:
        """The result of the best `limit` builders, ranked, with the labels of their types."""
        best = ranked(builders)[:limit]
        names = self.knowledge.labels(set().union(*(builder.info.types for builder in best)))
        notes = (
            [f"types were not compared: {self._graph.source.name} shows no {role}s of {relation}"]
            if relation and self._at_end(relation, role) is None
            else []
        )
        return LinkResult(text, tuple(builder.candidate(names) for builder in best), self.knowledge.name, tuple(notes))

    def knows_property(self, relation: str) -> bool:
        """Whether the graph has a label or typed values or subjects of a property; raises BadOptionError."""
        stands = any(self._at_end(relation, role) is not None for role in ("object", "subject"))
        return stands or bool(self.knowledge.labels([relation]))

    def ask_ends(self, candidates: Mapping[tuple[str, Role], Collection[str]]) -> None:
        """Fetch together what `link` needs of these ends (property, role) and of the candidates (ids) for them."""
        prefetch_ends(self._graph, candidates)

    def _relate(self, builders: Sequence[CandidateBuilder], relation: str, role: Role) -> None:
        """Add the reasons from the relation: whether such entities stand at this end, whether this one does."""
        ends = self._at_end(relation, role)
        if ends is None:
            return
        kinds = set().union(*(builder.info.types for builder in builders))
        names = self.knowledge.labels(kinds & ends.shares.keys())
        present = items_at_end(self._graph, relation, role, [builder.id for builder in builders])
        for builder in builders:
            reason = scores.for_type(builder.info, ends, names)
            builder.add(reason, can_settle=False if reason and reason.points < 0 else None)
            if builder.id in present:
                builder.add(Reason(scores.AT_THIS_END, f"{role} of {relation} in the graph"), can_settle=None)

    def _at_end(self, relation: str, role: Role) -> RelationEndTypes | None:
        key = relation, role
        if key not in self._ends:
            self._ends[key] = sample_end_types(self._graph, relation, role)
        return self._ends[key]


def open_linker(facts: Facts, *, api: ActionApi | None = None) -> Linker:
    """A linker over a graph and its label index; with `api`, candidates come from there instead.

    What stands at the ends of a relation is always looked up in the graph. Raises LabelIndexError.
    """
    knowledge = OnlineKnowledge(api) if api else GraphKnowledge(facts, open_index(facts.source))
    return Linker(knowledge, facts, internal=facts.internal)
