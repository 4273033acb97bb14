"""What a subgraph needs to know of an edit, and the edit's ends as nodes of a graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.facts import Facts

_PARTS = ("subject", "relation", "target_new", "target_true")
_ATTRIBUTES = (*_PARTS, *(f"{part}_id" for part in _PARTS))
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


def check_edit(edit: object) -> None:
    """Raise BadOptionError for what is no `EditLike`, and name what it lacks."""
    missing = [name for name in _ATTRIBUTES if not hasattr(edit, name)]
    if missing:
        raise BadOptionError(
            f"Found an edit of the type {type(edit).__name__} without the attributes {', '.join(missing)}; expected an "
            f"object such as EditRow(row=1, subject='Spike Hughes', target_new='Philadelphia'), from "
            f"wikidata_cache.edits, whose read_edits() reads files of them."
        )


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
