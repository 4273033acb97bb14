"""Link all parts of an edit together; candidates that form a fact of the graph get the most points.

`link_edit` scores subject, relation, old and new object separately. Then it rewards candidates that form a fact of the
graph, and new objects that have a type of the old object. `link_all` links many edits, with shared requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kg_common.ids import is_entity
from kg_common.progress import Bar
from wikidata_cache.errors import AmbiguousLabelError
from wikidata_cache.ids import Statement
from wikidata_cache.labels.label_index import EntityKind, normalise
from wikidata_cache.linking.candidates import (
    LIKE_OLD,
    POOL,
    STATED,
    Candidate,
    LinkResult,
    Mention,
    Reason,
    find_status,
    parse_id,
    rank_candidates,
)
from wikidata_cache.linking.knowledge import EntityInfo, Knowledge
from wikidata_cache.linking.linker import Linker
from wikidata_cache.sources.queries import Role
from wikidata_cache.subgraphs.edit_ends import EditLike


@dataclass(frozen=True)
class LinkedEdit:
    """The candidates for each part of an edit; `relation` and `target_true` are None where the edit has none."""

    subject: LinkResult
    relation: LinkResult | None
    target_new: LinkResult
    target_true: LinkResult | None

    def parts(self) -> dict[str, LinkResult]:
        """Return the parts that the edit has, by the name of their id field, such as "subject_id"."""
        parts = {
            "subject_id": self.subject,
            "relation_id": self.relation,
            "target_new_id": self.target_new,
            "target_true_id": self.target_true,
        }
        return {name: linked for name, linked in parts.items() if linked is not None}

    def clear_candidates(self) -> dict[str, Candidate]:
        """Return the best candidate of each part that has a clearly leading one, by the name of the id field."""
        return {name: linked.candidates[0] for name, linked in self.parts().items() if linked.status == "exact"}


def link_edit(linker: Linker, edit: EditLike, *, limit: int = 10) -> LinkedEdit:
    """Link all parts of an edit. Ids that the edit already has are checked by their labels.

    Candidates for subject, relation and target_true that form a fact of the graph gain many points. Candidates for
    target_new gain points if they have a type of the old target.

    Args:
        linker: over the graph whose facts count.
        edit: labels, and ids where they are known.
        limit: the largest number of candidates for each part.

    Returns:
        The candidates of each part, the best first.
    """
    mentions = _write_mentions(edit)
    relations = linker.candidates(mentions.relation)
    # The other parts are linked with the relation, where it is clear.
    property_id = edit.relation_id or _choose_property(relations)
    subject = mentions.subject._replace(relation=property_id)
    new_object = mentions.target_new._replace(relation=property_id)
    old_object = mentions.target_true._replace(relation=property_id)
    subjects = linker.candidates(subject)
    new_objects = linker.candidates(new_object)
    old_objects = linker.candidates(old_object)

    facts = _find_facts(subjects, relations, old_objects)
    _reward_stated(subjects, facts, "subject")
    _reward_stated(relations, facts, "property")
    _reward_stated(old_objects, facts, "object")
    if old_objects:
        _reward_like_old(new_objects, old_objects, linker.knowledge)

    relation_result = None
    relation_text = edit.relation or property_id
    if relation_text:
        relation_result = linker.make_result(relation_text, mentions.relation, relations, limit=limit)
    old_result = None
    if edit.target_true or edit.target_true_id:
        old_result = linker.make_result(edit.target_true or "", old_object, old_objects, limit=limit)
    return LinkedEdit(
        subject=linker.make_result(edit.subject, subject, subjects, limit=limit),
        relation=relation_result,
        target_new=linker.make_result(edit.target_new, new_object, new_objects, limit=limit),
        target_true=old_result,
    )


def _find_facts(
    subjects: Sequence[Candidate], relations: Sequence[Candidate], targets: Sequence[Candidate]
) -> list[Statement]:
    """Return the facts of the graph that candidates for the subject, the relation and the old object form.

    Candidates that match only by some words of a name are tried only if those with whole names form no fact.
    """
    named_subjects = [candidate for candidate in subjects if candidate.has_full_name]
    named_targets = [candidate for candidate in targets if candidate.has_full_name]
    facts = _list_facts(named_subjects, relations, named_targets)
    if facts:
        return facts
    return _list_facts(subjects, relations, targets)


def _list_facts(
    subjects: Sequence[Candidate], relations: Sequence[Candidate], targets: Sequence[Candidate]
) -> list[Statement]:
    """Return the statements of a subject with a relation and a target; without relations, any relation counts."""
    relation_ids = {candidate.id for candidate in relations}
    target_ids = {candidate.id for candidate in targets}
    facts = []
    for subject in subjects:
        for relation, target in sorted(subject.info.statements or ()):
            if relation_ids and relation not in relation_ids:
                continue
            if target in target_ids and target != subject.id:
                facts.append(Statement(subject.id, relation, target))
    return facts


def _reward_stated(candidates: Sequence[Candidate], facts: Sequence[Statement], part: str) -> None:
    """Add points to the candidates for one part of an edit ("subject", "property" or "object") that form a fact."""
    first_facts: dict[str, Statement] = {}
    for fact in facts:
        first_facts.setdefault(getattr(fact, part), fact)
    for candidate in candidates:
        if candidate.id in first_facts:
            words = f"{' '.join(first_facts[candidate.id])} is stated in the graph"
            candidate.reasons.append(Reason(STATED, words))
            candidate.is_stated = True  # `Candidate.can_settle` says what this outweighs


def _reward_like_old(new: Sequence[Candidate], old: Sequence[Candidate], knowledge: Knowledge) -> None:
    """Add points to candidates for the new object that have a type of the best candidate for the old object."""
    best = max(old, key=lambda candidate: candidate.score)
    shared_types: set[str] = set()
    for candidate in new:
        shared_types |= candidate.info.types & best.info.types
    names = knowledge.labels(shared_types)
    for candidate in new:
        type_ids = candidate.info.types & best.info.types
        type_names = sorted(names.get(type_id, type_id) for type_id in type_ids)
        if type_names:
            words = f"{type_names[0]}, like {best.info.label or best.id}"
            candidate.reasons.append(Reason(LIKE_OLD, words))


def sort_candidates(linker: Linker, edit: EditLike, error: AmbiguousLabelError) -> AmbiguousLabelError:
    """Return the error of an edit's new object with its candidates in the order in which the edit ranks them."""
    ranked = link_edit(linker, edit, limit=POOL).target_new.candidates
    ranks = {candidate.id: number for number, candidate in enumerate(ranked)}
    described = dict(zip(error.candidates, error.described, strict=True))
    best = sorted(described, key=lambda entity: ranks.get(entity, len(ranks)))  # stable: the others as they were
    return AmbiguousLabelError(error.label, best, [described[entity] for entity in best])


