"""What a subgraph needs to know of an edit, and the edit's ends as nodes of a graph.

From edits as they are written to ends whose ids the graph knows: labels resolved, mergers followed.

Why a statement may not be in an edit's subgraph: it tells the old fact, an answer, or what the subject says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from wikidata_cache.errors import (
    AmbiguousLabelError,
    BadOptionError,
    EntityNotInGraphError,
    UnknownLabelError,
    WikidataCacheError,
)
from wikidata_cache.ids import Statement, is_item, is_property
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.options import SubgraphPlan

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


def find_ends(edits: Sequence[EditLike], facts: Facts) -> list[Ends]:
    """Settle the ids of every edit, follow those that were merged, and check that the graph knows the new object.

    Raises AmbiguousLabelError, UnknownLabelError, EntityNotInGraphError, or BadOptionError for malformed ids.
    """
    return [_or_raise(end) for end in try_ends(edits, facts)]


def try_ends(edits: Sequence[EditLike], facts: Facts) -> list[Ends | WikidataCacheError]:
    """What `find_ends` gives for each edit, or the error that it raises, with the requests of all edits together."""
    objections = [_malformed(edit) for edit in edits]
    sound = [edit for edit, objection in zip(edits, objections, strict=True) if objection is None]
    found = _resolved({edit.target_new for edit in sound if edit.target_new_id is None}, facts)
    targets = [edit.target_new_id or found[edit.target_new] for edit in sound]
    pairs = [(edit, target) for edit, target in zip(sound, targets, strict=True) if isinstance(target, str)]
    checked = iter(_checked(_followed(pairs, facts), facts))
    settled = iter([next(checked) if isinstance(target, str) else target for target in targets])
    return [objection or next(settled) for objection in objections]


def _or_raise(end: Ends | WikidataCacheError) -> Ends:
    if isinstance(end, WikidataCacheError):
        raise end
    return end


def _followed(pairs: Sequence[tuple[EditLike, str]], facts: Facts) -> list[Ends]:
    """Edits and their new objects, after all mergers."""
    stated = facts.out({node for edit, target in pairs for node in (target, edit.subject_id) if node})
    doubtful = {entity for entity, said in stated.items() if not said}
    doubtful.update(old for edit, _ in pairs if (old := edit.target_true_id) and not _states_old(edit, stated))
    redirects = facts.redirects(doubtful)
    return [_follow(edit, target, redirects) for edit, target in pairs]


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


def _checked(ends: Sequence[Ends], facts: Facts) -> list[Ends | WikidataCacheError]:
    """The ends, or an error where the graph does not know the new object."""
    stated = facts.out({node for end in ends for node in (end.target_new, end.subject_id) if node})
    silent = {end.target_new for end in ends if not stated[end.target_new]}
    labelled = facts.labels(silent)
    mentioned = facts.mentioned(silent - labelled.keys())
    unknown = silent - labelled.keys() - mentioned
    return [
        EntityNotInGraphError(end.target_new, end.edit.target_new, facts.source.name)
        if end.target_new in unknown
        else end
        for end in ends
    ]


def _resolved(labels: Iterable[str], facts: Facts) -> dict[str, str | WikidataCacheError]:
    """The one item of the world with each label, or why there is none; disambiguation pages and the like are none."""
    named = {label: list(filter(is_item, found)) for label, found in facts.named(labels).items()}
    facts.types({entity for found in named.values() for entity in found})  # asked for together
    worldly = {label: [entity for entity in found if not facts.is_internal(entity)] for label, found in named.items()}
    facts.out({entity for found in worldly.values() if len(found) > 1 for entity in found})
    return {label: _the_only(label, found, facts) for label, found in worldly.items()}


def _the_only(label: str, candidates: Sequence[str], facts: Facts) -> str | WikidataCacheError:
    if not candidates:
        return UnknownLabelError(label, facts.source.name)
    if len(candidates) > 1:
        likeliest_first = _most_stated_first(candidates, facts)
        return AmbiguousLabelError(label, likeliest_first, _described(likeliest_first, facts))
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


def _malformed(edit: EditLike) -> BadOptionError | None:
    items = {"subject_id": edit.subject_id, "target_new_id": edit.target_new_id}
    for name, value in (items | {"target_true_id": edit.target_true_id}).items():
        if value is not None and not is_item(value):
            return BadOptionError(f"{name}={value!r} of the edit of {edit.subject!r}: expected an id such as Q42.")
    if edit.relation_id is not None and not is_property(edit.relation_id):
        return BadOptionError(
            f"relation_id={edit.relation_id!r} of the edit of {edit.subject!r}: expected an id such as P19."
        )
    return None


def objection(ends: Ends, plan: SubgraphPlan, facts: Facts) -> Callable[[Statement], str | None]:
    """A function that gives the reason against a statement, or None.

    - "edit_edge_again": it is the edit's own edge, which is there already.
    - "old_edge": it would tell the model what it shall forget, in either direction; without a relation id
      every edge between subject and old object does.
    - "answer": it leads to or from an answer of `plan.leakage`.
    - "of_the_subject": it is a statement of the subject, met at its object, where the subject is no root.
    """
    leakage, exempt = plan.leakage, (ends.subject, ends.target_new)
    silent_subject = plan.incoming and "subject" not in plan.roots

    def reason(statement: Statement) -> str | None:
        if statement == ends.new_edge:
            return "edit_edge_again"
        if leakage.drop_old_edge and ends.is_old_edge(statement, facts.label):
            return "old_edge"
        nodes = (statement.subject, statement.object)
        if leakage.answers and any(n not in exempt and leakage.gives_away(n, facts.label(n)) for n in nodes):
            return "answer"
        subject = statement.subject
        return "of_the_subject" if silent_subject and ends.is_subject(subject, facts.label(subject)) else None

    return reason
