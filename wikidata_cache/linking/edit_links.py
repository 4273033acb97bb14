"""The ends and the relation of an edit, linked together: a fact that the graph states settles all of its parts.

The parts of an edit, as linking asks about them.

Many edits linked together: what all of them need is asked for hop by hop, then each is linked from what is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm

from wikidata_cache.ids import Statement, is_entity
from wikidata_cache.labels.label_index import EntityKind
from wikidata_cache.labels.names import normalise
from wikidata_cache.linking import candidates
from wikidata_cache.linking.candidates import POOL, Candidate, Draft, Linked, Reason, given_id, ranked
from wikidata_cache.linking.knowledge import About, Knowledge
from wikidata_cache.linking.linker import Linker
from wikidata_cache.sources.queries import Role
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


@dataclass(frozen=True)
class LinkedEdit:
    """What each part of an edit may mean. `relation` and `target_true` are None where the edit has none.

    `stated` is the fact subject, relation, target_true where exactly one reading of it is in the graph.
    """

    subject: Linked
    relation: Linked | None
    target_new: Linked
    target_true: Linked | None
    stated: Statement | None

    def parts(self) -> dict[str, Linked]:
        """The parts that the edit has, by the name of the field for their id."""
        found = {
            "subject_id": self.subject,
            "relation_id": self.relation,
            "target_new_id": self.target_new,
            "target_true_id": self.target_true,
        }
        return {name: linked for name, linked in found.items() if linked is not None}

    def settled(self) -> dict[str, Candidate]:
        """The parts of which one candidate clearly leads."""
        return {name: linked.candidates[0] for name, linked in self.parts().items() if linked.status == "exact"}


def link_edit(linker: Linker, edit: EditLike, *, limit: int = 10) -> LinkedEdit:
    """Link all parts of an edit; ids that it has are checked by their labels.

    Candidates for subject, relation and target_true of which the graph states the fact gain many points; the
    new target gains where it has a type of the old one. Raises BadOptionError for a malformed relation id.
    """
    parts = parts_of(edit)
    relations = drafts_of(linker, parts.relation)
    relation = edit.relation_id or _leader(relations)
    subjects = drafts_of(linker, parts.subject, relation)
    old = drafts_of(linker, parts.target_true, relation)
    new = drafts_of(linker, parts.target_new, relation)
    facts = _stated(subjects, {draft.id for draft in relations}, old)
    _reward(facts, subjects, relations, old)
    _compare(linker, new, old)

    def done(text: str | None, drafts: Sequence[Draft], role: Role = "object") -> Linked:
        return linker.finished(text or "", drafts, relation=relation, role=role, limit=limit)

    return LinkedEdit(
        subject=done(edit.subject, subjects, "subject"),
        relation=done(edit.relation or edit.relation_id, relations) if edit.relation or relation else None,
        target_new=done(edit.target_new, new),
        target_true=done(edit.target_true, old) if edit.target_true or edit.target_true_id else None,
        stated=facts[0] if len(facts) == 1 else None,
    )


def drafts_of(linker: Linker, part: Part, relation: str | None = None) -> list[Draft]:
    """Candidates for one part: the id that is given, checked by its label, else whatever the text may mean."""
    if not part.text:
        return []
    return linker.drafts(
        part.text,
        relation=relation,
        role=part.role,
        kind=part.kind,
        expected_label=part.expected,
        only_id=part.given,
    )


def relation_of(linker: Linker, edit: EditLike) -> str | None:
    """The property of an edit: its id, or the one that its words clearly name."""
    return edit.relation_id or _leader(drafts_of(linker, parts_of(edit).relation))


def _leader(relations: Sequence[Draft]) -> str | None:
    """The property that the relation's words clearly name."""
    linked = Linked("", tuple(draft.candidate({}) for draft in ranked(relations)), "")
    return linked.candidates[0].id if linked.status == "exact" else None