def link_all(linker: Linker, edits: Sequence[EditLike], *, limit: int = 10) -> Iterator[LinkedEdit]:
    """Yield `link_edit` of each edit, in order. For a remote source, the requests of all edits are shared.

    Raises the errors of `link_edit`, and those of the graph if it cannot answer, such as CacheMissError.
    """
    mentions = [_write_mentions(edit) for edit in edits]
    distinct: dict[Mention, None] = {}  # as an ordered set
    for mentions_of_edit in mentions:
        distinct.update(dict.fromkeys(mentions_of_edit))
    every_mention = list(distinct)
    if linker.knowledge.is_remote:
        _prefetch_names(linker.knowledge, every_mention)
        linker.prefetch_ends(_find_ends(linker, edits, mentions))
    else:  # A cache over a local graph is searched once for all names; a graph alone does nothing here.
        linker.knowledge.prefetch_names(mention.text for mention in every_mention if not mention.only_id)
    for edit in Bar(edits, title="linking", unit="edit", leave=False):
        yield link_edit(linker, edit, limit=limit)


def _find_ends(
    linker: Linker, edits: Sequence[EditLike], mentions: Sequence[_EditMentions]
) -> dict[tuple[str, Role], set[str]]:
    """Return the candidates for each end of each clear relation; with the names in memory, they cost no request."""
    ends: dict[tuple[str, Role], set[str]] = defaultdict(set)
    for edit, parts in zip(edits, mentions, strict=True):
        property_id = edit.relation_id or _choose_property(linker.candidates(parts.relation))
        if property_id is None:
            continue
        for part in (parts.subject, parts.target_new, parts.target_true):
            ends[property_id, part.role].update(candidate.id for candidate in linker.candidates(part))
    return ends


class _EditMentions(NamedTuple):
    """The parts of an edit to link; a missing part has an empty text."""

    subject: Mention
    relation: Mention
    target_new: Mention
    target_true: Mention


def _write_mentions(edit: EditLike) -> _EditMentions:
    """Return the parts of an edit to link."""
    return _EditMentions(
        subject=_write_mention(edit.subject_id, edit.subject, role="subject"),
        relation=_write_mention(edit.relation_id, edit.relation, kind="property"),
        target_new=_write_mention(edit.target_new_id, edit.target_new),
        target_true=_write_mention(edit.target_true_id, edit.target_true),
    )


def _write_mention(
    entity: str | None, text: str | None, *, kind: EntityKind = "item", role: Role = "object"
) -> Mention:
    """Return a part of an edit to link: its id, whose label should be the text, or the text where there is no id."""
    text = text or ""
    if not entity:
        return Mention(text.strip(), kind, role)
    label = None
    if text and not is_entity(text):
        label = text
    return Mention(entity, kind, role, expected_label=label, only_id=True)


def _choose_property(relations: Sequence[Candidate]) -> str | None:
    """Return the id of the property that clearly leads among the candidates, or None."""
    ranked = rank_candidates(relations)
    if find_status(ranked) != "exact":
        return None
    return ranked[0].id


def _prefetch_names(knowledge: Knowledge, mentions: Sequence[Mention]) -> None:
    """Fetch all names, the entities they may mean or were merged into, and the labels of the types of these.

    The results are in the memory of `knowledge`, for the questions that `link_edit` asks.
    """
    knowledge.prefetch_names(mention.text for mention in mentions if not mention.only_id)
    ids: set[str] = set()
    for mention in Bar(mentions, title="names", unit="name", leave=False):
        if mention.text and not mention.only_id:
            ids |= {match.id for match in knowledge.named(mention.text, limit=POOL, kind=mention.kind)}
        own_id = parse_id(mention.text, mention.kind)
        if own_id:
            ids.add(own_id)
    infos = dict(knowledge.info(ids))
    merged = {info.merged_into for info in infos.values() if info.merged_into}
    infos |= knowledge.info(merged - infos.keys())
    types: set[str] = set()
    for info in infos.values():
        types |= info.types
    knowledge.labels(types)
    knowledge.prefetch_names(_list_other_names(mentions, infos))


def _list_other_names(mentions: Sequence[Mention], infos: Mapping[str, EntityInfo]) -> list[str]:
    """Return the expected labels that are not the labels of their ids: these may be other names of the entities."""
    names = []
    for mention in mentions:
        info = infos.get(mention.text, EntityInfo())
        if info.merged_into:
            info = infos[info.merged_into]
        if mention.expected_label and normalise(info.label or "") != normalise(mention.expected_label):
            names.append(mention.expected_label)
    return names
