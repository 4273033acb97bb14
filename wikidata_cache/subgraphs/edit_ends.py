"""Resolve the ends of edits (subject, new and old object) to nodes of a graph, and filter statements that leak answers.

`EditLike` is the interface of an edit. `resolve_ends` turns edits into `EditEnds`: labels become ids, and merged items
are replaced; requests are shared between edits. `make_leakage_filter` makes the function that rejects statements which
would reveal the old fact, an answer, or a statement of the subject.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from kg_common.ids import is_item, is_property
from wikidata_cache.errors import (
    AmbiguousLabelError,
    BadOptionError,
    EntityNotInGraphError,
    UnknownLabelError,
    WikidataCacheError,
)
from wikidata_cache.ids import Statement
from wikidata_cache.languages import list_families
from wikidata_cache.subgraphs.facts import Facts, look_up_or_skip
from wikidata_cache.subgraphs.options import Root, SubgraphOptions

UNKNOWN_SUBJECT = "_:subject"
"""The node key of a subject without an id."""


class EditLike(Protocol):
    """An edit (subject, relation, target_true -> target_new): texts, and Wikidata ids where known."""

    @property
    def subject(self) -> str:
        """The subject's label (s)."""

    @property
    def relation(self) -> str | None:
        """The relation in words, or None."""

    @property
    def target_new(self) -> str:
        """The new object's label (o*)."""

    @property
    def target_true(self) -> str | None:
        """The old object's label (o), or None where it is unknown."""

    @property
    def subject_id(self) -> str | None:
        """The subject's item id such as Q42, or None."""

    @property
    def relation_id(self) -> str | None:
        """The relation's property id such as P19, or None."""

    @property
    def target_new_id(self) -> str | None:
        """The new object's item id, or None."""

    @property
    def target_true_id(self) -> str | None:
        """The old object's item id, or None."""


def check_edit(edit: object) -> None:
    """Raise BadOptionError if `edit` is not an `EditLike`; the message names the missing attributes."""
    parts = ["subject", "relation", "target_new", "target_true"]
    names = parts + [f"{part}_id" for part in parts]
    missing = [name for name in names if not hasattr(edit, name)]
    if missing:
        raise BadOptionError(
            f"Found an edit of the type {type(edit).__name__} without the attributes {', '.join(missing)}; expected an "
            f"object such as EditRow(row=1, subject='Spike Hughes', target_new='Philadelphia'). EditRow is in "
            f"wikidata_cache.edits; read_edits() there reads files of edits."
        )


