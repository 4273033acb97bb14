"""What linking gives back: candidates with reasons, and whether one of them clearly leads.

How many points each kind of evidence is worth. Names decide first, then the relation, then how much is said.

Candidates in the making: found by a name or an id, followed to where they were merged, housekeeping left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar

from wikidata_cache.errors import AmbiguousLabelError, UnknownLabelError
from wikidata_cache.labels.label_index import EntityKind, Match
from wikidata_cache.labels.names import normalise, words
from wikidata_cache.linking.knowledge import About, Ends, Knowledge

Status = Literal["exact", "ambiguous", "none"]
Policy = Literal["clear", "top"]

LEAD = 2.0  # points by which the best candidate must lead


class Reason(NamedTuple):
    """Something that speaks for a candidate, or (with no or negative points) against it."""

    points: float
    text: str

    def __str__(self) -> str:
        return f"{self.points:+.1f} {self.text}"


@dataclass(frozen=True)
class Candidate:
    """An entity that a text may mean. `score` is the sum of its reasons' points (`points.py`).

    `can_settle` says that the text is one of its names as a whole (or its id), and that nothing known of
    the relation speaks against it.
    """

    id: str
    label: str | None
    description: str | None
    types: tuple[str, ...]
    reasons: tuple[Reason, ...]
    can_settle: bool

    @property
    def score(self) -> float:
        """The points of all reasons together."""
        return round(sum(reason.points for reason in self.reasons), 2)

    def __str__(self) -> str:
        said = self.description or ", ".join(self.types) or "of no stated type"
        return f"{self.id} ({self.label or 'without a label'}: {said})"


@dataclass(frozen=True)
class Linked:
    """The candidates for a text, the best first; `notes` say what could not be looked at.

    The status is "exact" where the best candidate can settle and leads by at least `LEAD` points, "none"
    where there is no candidate, and else "ambiguous": then a person has to choose.
    """

    text: str
    candidates: tuple[Candidate, ...]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """Whether one candidate clearly leads."""
        if not self.candidates:
            return "none"
        best, *others = self.candidates
        leads = not others or round(best.score - others[0].score, 2) >= LEAD
        return "exact" if best.can_settle and leads else "ambiguous"

    def only(self, *, policy: Policy = "clear") -> Candidate:
        """The one that is meant; `policy="top"` takes the best candidate even where it does not clearly lead.

        Raises UnknownLabelError where there is none, AmbiguousLabelError where none clearly leads.
        """
        if not self.candidates:
            raise UnknownLabelError(self.text, self.source)
        if policy != "top" and self.status != "exact":
            ids = [candidate.id for candidate in self.candidates]
            raise AmbiguousLabelError(self.text, ids, [str(candidate) for candidate in self.candidates])
        return self.candidates[0]

    def to_json(self) -> dict[str, object]:
        """Plain JSON values, with the reasons in words."""
        return {
            "text": self.text,
            "status": self.status,
            "source": self.source,
            "candidates": [_as_json(candidate) for candidate in self.candidates],
            "notes": list(self.notes),
        }


class Scored(Protocol):
    """Whatever has an id and points."""

    @property
    def id(self) -> str:
        """A Wikidata id."""

    @property
    def score(self) -> float:
        """Its points."""


_S = TypeVar("_S", bound=Scored)


def ranked(found: Iterable[_S]) -> list[_S]:
    """The highest score first; of equals the lower number, which is mostly the better known entity."""
    return sorted(found, key=lambda one: (-round(one.score, 2), int(one.id[1:])))


def _as_json(candidate: Candidate) -> dict[str, object]:
    reasons = [str(reason) for reason in candidate.reasons]
    return asdict(candidate) | {"score": candidate.score, "types": list(candidate.types), "reasons": reasons}


ID = 30.0  # the text is the entity's id
STATED = 20.0  # subject, relation and object are stated together in the graph
LABEL = 10.0  # the label, written exactly so
ALIAS = 8.0  # another name, written exactly so
OTHERWISE_WRITTEN = -1.0  # a name but for case, accents and spaces
WORDS = 3.0  # all words of the text are in a name
FOUND = 1.0  # a search gives it for the text, though its names say otherwise
TYPE = 3.0  # of a type that the relation's other values (or subjects) have
OTHER_TYPE = -2.0  # of other types
AT_THIS_END = 4.0  # is a value (or subject) of the relation elsewhere in the graph
LIKE_OLD = 1.0  # the new target is of a type of the old one
IN_GRAPH = 1.0  # the graph states something about it
TENFOLD = 1.0  # ten times as many statements

_COMMON = 0.1  # a type that a tenth of a relation's values have is what the relation expects

_ENOUGH = 30  # entities; of fewer, an absent type says nothing


def for_name(match: Match, text: str) -> Reason:
    """How the text and the name agree."""
    kind = "label" if match.kind == "label" else "alias"
    points = LABEL if match.kind == "label" else ALIAS
    if match.text == text:
        return Reason(points, f"its {kind}, written exactly so")
    if normalise(match.text) == normalise(text):
        return Reason(points + OTHERWISE_WRITTEN, f"its {kind}, written {match.text!r}")
    if set(words(normalise(text))) <= set(words(normalise(match.text))):
        return Reason(WORDS, f"all words are in its {kind} {match.text!r}")
    return Reason(FOUND, f"found by a search; its {kind} is {match.text!r}")


def for_type(about: About, ends: Ends, names: Mapping[str, str]) -> Reason | None:
    """Whether the entity is of a type that the relation's sampled values (or subjects) have; None if unknown."""
    if not about.types:
        return None
    best = max(sorted(about.types), key=lambda kind: ends.shares.get(kind, 0.0))
    share = ends.shares.get(best, 0.0)
    who = "values" if ends.role == "object" else "subjects"
    if share >= _COMMON:
        return Reason(TYPE, f"{names.get(best, best)}, as {share:.0%} of the {who} of {ends.relation}")
    if share > 0:
        return Reason(TYPE / 2, f"{names.get(best, best)}, as few of the {who} of {ends.relation}")
    if ends.sampled < _ENOUGH:
        return None
    return Reason(OTHER_TYPE, f"of no type that the {who} of {ends.relation} have")


def for_statements(about: About) -> Reason:
    """Whether the graph states anything about the entity, and how much."""
    if about.statements is None:
        return Reason(0.0, "the cache does not hold its statements")
    if not (number := len(about.statements)):
        return Reason(0.0, "nothing is stated about it")
    said = f"{number} statements" if number > 1 else "one statement"
    return Reason(IN_GRAPH + round(TENFOLD * math.log10(number), 1), f"{said} about it")


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
        return self.reasons[0].points > WORDS

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
    names = {match.id: for_name(match, text) for match in matches}
    if given:
        names[given] = Reason(ID, "given by its id")
    drafts = _followed(knowledge, names)
    for draft in drafts:
        draft.can_settle = draft.is_whole
        draft.add(for_statements(draft.about) if kind == "item" else None)
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
    return any(reason.points == ID for reason in draft.reasons)


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
