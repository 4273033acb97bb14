"""`Linker` finds the entities that a text may mean, with scores and reasons; it never chooses one silently.

Candidates come from a `Knowledge`. If a relation is given, candidates get points for being at that end of the relation
in the graph, or for having a type of the entities there. `open_linker` returns a linker over a graph, offline or with
Wikidata's API.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from kg_common.ids import is_item
from wikidata_cache.endpoints.action_api import ActionApi
from wikidata_cache.labels.label_index import EntityKind
from wikidata_cache.linking.candidates import (
    AT_THIS_END,
    Candidate,
    LinkResult,
    Mention,
    Reason,
    build_candidates,
    judge_types,
    rank_candidates,
)
from wikidata_cache.linking.knowledge import (
    NOT_NOW,
    GraphKnowledge,
    Knowledge,
    RelationEndTypes,
    find_items_at_end,
    open_index,
    sample_end_types,
)
from wikidata_cache.linking.online import OnlineKnowledge
from wikidata_cache.sources.queries import Role, write_item_at_end, write_relation_end
from wikidata_cache.subgraphs.facts import Facts


class Linker:
    """Links texts to the entities of `knowledge`; relations are looked up in `graph`.

    Items of the graph's internal classes (disambiguation pages, categories, templates, lists) are never candidates.
    The object has the sampled types of each relation in memory, so that they are read once. If the source fails for the
    end of a relation, `candidates` keeps the failure in `_failures` and does not ask again, so that a file of many rows
    does not wait for each. `make_result` puts the failure into the `notes` of a result. Only `link`, which is about one
    text, forgets the failure and asks again.
    """

    def __init__(self, knowledge: Knowledge, graph: Facts) -> None:
        self.knowledge = knowledge
        self._graph = graph
        self._end_types: dict[tuple[str, Role], RelationEndTypes | None] = {}  # None: nothing of known type is there
        self._failures: dict[tuple[str, Role], Exception] = {}  # what the source raised for an end of a relation

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
        """Return the candidates for a text, which may be a name or an id.

        Args:
            text: the name or id.
            relation: the property (id) of the fact that the entity belongs to. Candidates with a type that entities at
                this end of the relation have in the graph get more points.
            role: the entity's end of the fact.
            kind: whether items or properties are wanted.
            expected_label: the label that the entity of an id should have.
            limit: the largest number of candidates to return.

        Returns:
            The best candidates, ranked, and the status.
        """
        mention = Mention(text.strip(), kind, role, relation, expected_label)
        if relation is not None:
            self._failures.pop((relation, role), None)  # forget a failure, so that the source is asked again
        return self.make_result(text, mention, self.candidates(mention), limit=limit)

    def candidates(self, mention: Mention) -> list[Candidate]:
        """Return unranked candidates for a text, to which reasons can be added."""
        if not mention.text:
            return []
        relation = mention.relation
        role = mention.role
        candidates = build_candidates(self.knowledge, mention, internal=self._graph.internal)
        if relation is None or mention.kind != "item":
            return candidates
        if (relation, role) in self._failures:
            return candidates
        try:
            self._add_evidence_of_relation(candidates, relation, role)
        except NOT_NOW as error:
            self._failures[relation, role] = error
        return candidates

    def _add_evidence_of_relation(self, candidates: Sequence[Candidate], relation: str, role: Role) -> None:
        """Add points to candidates that are at this end of a relation in the graph, or have a type of entities there.

        Nothing is added before all questions are answered, so a failure leaves the candidates as they were.
        """
        end_types = self._sample_end_types(relation, role)
        if end_types is None:
            return
        present = find_items_at_end(self._graph, relation, role, [candidate.id for candidate in candidates])
        names = self.knowledge.labels(_collect_types(candidates) & end_types.shares.keys())
        for candidate in candidates:
            reason = judge_types(candidate.info, end_types, names)
            if reason is not None and reason.points < 0:
                candidate.contradict(reason)
            elif reason is not None:
                candidate.reasons.append(reason)
            if candidate.id in present:
                candidate.reasons.append(Reason(AT_THIS_END, f"{role} of {relation} in the graph"))

    def make_result(self, text: str, mention: Mention, candidates: Sequence[Candidate], *, limit: int) -> LinkResult:
        """Return the best `limit` candidates, ranked; their `type_labels` are set in place.

        Args:
            text: the text as the user wrote it.
            mention: what was linked.
            candidates: all candidates for it, in any order.
            limit: the largest number of candidates to return.
        """
        ranked = rank_candidates(candidates)
        best = ranked[:limit]
        self._add_type_labels(best)
        next_score = None
        if len(ranked) > limit:
            next_score = ranked[limit].score
        nearest: tuple[str, ...] = ()
        if not ranked:
            near = self.knowledge.nearest(mention.text, kind=mention.kind)
            nearest = tuple(f"{match.text!r} ({match.id})" for match in near)
        return LinkResult(text, tuple(best), self.knowledge.name, self._write_notes(mention), next_score, nearest)

    def _add_type_labels(self, candidates: Sequence[Candidate]) -> None:
        """Give each candidate the labels of its types; a type without a label keeps its id."""
        names = self.knowledge.labels(_collect_types(candidates))
        for candidate in candidates:
            labels = [names.get(type_id, type_id) for type_id in candidate.info.types]
            candidate.type_labels = tuple(sorted(labels))

    def _write_notes(self, mention: Mention) -> tuple[str, ...]:
        """Return what could not be compared, for the reader of a result."""
        if mention.relation is None:
            return ()
        end = (mention.relation, mention.role)
        if end in self._failures:
            return (f"the relation was not compared: {self._failures[end]}",)
        if end in self._end_types and self._end_types[end] is None:
            missing = f"{mention.role}s of {mention.relation} with a type"
            return (f"types were not compared: {self._graph.source.name} has no {missing}",)
        return ()

    def knows_property(self, relation: str) -> bool:
        """Return whether the graph has values or subjects of known type of a property, or `knowledge` has its label.

        If the graph can't answer now, the label alone decides.
        """
        with suppress(*NOT_NOW):
            if self._sample_end_types(relation, "object") is not None:
                return True
            if self._sample_end_types(relation, "subject") is not None:
                return True
        return bool(self.knowledge.labels([relation]))

    def prefetch_ends(self, candidates: Mapping[tuple[str, Role], Collection[str]]) -> None:
        """Fetch together what `link` needs for these ends (property, role) of relations and their candidates (ids).

        The answers stay in the graph's `Facts`, where `link` finds them. The first question is which types the things
        at each end have. The second is which candidates are there; it leaves out the ends without things of known type,
        because `link` does not compare candidates with these.
        """
        end_of_key = {write_relation_end(relation, role): (relation, role) for relation, role in candidates}
        with suppress(*NOT_NOW):
            types_at_ends = self._graph.ends(end_of_key)  # {"P19 object": [count, [[type, count of the type], ...]]}
            candidate_keys: list[str] = []
            for end_key, (relation, role) in end_of_key.items():  # "P19 object", ("P19", "object")
                count_of_typed, _ = types_at_ends[end_key]
                if count_of_typed == 0:
                    continue
                for entity in candidates[relation, role]:
                    if is_item(entity):
                        candidate_keys.append(write_item_at_end(relation, role, entity))
            self._graph.at_ends(candidate_keys)

    def _sample_end_types(self, relation: str, role: Role) -> RelationEndTypes | None:
        """Return the types of the things at an end of a relation, which are read once; None without any."""
        end = (relation, role)
        if end not in self._end_types:
            self._end_types[end] = sample_end_types(self._graph, relation, role)
        return self._end_types[end]


def _collect_types(candidates: Iterable[Candidate]) -> set[str]:
    """Return the types of all candidates."""
    types: set[str] = set()
    for candidate in candidates:
        types |= candidate.info.types
    return types


def open_linker(facts: Facts, *, api: ActionApi | None = None) -> Linker:
    """Return a linker over a graph and its label index; with `api`, candidates come from the API instead.

    The ends of relations are always looked up in the graph.
    """
    if api is not None:
        return Linker(OnlineKnowledge(api, languages=facts.languages), facts)
    return Linker(GraphKnowledge(facts, open_index(facts.source, languages=facts.languages)), facts)