@dataclass(frozen=True)
class EditEnds:
    """An edit with its ids resolved: the node keys of its ends, and the edit's own labels for them.

    `redirects` maps ids of the edit that Wikidata has merged to the items that replace them. The other attributes
    already have the replacing items.
    """

    edit: EditLike
    target_new_id: str  # looked up by its label, where the edit has no id
    subject_id: str | None
    target_true_id: str | None
    redirects: Mapping[str, str]

    @property
    def subject_node(self) -> str:
        """The node key of the subject: its id, or `UNKNOWN_SUBJECT`."""
        return self.subject_id or UNKNOWN_SUBJECT

    @property
    def edge_key(self) -> str:
        """The edge key of the edit's own edge: the property id, or "edit"."""
        return self.edit.relation_id or "edit"

    @property
    def nodes(self) -> dict[Root, str | None]:
        """The node of each end that may be a root; None for an end without an id."""
        return {"target_new": self.target_new_id, "subject": self.subject_id, "target_true": self.target_true_id}

    @property
    def ids(self) -> set[str]:
        """All ids of the edit, including those of the relation and of the old object."""
        return {entity for entity in (*self.nodes.values(), self.edit.relation_id) if entity}

    @property
    def words(self) -> dict[str, str]:
        """{node key: the edit's own label} of the ends that have a node key and a label.

        Where two ends are one node, the label of the subject counts first, then that of the new object.
        """
        texts = {self.target_new_id: self.edit.target_new, self.subject_node: self.edit.subject}
        if self.target_true_id and self.edit.target_true:
            texts.setdefault(self.target_true_id, self.edit.target_true)
        return {node: text for node, text in texts.items() if text}

    @property
    def new_edge(self) -> Statement:
        """The edit's own edge (s, r, o*), by node keys."""
        return Statement(self.subject_node, self.edge_key, self.target_new_id)

    @property
    def old_edge(self) -> Statement | None:
        """The edge that the edit replaces, or None unless all three ids are known."""
        if self.subject_id and self.edit.relation_id and self.target_true_id:
            return Statement(self.subject_id, self.edit.relation_id, self.target_true_id)
        return None

    def describe_old_edge(self, facts: Facts) -> dict[str, str | None] | None:
        """Return the old edge for pictures: subject, property, object, label, object_label; None without old object."""
        old = self.target_true_id
        object_label = None
        if old:
            object_label = facts.default_label(old)
        object_label = object_label or self.edit.target_true
        if not object_label:
            return None
        return {
            "subject": self.subject_node,
            "property": self.edge_key,
            "object": old,
            "label": self.find_relation_label(facts),
            "object_label": object_label,
        }

    def find_relation_label(self, facts: Facts) -> str:
        """Return the label of the relation, else the edit's own words for it, else ""."""
        label = None
        if self.edit.relation_id:
            label = facts.default_label(self.edit.relation_id)
        return label or self.edit.relation or ""

    def is_subject(self, node: str, names: Collection[str]) -> bool:
        """Return whether a node is the edit's subject: by id, or by a name where the edit has no subject id."""
        return node == self.subject_node or (self.subject_id is None and self.edit.subject in names)

    def is_target_true(self, node: str, names: Collection[str]) -> bool:
        """Return whether a node is the old object: by id, or by a name where the edit has no id of the old object."""
        if self.target_true_id:
            return node == self.target_true_id
        return self.edit.target_true is not None and self.edit.target_true in names

    def is_old_edge(self, statement: Statement, names_of: Callable[[str], Collection[str]]) -> bool:
        """Return whether a statement is the old edge, in either direction.

        If the edit's relation has no id, a statement of any relation counts.
        """
        if self.edit.relation_id not in (None, statement.property):
            return False
        for start, end in ((statement.subject, statement.object), (statement.object, statement.subject)):
            if self.is_subject(start, names_of(start)) and self.is_target_true(end, names_of(end)):
                return True
        return False


class ResolvedEdits(NamedTuple):
    """The ends of edits, and the errors of the edits without ends; both by the position of the edit, from 0."""

    ends: dict[int, EditEnds]
    errors: dict[int, WikidataCacheError]


def resolve_ends(edits: Sequence[EditLike], facts: Facts) -> ResolvedEdits:
    """Resolve the ids of every edit, replace merged items, and check that the graph knows the new object.

    Requests are shared. An edit whose id is malformed, whose label names several entities or none, or whose new object
    is not in the graph has a BadOptionError, AmbiguousLabelError, UnknownLabelError or EntityNotInGraphError.
    """
    errors = _find_malformed_ids(edits)
    sound = [number for number in range(len(edits)) if number not in errors]
    targets, target_errors = _find_targets(edits, sound, facts)
    errors |= target_errors
    pairs = [(edits[number], target) for number, target in targets.items()]
    doubtful = _find_doubtful(pairs, facts)
    redirects = facts.redirects(doubtful)
    ends_by_number: dict[int, EditEnds] = {}
    for number, target in targets.items():
        ends_by_number[number] = _follow_redirects(edits[number], target, redirects)
    unknown = _find_unknown_targets(ends_by_number.values(), facts)
    resolved: dict[int, EditEnds] = {}
    for number, ends in ends_by_number.items():
        if ends.target_new_id in unknown:
            errors[number] = EntityNotInGraphError(ends.target_new_id, ends.edit.target_new, facts.source.name)
        else:
            resolved[number] = ends
    return ResolvedEdits(resolved, errors)


