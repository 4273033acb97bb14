"""Link all parts of an edit together; candidates that form a fact of the graph get the most points.

`link_edit` scores subject, relation, old and new object separately. Then it rewards candidates that form a fact of the
graph, and new objects that have a type of the old object. `link_all` links many edits, with shared requests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm

from wikidata_cache.ids import Statement, is_entity
from wikidata_cache.labels.label_index import EntityKind, normalise
from wikidata_cache.linking import candidates
from wikidata_cache.linking.candidates import POOL, Candidate, CandidateBuilder, LinkResult, Reason, given_id, ranked
from wikidata_cache.linking.knowledge import EntityInfo, Knowledge
from wikidata_cache.linking.linker import Linker
from wikidata_cache.sources.queries import Role
from wikidata_cache.subgraphs.edit_ends import EditLike


@dataclass(frozen=True)
class LinkedEdit:
    """The candidates for each part of an edit; `relation` and `target_true` are None where the edit has none.

    `stated` is the fact (subject, relation, target_true) if the graph states exactly one combination of candidates,
    else None.
    """

    subject: LinkResult
    relation: LinkResult | None
    target_new: LinkResult
    target_true: LinkResult | None
    stated: Statement | None

    def parts(self) -> dict[str, LinkResult]:
        """Return the parts that the edit has, by the name of their id field, such as "subject_id"."""
        found = {
            "subject_id": self.subject,
            "relation_id": self.relation,
            "target_new_id": self.target_new,
            "target_true_id": self.target_true,
        }
        return {name: linked for name, linked in found.items() if linked is not None}

    def clear_candidates(self) -> dict[str, Candidate]:
        """Return the best candidate of each part that has a clearly leading one, by the name of the id field."""
        return {name: linked.candidates[0] for name, linked in self.parts().items() if linked.status == "exact"}


def link_edit(linker: Linker, edit: EditLike, *, limit: int = 10) -> LinkedEdit:
    """Link all parts of an edit. Ids that the edit already has are checked by their labels.

    Candidates for subject, relation and target_true that form a fact of the graph gain many points. Candidates for
    target_new gain points if they have a type of the old target. Raises BadOptionError for a malformed relation id.
    """
    parts = parts_of(edit)
    relations = builders_for(linker, parts.relation)
    relation = edit.relation_id or _clear_property(relations)
    subjects = builders_for(linker, parts.subject, relation)
    old = builders_for(linker, parts.target_true, relation)
    new = builders_for(linker, parts.target_new, relation)
    facts = _stated(subjects, {builder.id for builder in relations}, old)
    _reward(facts, subjects, relations, old)
    _compare(linker, new, old)

    def done(text: str | None, builders: Sequence[CandidateBuilder], role: Role = "object") -> LinkResult:
        return linker.result(text or "", builders, relation=relation, role=role, limit=limit)

    return LinkedEdit(
        subject=done(edit.subject, subjects, "subject"),
        relation=done(edit.relation or edit.relation_id, relations) if edit.relation or relation else None,
        target_new=done(edit.target_new, new),
        target_true=done(edit.target_true, old) if edit.target_true or edit.target_true_id else None,
        stated=facts[0] if len(facts) == 1 else None,
    )


def _stated(
    subjects: Sequence[CandidateBuilder], relations: Iterable[str], old: Sequence[CandidateBuilder]
) -> list[Statement]:
    """Return the facts of the graph that a subject, a relation and an old target form; without relations, any counts.

    Candidates that match only by some words of a name are tried only if those with whole names form no fact.
    """
    wanted = set(relations)
    whole = _facts([one for one in subjects if one.is_whole], wanted, [one for one in old if one.is_whole])
    return whole or _facts(subjects, wanted, old)


def _facts(
    subjects: Sequence[CandidateBuilder], relations: Collection[str], old: Sequence[CandidateBuilder]
) -> list[Statement]:
    targets = {builder.id for builder in old}
    return [
        Statement(subject.id, relation, target)
        for subject in subjects
        for relation, target in sorted(subject.info.statements or ())
        if target in targets - {subject.id} and (relation in relations or not relations)
    ]


def _reward(
    facts: Sequence[Statement],
    subjects: Sequence[CandidateBuilder],
    relations: Sequence[CandidateBuilder],
    old: Sequence[CandidateBuilder],
) -> None:
    for builders, column in ((subjects, 0), (relations, 1), (old, 2)):
        for builder in builders:
            if fact := next((fact for fact in facts if fact[column] == builder.id), None):
                builder.add(Reason(candidates.STATED, f"{' '.join(fact)} is stated in the graph"), can_settle=True)


def _compare(linker: Linker, new: Sequence[CandidateBuilder], old: Sequence[CandidateBuilder]) -> None:
    """Reward candidates for the new object that share a type with the best candidate for the old object."""
    if not old:
        return
    best = max(old, key=lambda builder: builder.score)
    shared = {builder.id: builder.info.types & best.info.types for builder in new}
    names = linker.knowledge.labels(set().union(*shared.values()))
    for builder in new:
        if kinds := sorted(names.get(kind, kind) for kind in shared[builder.id]):
            builder.add(Reason(candidates.LIKE_OLD, f"{kinds[0]}, like {best.info.label or best.id}"))


def _clear_property(relations: Sequence[CandidateBuilder]) -> str | None:
    """Return the id of the property that clearly leads among the candidates, or None."""
    linked = LinkResult("", tuple(builder.candidate({}) for builder in ranked(relations)), "")
    return linked.candidates[0].id if linked.status == "exact" else None


def relation_of(linker: Linker, edit: EditLike) -> str | None:
    """Return the property of an edit: its relation id, else the property that its relation text clearly names."""
    return edit.relation_id or _clear_property(builders_for(linker, parts_of(edit).relation))


def builders_for(linker: Linker, part: EditPart, relation: str | None = None) -> list[CandidateBuilder]:
    """Return candidates for one part: the given id, checked by its label, or all entities that the text may mean."""
    if not part.text:
        return []
    return linker.builders(
        part.text,
        relation=relation,
        role=part.role,
        kind=part.kind,
        expected_label=part.expected,
        only_id=part.given,
    )


class EditPart(NamedTuple):
    """One part of an edit to link: `text` is a label, or if `given` an id whose label should be `expected`."""

    text: str
    given: bool
    expected: str | None
    kind: EntityKind
    role: Role


class EditParts(NamedTuple):
    """The parts of an edit; missing parts have an empty text."""

    subject: EditPart
    relation: EditPart
    target_new: EditPart
    target_true: EditPart

    @property
    def items(self) -> tuple[EditPart, EditPart, EditPart]:
        """The parts that are items: subject, new object, old object."""
        return self.subject, self.target_new, self.target_true


def parts_of(edit: EditLike) -> EditParts:
    """Return the parts of an edit to link."""
    return EditParts(
        _part(edit.subject_id, edit.subject, role="subject"),
        _part(edit.relation_id, edit.relation, kind="property"),
        _part(edit.target_new_id, edit.target_new),
        _part(edit.target_true_id, edit.target_true),
    )


def _part(given: str | None, text: str | None, *, kind: EntityKind = "item", role: Role = "object") -> EditPart:
    label = text if text and not is_entity(text) else None
    return (
        EditPart(given, True, label, kind, role) if given else EditPart((text or "").strip(), False, None, kind, role)
    )


def link_all(linker: Linker, edits: Sequence[EditLike], *, limit: int = 10) -> Iterator[LinkedEdit]:
    """Yield `link_edit` of each edit, in order. For a remote source, the requests of all edits are shared.

    Raises the errors of `link_edit`, and those of the graph if it cannot answer, such as CacheMissError.
    """
    if linker.knowledge.is_remote:
        _prefetch_names(linker.knowledge, list(dict.fromkeys(part for edit in edits for part in parts_of(edit))))
        linker.ask_ends(_at_ends(linker, edits))
    for edit in tqdm(edits, desc="linking", unit="edit", disable=None, leave=False):
        yield link_edit(linker, edit, limit=limit)


def _prefetch_names(knowledge: Knowledge, parts: Sequence[EditPart]) -> None:
    """Fetch all names, the entities they may mean or were merged into, and the labels of the types of these."""
    knowledge.prefetch_names(part.text for part in parts if not part.given)
    bar = tqdm(parts, desc="names", unit="name", disable=None, leave=False)
    about = dict(knowledge.info({entity for part in bar for entity in _meant(knowledge, part)}))
    merged = {said.merged_into for said in about.values() if said.merged_into}
    about |= knowledge.info(merged - about.keys())
    knowledge.labels({kind for said in about.values() for kind in said.types})
    knowledge.prefetch_names(part.expected for part in parts if part.expected and not _is_called(part, about))


def _meant(knowledge: Knowledge, part: EditPart) -> set[str]:
    """Return the ids of all entities that a part of an edit may mean."""
    matches = () if part.given or not part.text else knowledge.named(part.text, limit=POOL, entity=part.kind)
    given = given_id(part.text, part.kind)
    return {match.id for match in matches} | ({given} if given else set())


def _is_called(part: EditPart, about: Mapping[str, EntityInfo]) -> bool:
    """Return whether the entity of a given id has the expected label."""
    said = about.get(part.text, EntityInfo())
    said = about[said.merged_into] if said.merged_into else said
    return normalise(said.label or "") == normalise(part.expected or "")


def _at_ends(linker: Linker, edits: Sequence[EditLike]) -> Mapping[tuple[str, Role], Collection[str]]:
    """Return {(property, role): ids of the candidates for this end of the relation}, without further requests."""
    found: dict[tuple[str, Role], set[str]] = defaultdict(set)
    for edit in edits:
        if relation := relation_of(linker, edit):
            for part in parts_of(edit).items:
                found[relation, part.role].update(builder.id for builder in builders_for(linker, part))
    return found
