"""What a subgraph needs to know of an edit, and the edit's ends as nodes of a graph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wikidata_cache.errors import (
    AmbiguousLabelError,
    BadOptionError,
    EntityNotInGraphError,
    UnknownLabelError,
)
from wikidata_cache.ids import Statement, is_item, is_property
from wikidata_cache.subgraphs.facts import Facts

UNKNOWN_SUBJECT = "_:subject"  # the node of a subject without an id


class EditLike(Protocol):
    """An edit (subject, relation, target_true -> target_new): texts, and Wikidata ids where known."""

    @property
    def subject(self) -> str:
        """The subject in words."""

    @property
    def relation(self) -> str | None:
        """The relation in words."""

    @property
    def target_new(self) -> str:
        """The new object in words."""

    @property
    def target_true(self) -> str | None:
        """The old object in words."""

    @property
    def subject_id(self) -> str | None:
        """The subject's item id."""

    @property
    def relation_id(self) -> str | None:
        """The relation's property id."""

    @property
    def target_new_id(self) -> str | None:
        """The new object's item id."""

    @property
    def target_true_id(self) -> str | None:
        """The old object's item id."""


@dataclass(frozen=True)
class Ends:
    """An edit whose new target has an id: node keys, and the edit's own words for them."""

    edit: EditLike
    target_new: str

    @property
    def subject(self) -> str:
        """The subject's node key."""
        return self.edit.subject_id or UNKNOWN_SUBJECT

    @property
    def relation(self) -> str:
        """The key of the edit's own edge."""
        return self.edit.relation_id or "edit"

    @property
    def words(self) -> dict[str, str]:
        """The edit's own text for each end that is a node."""
        texts = {
            self.edit.target_true_id: self.edit.target_true,
            self.target_new: self.edit.target_new,
            self.subject: self.edit.subject,
        }
        return {node: text for node, text in texts.items() if node and text}

    @property
    def new_edge(self) -> Statement:
        """The edit's own edge."""
        return Statement(self.subject, self.relation, self.target_new)

    @property
    def old_edge(self) -> Statement | None:
        """The edge that the edit replaces, where all three ids are known."""
        edit = self.edit
        if edit.subject_id and edit.relation_id and edit.target_true_id:
            return Statement(edit.subject_id, edit.relation_id, edit.target_true_id)
        return None

    def is_subject(self, node: str, label: str | None) -> bool:
        """Whether a node is the edit's subject: by id, or by label where the edit has no id."""
        return node == self.subject or (self.edit.subject_id is None and label == self.edit.subject)

    def is_target_true(self, node: str, label: str | None) -> bool:
        """Whether a node is the old object: by id, or by label where the edit has no id."""
        if self.edit.target_true_id:
            return node == self.edit.target_true_id
        return self.edit.target_true is not None and label == self.edit.target_true

    def objection(self, facts: Facts) -> Callable[[Statement], str | None]:
        """A function that says why a statement may not be in the edit's subgraph.

        The old edge would tell the model what it shall forget; it is kept out in both directions, and
        without a relation id every edge between subject and old object is.
        """

        def reason(statement: Statement) -> str | None:
            if statement == self.new_edge:
                return "edit_edge_again"
            if self.edit.relation_id not in (None, statement.property):
                return None
            a, b = statement.subject, statement.object
            label = facts.labels((a, b)).get
            forward = self.is_subject(a, label(a)) and self.is_target_true(b, label(b))
            backward = self.is_subject(b, label(b)) and self.is_target_true(a, label(a))
            return "old_edge" if forward or backward else None

        return reason


def find_ends(edits: Sequence[EditLike], facts: Facts) -> list[Ends]:
    """Settle the new target of every edit, and check that the graph knows it.

    Raises AmbiguousLabelError, UnknownLabelError, EntityNotInGraphError, or BadOptionError for malformed ids.
    """
    for edit in edits:
        _check_ids(edit)
    unsettled = dict.fromkeys(edit.target_new for edit in edits if edit.target_new_id is None)
    named = facts.named(unsettled)
    found = {label: _resolve(label, named[label], facts) for label in unsettled}
    ends = [Ends(edit, edit.target_new_id or found[edit.target_new]) for edit in edits]
    targets = sorted({end.target_new for end in ends})
    stated, labelled = facts.out(targets), facts.labels(targets)
    mentioned = facts.mentioned(target for target in targets if not stated[target] and target not in labelled)
    for end in ends:
        target = end.target_new
        if not (stated[target] or target in labelled or target in mentioned):
            raise EntityNotInGraphError(target, end.edit.target_new, facts.source.name)
    return ends


def _resolve(label: str, entities: Sequence[str], facts: Facts) -> str:
    """The one item of the world with this label; a disambiguation page and its like are no candidates."""
    named = [entity for entity in entities if is_item(entity)]
    facts.types(named)  # one request for all of them
    candidates = [entity for entity in named if not facts.is_internal(entity)]
    if not candidates:
        raise UnknownLabelError(label, facts.source.name)
    if len(candidates) > 1:
        likeliest_first = _most_stated_first(candidates, facts)
        raise AmbiguousLabelError(label, likeliest_first, _described(likeliest_first, facts))
    return candidates[0]


def _most_stated_first(candidates: Sequence[str], facts: Facts) -> list[str]:
    """What people mean is mostly what the graph says most about."""
    stated = facts.out(candidates)
    return sorted(candidates, key=lambda entity: (-len(stated[entity]), entity))


def _described(candidates: Sequence[str], facts: Facts) -> list[str]:
    """Each candidate with what it is an instance of, so that a person can choose."""
    types = facts.types(candidates)
    names = facts.labels(set().union(*types.values()))
    kinds = {entity: sorted(names.get(kind, kind) for kind in types[entity]) for entity in candidates}
    return [f"{entity} ({', '.join(kinds[entity]) or 'of no stated type'})" for entity in candidates]


def _check_ids(edit: EditLike) -> None:
    items = {"subject_id": edit.subject_id, "target_new_id": edit.target_new_id}
    for name, value in (items | {"target_true_id": edit.target_true_id}).items():
        if value is not None and not is_item(value):
            raise BadOptionError(f"{name}={value!r} of the edit of {edit.subject!r}: expected an id such as Q42.")
    if edit.relation_id is not None and not is_property(edit.relation_id):
        raise BadOptionError(
            f"relation_id={edit.relation_id!r} of the edit of {edit.subject!r}: expected an id such as P19."
        )