def _find_malformed_ids(edits: Sequence[EditLike]) -> dict[int, WikidataCacheError]:
    """Return the error of each edit that has an id in another form than Q42 or P19, by the edit's position."""
    errors: dict[int, WikidataCacheError] = {}
    for number, edit in enumerate(edits):
        malformed = _find_malformed_id(edit)
        if malformed:
            errors[number] = malformed
    return errors


def _find_targets(
    edits: Sequence[EditLike], numbers: Sequence[int], facts: Facts
) -> tuple[dict[int, str], dict[int, WikidataCacheError]]:
    """Return the new object's id for the edits at these positions, and the errors of those without one.

    Where o* has no id, its label has to name exactly one item.
    """
    labels = {edits[number].target_new for number in numbers if edits[number].target_new_id is None}
    items, label_errors = _resolve_labels(labels, facts)
    targets: dict[int, str] = {}
    errors: dict[int, WikidataCacheError] = {}
    for number in numbers:
        edit = edits[number]
        if edit.target_new_id is not None:
            targets[number] = edit.target_new_id
        elif edit.target_new in items:
            targets[number] = items[edit.target_new]
        else:
            errors[number] = label_errors[edit.target_new]
    return targets, errors


def _find_malformed_id(edit: EditLike) -> BadOptionError | None:
    """Return the error of an edit's first id that has another form than Q42 or P19; None if there is none."""
    for name in ("subject_id", "target_new_id", "target_true_id", "relation_id"):
        is_id = is_item
        example = "Q42"
        if name == "relation_id":
            is_id = is_property
            example = "P19"
        value = getattr(edit, name)
        if value is not None and not is_id(value):
            return BadOptionError(
                f"{name}={value!r} of the edit of {edit.subject!r}: expected an id such as {example}."
            )
    return None


def _resolve_labels(labels: Iterable[str], facts: Facts) -> tuple[dict[str, str], dict[str, WikidataCacheError]]:
    """Return the labels with their only item, and those that no item or several items have with the error."""
    candidates = _list_candidates(labels, facts)
    ambiguous: set[str] = set()
    for ids in candidates.values():
        if len(ids) > 1:
            ambiguous.update(ids)
    statements = facts.out(ambiguous)  # one request for all labels

    items: dict[str, str] = {}
    errors: dict[str, WikidataCacheError] = {}
    for label, ids in candidates.items():
        if not ids:
            errors[label] = UnknownLabelError(label, facts.source.name, list_families(facts.languages))
        elif len(ids) == 1:
            items[label] = ids[0]
        else:
            # The item with the most statements is probably meant, so the message lists it first.
            ranked = sorted(ids, key=lambda entity: (-len(statements[entity]), entity))
            errors[label] = AmbiguousLabelError(label, ranked, _describe(ranked, facts))
    return items, errors


def _list_candidates(labels: Iterable[str], facts: Facts) -> dict[str, list[str]]:
    """Return {label: the items with this label}; Wikimedia-internal items do not count. Requests are shared."""
    named: dict[str, list[str]] = {}
    named_items: set[str] = set()
    for label, entities in facts.named(labels).items():
        named[label] = [entity for entity in entities if is_item(entity)]
        named_items.update(named[label])
    types = facts.types(named_items)
    candidates: dict[str, list[str]] = {}
    for label, ids in named.items():
        candidates[label] = [entity for entity in ids if facts.internal.isdisjoint(types[entity])]
    return candidates


def _describe(ids: Sequence[str], facts: Facts) -> list[str]:
    """Return each item with the labels of its types, such as "Q65 (city, county seat)"."""
    types = facts.types(ids)  # asked for before, so without a request
    type_ids: set[str] = set()
    for entity in ids:
        type_ids |= types[entity]
    labels = facts.labels(type_ids)
    described = []
    for entity in ids:
        names = sorted(labels.get(type_id, type_id) for type_id in types[entity])
        described.append(f"{entity} ({', '.join(names) or 'no known type'})")
    return described


