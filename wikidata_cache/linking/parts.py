"""The parts of an edit, as linking asks about them."""

from typing import NamedTuple

from wikidata_cache.ids import is_entity
from wikidata_cache.labels.label_index import EntityKind
from wikidata_cache.sources.relation_ends import Role
from wikidata_cache.subgraphs.edit_ends import EditLike


class Part(NamedTuple):
    """What an edit says of one of its parts: an id that is given, with the label that it should have, or a text."""

    text: str
    given: bool
    expected: str | None
    kind: EntityKind
    role: Role


class Parts(NamedTuple):
    """The parts of an edit, with an empty text for what it has not."""

    subject: Part
    relation: Part
    target_new: Part
    target_true: Part

    @property
    def items(self) -> tuple[Part, Part, Part]:
        """All but the relation."""
        return self.subject, self.target_new, self.target_true


def parts_of(edit: EditLike) -> Parts:
    """What an edit says of its parts."""
    return Parts(
        _part(edit.subject_id, edit.subject, role="subject"),
        _part(edit.relation_id, edit.relation, kind="property"),
        _part(edit.target_new_id, edit.target_new),
        _part(edit.target_true_id, edit.target_true),
    )


def _part(given: str | None, text: str | None, *, kind: EntityKind = "item", role: Role = "object") -> Part:
    label = text if text and not is_entity(text) else None
    return Part(given, True, label, kind, role) if given else Part((text or "").strip(), False, None, kind, role)
