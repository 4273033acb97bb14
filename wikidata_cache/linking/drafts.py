"""Candidates in the making: found by a name or an id, followed to where they were merged, housekeeping left out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wikidata_cache.labels.label_index import EntityKind
from wikidata_cache.labels.names import normalise
from wikidata_cache.linking import points
from wikidata_cache.linking.candidates import Candidate, Reason
from wikidata_cache.linking.knowledge import About, Knowledge

_ID = re.compile(r"(?:wd:|https?://www\.wikidata\.org/(?:entity|wiki)/(?:Property:)?)?([QP][1-9][0-9]*)", re.ASCII)
POOL = 50  # entities that are looked at
_LETTERS = {"item": "Q", "property": "P"}


@dataclass
class Draft:
    """A candidate whose reasons are still being gathered."""

    id: str
    about: About
    reasons: list[Reason] = field(default_factory=list)
    can_settle: bool = True

    def add(self, reason: Reason | None, *, settles: bool | None = None) -> None:
        """Note a reason; `settles` changes whether the candidate can settle the text."""
        if reason is not None:
            self.reasons.append(reason)
        if settles is not None:
            self.can_settle = settles

    @property
    def score(self) -> float:
        """The points so far."""
        return sum(reason.points for reason in self.reasons)

    @property
    def is_whole(self) -> bool:
        """Whether the text is a whole name, or the id."""
        return self.reasons[0].points > points.WORDS

    def candidate(self, names: Mapping[str, str]) -> Candidate:
        """The finished candidate, with its types in words."""
        types = tuple(sorted(names.get(kind, kind) for kind in self.about.types))
        label, description = self.about.label, self.about.description
        return Candidate(self.id, label, description, types, tuple(self.reasons), self.can_settle)


def gather(
    knowledge: Knowledge,
    text: str,
    kind: EntityKind,
    *,
    expected_label: str | None,
    internal: frozenset[str],
    only_id: bool = False,
) -> list[Draft]:
    """Drafts for a text, with what speaks for them whatever the relation.

    Items of `internal` classes are left out, unless the text is their id; with `only_id` it is nothing else.
    """
    given = given_id(text, kind)
    matches = () if only_id else knowledge.named(text, limit=POOL, entity=kind)
    names = {match.id: points.for_name(match, text) for match in matches}
    if given:
        names[given] = Reason(points.ID, "given by its id")
    drafts = _followed(knowledge, names)
    for draft in drafts:
        draft.can_settle = draft.is_whole
        draft.add(points.for_statements(draft.about) if kind == "item" else None)
    if given:
        _verify(knowledge, drafts, given, expected_label, kind)
    return [draft for draft in drafts if not draft.about.types & internal or _is_given(draft)]


def given_id(text: str, kind: EntityKind) -> str | None:
    """The id that a text is: Q65, wd:Q65 or https://www.wikidata.org/wiki/Q65."""
    found = _ID.fullmatch(text)
    return found[1] if found and found[1].startswith(_LETTERS[kind]) else None


def _followed(knowledge: Knowledge, names: Mapping[str, Reason]) -> list[Draft]:
    """A draft for each entity, or for the one into which it was merged."""
    about = dict(knowledge.about(names))
    ends = {entity: about[entity].merged_into or entity for entity in names}
    about |= knowledge.about(set(ends.values()) - about.keys())
    drafts = {end: Draft(end, about[end]) for end in ends.values()}
    for entity, reason in sorted(names.items(), key=lambda item: -item[1].points):
        draft = drafts[ends[entity]]
        if not draft.reasons:  # of several names the best
            draft.add(reason)
            if draft.id != entity:
                draft.add(Reason(0.0, f"{entity} was merged into it"))
    return list(drafts.values())


def _is_given(draft: Draft) -> bool:
    return any(reason.points == points.ID for reason in draft.reasons)


def _verify(knowledge: Knowledge, drafts: Sequence[Draft], given: str, expected: str | None, kind: EntityKind) -> None:
    """Say whether the entity given by its id is known, and is called what it is expected to be called."""
    draft = next(filter(_is_given, drafts))
    if draft.about in (About(), About(statements=None)):
        draft.add(Reason(0.0, f"nothing is known of it in {knowledge.name}"), settles=False)
    if expected is None:
        return
    if normalise(draft.about.label or "") == normalise(expected):
        draft.add(Reason(0.0, "its label is the expected one"))
    elif {given, draft.id} & _called(knowledge, expected, kind):
        draft.add(Reason(0.0, f"{expected!r} is another name of it"))
    else:
        draft.add(Reason(0.0, f"its label is {draft.about.label!r}, not {expected!r}"), settles=False)


def _called(knowledge: Knowledge, name: str, kind: EntityKind) -> set[str]:
    """The entities of which this is a whole name."""
    found = knowledge.named(name, limit=POOL, entity=kind)
    return {match.id for match in found if normalise(match.text) == normalise(name)}