def _follow_redirects(edit: EditLike, target_new: str, redirects: Mapping[str, str]) -> EditEnds:
    """Return the ends of an edit with this new object; each merged item is replaced by that of `redirects`."""
    own_redirects = {}
    for entity in (edit.subject_id, target_new, edit.target_true_id):
        if entity is not None and entity in redirects:
            own_redirects[entity] = redirects[entity]
    subject_id = edit.subject_id
    if subject_id is not None:
        subject_id = redirects.get(subject_id, subject_id)
    target_true_id = edit.target_true_id
    if target_true_id is not None:
        target_true_id = redirects.get(target_true_id, target_true_id)
    return EditEnds(
        edit,
        target_new_id=redirects.get(target_new, target_new),
        subject_id=subject_id,
        target_true_id=target_true_id,
        redirects=own_redirects,
    )


def _find_doubtful(pairs: Sequence[tuple[EditLike, str]], facts: Facts) -> set[str]:
    """Return the ids, in pairs of an edit and its new object, that Wikidata may have merged into another item.

    An item with statements was not merged, and neither was an old object that the graph states under the edit's ids.
    """
    asked = {target for _, target in pairs}
    asked |= {edit.subject_id for edit, _ in pairs if edit.subject_id}
    stated = facts.out(asked)
    doubtful = {entity for entity, statements in stated.items() if not statements}
    for edit, _ in pairs:
        old = edit.target_true_id
        if old and (edit.relation_id, old) not in stated.get(edit.subject_id or "", ()):
            doubtful.add(old)
    return doubtful


def _find_unknown_targets(all_ends: Collection[EditEnds], facts: Facts) -> set[str]:
    """Return the new objects that are not in the graph: it has no statement of or about them, and no label."""
    asked = {ends.target_new_id for ends in all_ends}
    # The statements of the subjects are needed later; one request fetches both.
    asked |= {ends.subject_id for ends in all_ends if ends.subject_id}
    stated = facts.out(asked)
    silent = {ends.target_new_id for ends in all_ends if not stated[ends.target_new_id]}
    unlabelled = silent - facts.labels(silent).keys()
    return unlabelled - facts.mentioned(unlabelled)


def add_merged_answers(options: SubgraphOptions, facts: Facts) -> SubgraphOptions:
    """Return the options with more answers: for each answer that Wikidata has merged, the item that replaces it.

    The graph has only the replacing item. Offline, an answer whose redirect is not in the cache counts as not merged.
    """
    answers = options.leakage.answers
    merged = look_up_or_skip(facts.redirects, filter(is_item, answers))
    replacing = [merged[answer] for answer in answers if answer in merged]
    return replace(options, leakage=options.leakage.add_answers(replacing))


def make_leakage_filter(ends: EditEnds, options: SubgraphOptions, facts: Facts) -> Callable[[Statement], str | None]:
    """Return a function from a statement to the reason to leave it out, or to None.

    - "edit_edge_again": the statement is the edit's own edge, which is in the subgraph already.
    - "old_edge": the statement is the old edge, in either direction, which the edit replaces. Without a relation
      id, every edge between subject and old object is one.
    - "answer": the statement leads to or from an answer of `options.leakage`.
    - "of_the_subject": the subject is not a root, and the statement is one of its own. Only direction="both" leads to
      such a statement, from its object.
    """
    leakage = options.leakage
    exempt = (ends.subject_node, ends.target_new_id)
    leaves_out_subject = options.incoming and "subject" not in options.roots

    def find_reason(statement: Statement) -> str | None:
        if statement == ends.new_edge:
            return "edit_edge_again"
        if leakage.drop_old_edge and ends.is_old_edge(statement, facts.names):
            return "old_edge"
        if leakage.answers:
            for node in (statement.subject, statement.object):
                if node not in exempt and leakage.gives_away(node, facts.names(node)):
                    return "answer"
        subject = statement.subject
        if leaves_out_subject and ends.is_subject(subject, facts.names(subject)):
            return "of_the_subject"
        return None

    return find_reason