def _stated(subjects: Sequence[Draft], relations: Iterable[str], old: Sequence[Draft]) -> list[Statement]:
    """The facts of the graph that a subject, a relation and an old target make; any relation where none is known.

    Parts of names count only where whole names make no fact.
    """
    wanted = set(relations)
    whole = _facts([one for one in subjects if one.is_whole], wanted, [one for one in old if one.is_whole])
    return whole or _facts(subjects, wanted, old)


def _facts(subjects: Sequence[Draft], relations: Collection[str], old: Sequence[Draft]) -> list[Statement]:
    targets = {draft.id for draft in old}
    return [
        Statement(subject.id, relation, target)
        for subject in subjects
        for relation, target in sorted(subject.about.statements or ())
        if target in targets - {subject.id} and (relation in relations or not relations)
    ]


def _reward(
    facts: Sequence[Statement], subjects: Sequence[Draft], relations: Sequence[Draft], old: Sequence[Draft]
) -> None:
    for drafts, column in ((subjects, 0), (relations, 1), (old, 2)):
        for draft in drafts:
            if fact := next((fact for fact in facts if fact[column] == draft.id), None):
                draft.add(Reason(candidates.STATED, f"{' '.join(fact)} is stated in the graph"), settles=True)


def _compare(linker: Linker, new: Sequence[Draft], old: Sequence[Draft]) -> None:
    """A new target mostly is of the old one's type."""
    if not old:
        return
    best = max(old, key=lambda draft: draft.score)
    shared = {draft.id: draft.about.types & best.about.types for draft in new}
    names = linker.knowledge.labels(set().union(*shared.values()))
    for draft in new:
        if kinds := sorted(names.get(kind, kind) for kind in shared[draft.id]):
            draft.add(Reason(candidates.LIKE_OLD, f"{kinds[0]}, like {best.about.label or best.id}"))


def link_all(linker: Linker, edits: Sequence[EditLike], *, limit: int = 10) -> Iterator[LinkedEdit]:
    """`link_edit` of each edit, in order, with the questions of all edits together where each costs a request.

    Raises what `link_edit` raises, and what the graph raises where it cannot be asked, such as CacheMissError.
    """
    if linker.knowledge.far:
        _ask_names(linker.knowledge, list(dict.fromkeys(part for edit in edits for part in parts_of(edit))))
        linker.ask_ends(_at_ends(linker, edits))
    for edit in tqdm(edits, desc="linking", unit="edit", disable=None, leave=False):
        yield link_edit(linker, edit, limit=limit)


def _ask_names(knowledge: Knowledge, parts: Sequence[Part]) -> None:
    """Ask for all names, for all that they may mean or were merged into, and for the names of the types."""
    knowledge.ask_names(part.text for part in parts if not part.given)
    bar = tqdm(parts, desc="names", unit="name", disable=None, leave=False)
    about = dict(knowledge.about({entity for part in bar for entity in _meant(knowledge, part)}))
    merged = {said.merged_into for said in about.values() if said.merged_into}
    about |= knowledge.about(merged - about.keys())
    knowledge.labels({kind for said in about.values() for kind in said.types})
    knowledge.ask_names(part.expected for part in parts if part.expected and not _is_called(part, about))


def _meant(knowledge: Knowledge, part: Part) -> set[str]:
    """All that a part of an edit may mean."""
    matches = () if part.given or not part.text else knowledge.named(part.text, limit=POOL, entity=part.kind)
    given = given_id(part.text, part.kind)
    return {match.id for match in matches} | ({given} if given else set())


def _is_called(part: Part, about: Mapping[str, About]) -> bool:
    """Whether an id that is given has the label that it should have."""
    said = about.get(part.text, About())
    said = about[said.merged_into] if said.merged_into else said
    return normalise(said.label or "") == normalise(part.expected or "")


def _at_ends(linker: Linker, edits: Sequence[EditLike]) -> Mapping[tuple[str, Role], Collection[str]]:
    """The candidates for each end of each relation, from what is known by now."""
    found: dict[tuple[str, Role], set[str]] = defaultdict(set)
    for edit in edits:
        if relation := relation_of(linker, edit):
            for part in parts_of(edit).items:
                found[relation, part.role].update(draft.id for draft in drafts_of(linker, part))
    return found
