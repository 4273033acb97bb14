"""What a subgraph needs to know of an edit, and the edit's ends as nodes of a graph."""

from collections.abc import Callable, Mapping, Sequence
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
    """An edit with its ids settled: node keys, and the edit's own words for them.

    `redirects` says which of the edit's ids have been merged into another item; they are followed here.
    """

    edit: EditLike
    target_new: str
    subject_id: str | None
    target_true_id: str | None
    redirects: Mapping[str, str]

    @property
    def subject(self) -> str:
        """The subject's node key."""
        return self.subject_id or UNKNOWN_SUBJECT

    @property
    def relation(self) -> str:
        """The key of the edit's own edge."""
        return self.edit.relation_id or "edit"

    @property
    def ids(self) -> set[str]:
        """All ids of the edit, those of relation and old object included."""
        found = (self.subject_id, self.edit.relation_id, self.target_new, self.target_true_id)
        return {entity for entity in found if entity}

    @property
    def words(self) -> dict[str, str]:
        """The edit's own text for each end that is a node."""
        texts = {
            self.target_true_id: self.edit.target_true,
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
        if self.subject_id and self.edit.relation_id and self.target_true_id:
            return Statement(self.subject_id, self.edit.relation_id, self.target_true_id)
        return None

    def replaced(self, facts: Facts) -> dict[str, str | None] | None:
        """What a picture shows of the old edge: ids, `label` and `object_label`; None without an old object."""
        old, relation = self.target_true_id, self.edit.relation_id
        words = (old and facts.label(old)) or self.edit.target_true
        if not words:
            return None
        label = (relation and facts.label(relation)) or self.edit.relation or ""
        found = {"subject": self.subject, "property": self.relation, "object": old}
        return {**found, "label": label, "object_label": words}

    def is_subject(self, node: str, label: str | None) -> bool:
        """Whether a node is the edit's subject: by id, or by label where the edit has no id."""
        return node == self.subject or (self.subject_id is None and label == self.edit.subject)

    def is_target_true(self, node: str, label: str | None) -> bool:
        """Whether a node is the old object: by id, or by label where the edit has no id."""
        if self.target_true_id:
            return node == self.target_true_id
        return self.edit.target_true is not None and label == self.edit.target_true

    def is_old_edge(self, statement: Statement, label: Callable[[str], str | None]) -> bool:
        """Whether a statement is the old edge, in either direction; of any relation where the edit's has no id."""
        if self.edit.relation_id not in (None, statement.property):
            return False
        a, b = statement.subject, statement.object
        forward = self.is_subject(a, label(a)) and self.is_target_true(b, label(b))
        return forward or (self.is_subject(b, label(b)) and self.is_target_true(a, label(a)))


def find_ends(edits: Sequence[EditLike], facts: Facts) -> list[Ends]:
    """Settle the ids of every edit, follow those that were merged, and check that the graph knows the new object.

    Raises AmbiguousLabelError, UnknownLabelError, EntityNotInGraphError, or BadOptionError for malformed ids.
    """
    for edit in edits:
        _check_ids(edit)
    unsettled = dict.fromkeys(edit.target_new for edit in edits if edit.target_new_id is None)
    named = facts.named(unsettled)
    found = {label: _resolve(label, named[label], facts) for label in unsettled}
    targets = [edit.target_new_id or found[edit.target_new] for edit in edits]
    stated = facts.out({*targets, *(edit.subject_id for edit in edits if edit.subject_id)})
    doubtful = {entity for entity, pairs in stated.items() if not pairs}
    doubtful.update(old for edit in edits if (old := edit.target_true_id) and not _states_old(edit, stated))
    redirects = facts.redirects(doubtful)
    ends = [_follow(edit, target, redirects) for edit, target in zip(edits, targets, strict=True)]
    _check_known(ends, facts)
    return ends


def _states_old(edit: EditLike, stated: Mapping[str, Sequence[tuple[str, str]]]) -> bool:
    """Whether the graph states the old fact under the ids of the edit, so that they are surely current."""
    return (edit.relation_id, edit.target_true_id) in stated.get(edit.subject_id or "", ())


def _follow(edit: EditLike, target: str, redirects: Mapping[str, str]) -> Ends:
    """The edit's ids after all mergers."""
    subject, old = edit.subject_id, edit.target_true_id
    followed = {entity: redirects[entity] for entity in (subject, target, old) if entity and entity in redirects}
    return Ends(
        edit,
        target_new=followed.get(target, target),
        subject_id=subject and followed.get(subject, subject),
        target_true_id=old and followed.get(old, old),
        redirects=followed,
    )


def _check_known(ends: Sequence[Ends], facts: Facts) -> None:
    stated = facts.out({node for end in ends for node in (end.target_new, end.subject_id) if node})
    silent = {end.target_new for end in ends if not stated[end.target_new]}
    labelled = facts.labels(silent)
    mentioned = facts.mentioned(silent - labelled.keys())
    for end in ends:
        if end.target_new in silent and end.target_new not in labelled and end.target_new not in mentioned:
            raise EntityNotInGraphError(end.target_new, end.edit.target_new, facts.source.name)


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
