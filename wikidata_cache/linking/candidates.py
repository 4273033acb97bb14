"""Collect, score and rank the candidates for a text: the entities that it may mean.

Every candidate has reasons with points; its score is the sum of the points. Names count most (`LABEL`, `ALIAS`,
`WORDS`), then the relation (`TYPE`, `AT_THIS_END`), then the number of statements in the graph. The weights were chosen
on CounterFact records. A `CandidateBuilder` collects reasons; `Candidate` and `LinkResult` are final.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeVar

from wikidata_cache.errors import AmbiguousLabelError, UnknownLabelError
from wikidata_cache.labels.label_index import EntityKind, Match, name_words, normalise
from wikidata_cache.linking.knowledge import EntityInfo, Knowledge, RelationEndTypes

Status = Literal["exact", "ambiguous", "none"]
Policy = Literal["clear", "top"]

LEAD = 2.0  # points by which the best candidate must lead for the status "exact"

ID = 30.0  # the text is the entity's id
STATED = 20.0  # the graph states the fact (subject, relation, object) with this entity
LABEL = 10.0  # the text equals the label exactly
ALIAS = 8.0  # the text equals an alias exactly
OTHERWISE_WRITTEN = -1.0  # the text equals a name except for case, accents and spaces
WORDS = 3.0  # a name has all words of the text
FOUND = 1.0  # a search found it, although its names do not have all words of the text
TYPE = 3.0  # it has a type that many values (or subjects) of the relation have
OTHER_TYPE = -2.0  # it has no type that values (or subjects) of the relation have
AT_THIS_END = 4.0  # it is a value (or subject) of the relation somewhere in the graph
LIKE_OLD = 1.0  # the new target has a type of the old target
IN_GRAPH = 1.0  # the graph has a statement about it
TENFOLD = 1.0  # for each factor of ten in its number of statements

_COMMON = 0.1  # a type of at least this share of the values (or subjects) gets all points of TYPE, a rarer type half

_MIN_SAMPLE = 30  # entities; in a smaller sample, the absence of a type means nothing

_ID = re.compile(r"(?:wd:|https?://www\.wikidata\.org/(?:entity|wiki)/(?:Property:)?)?([QP][1-9][0-9]*)", re.ASCII)
POOL = 50  # largest number of entities to consider for a text
_LETTERS = {"item": "Q", "property": "P"}


class Reason(NamedTuple):
    """Evidence for a candidate (positive points) or against it (negative points); `text` describes it in words."""

    points: float
    text: str

    def __str__(self) -> str:
        return f"{self.points:+.1f} {self.text}"


@dataclass(frozen=True)
class Candidate:
    """An entity that a text may mean, with the labels of its classes as `types`.

    `can_settle` is True if the text is its id or one of its full names, and the relation does not contradict it. Only
    such a candidate can make a result "exact".
    """

    id: str
    label: str | None
    description: str | None
    types: tuple[str, ...]
    reasons: tuple[Reason, ...]
    can_settle: bool

    @property
    def score(self) -> float:
        """The sum of the points of all reasons, rounded to two digits."""
        return round(sum(reason.points for reason in self.reasons), 2)

    def __str__(self) -> str:
        said = self.description or ", ".join(self.types) or "no known type"
        return f"{self.id} ({self.label or 'without a label'}: {said})"


@dataclass(frozen=True)
class LinkResult:
    """The candidates for a text, the best first; `notes` say what could not be checked.

    The status is "none" without candidates; "exact" if the best candidate has `can_settle` and leads by at least `LEAD`
    points; else "ambiguous", and a person has to choose. `next_score` is the score of the best candidate that is not
    listed, or None where all are.
    """

    text: str
    candidates: tuple[Candidate, ...]
    source: str
    notes: tuple[str, ...] = ()
    next_score: float | None = None

    @property
    def status(self) -> Status:
        """The status: "exact" if one candidate clearly leads, else "ambiguous" or "none"."""
        if not self.candidates:
            return "none"
        best, *others = self.candidates
        second = others[0].score if others else self.next_score
        leads = second is None or round(best.score - second, 2) >= LEAD
        return "exact" if best.can_settle and leads else "ambiguous"

    def only(self, *, policy: Policy = "clear") -> Candidate:
        """Return the candidate that clearly leads; with `policy="top"`, return the best candidate in any case.

        Raises UnknownLabelError where there is no candidate, and AmbiguousLabelError where none clearly leads.
        """
        if not self.candidates:
            raise UnknownLabelError(self.text, self.source)
        if policy != "top" and self.status != "exact":
            ids = [candidate.id for candidate in self.candidates]
            raise AmbiguousLabelError(self.text, ids, [str(candidate) for candidate in self.candidates])
        return self.candidates[0]

    def to_json(self) -> dict[str, object]:
        """Return the result as plain JSON values; reasons are texts such as "+10.0 its label, exact match"."""
        return {
            "text": self.text,
            "status": self.status,
            "source": self.source,
            "candidates": [_as_json(candidate) for candidate in self.candidates],
            "notes": list(self.notes),
        }


def _as_json(candidate: Candidate) -> dict[str, object]:
    reasons = [str(reason) for reason in candidate.reasons]
    return asdict(candidate) | {"score": candidate.score, "types": list(candidate.types), "reasons": reasons}


class Scored(Protocol):
    """Anything with an id and a score, which `ranked` can order."""

    @property
    def id(self) -> str:
        """The Wikidata id, such as Q42."""

    @property
    def score(self) -> float:
        """The sum of the points of its reasons."""


_S = TypeVar("_S", bound=Scored)


def ranked(found: Iterable[_S]) -> list[_S]:
    """Sort by score, highest first; equal scores by id number, since lower numbers are mostly better known entities."""
    return sorted(found, key=lambda one: (-round(one.score, 2), int(one.id[1:])))


def for_name(match: Match, text: str) -> Reason:
    """Return the reason for a name that was found: how well it agrees with the text."""
    kind = "label" if match.kind == "label" else "alias"
    points = LABEL if match.kind == "label" else ALIAS
    if match.text == text:
        return Reason(points, f"its {kind}, exact match")
    if normalise(match.text) == normalise(text):
        return Reason(points + OTHERWISE_WRITTEN, f"its {kind}, written {match.text!r}")
    if set(name_words(normalise(text))) <= set(name_words(normalise(match.text))):
        return Reason(WORDS, f"all words are in its {kind} {match.text!r}")
    return Reason(FOUND, f"found by a search; its {kind} is {match.text!r}")


def for_type(info: EntityInfo, ends: RelationEndTypes, names: Mapping[str, str]) -> Reason | None:
    """Return the reason for the entity's types: whether sampled values (or subjects) of the relation have one of them.

    None if the types are unknown or the sample is too small to tell.
    """
    if not info.types:
        return None
    best = max(sorted(info.types), key=lambda kind: ends.shares.get(kind, 0.0))
    share = ends.shares.get(best, 0.0)
    who = "values" if ends.role == "object" else "subjects"
    if share >= _COMMON:
        return Reason(TYPE, f"{names.get(best, best)}, like {share:.0%} of the {who} of {ends.relation}")
    if share > 0:
        return Reason(TYPE / 2, f"{names.get(best, best)}, like a few of the {who} of {ends.relation}")
    if ends.sampled < _MIN_SAMPLE:
        return None
    return Reason(OTHER_TYPE, f"none of its types is common among the {who} of {ends.relation}")


def for_statements(info: EntityInfo) -> Reason:
    """Return the reason for the number of statements that the graph has about the entity."""
    if info.statements is None:
        return Reason(0.0, "its statements are not in the cache")
    if not (number := len(info.statements)):
        return Reason(0.0, "no statements about it")
    said = f"{number} statements" if number > 1 else "one statement"
    return Reason(IN_GRAPH + round(TENFOLD * math.log10(number), 1), f"{said} about it")


@dataclass
class CandidateBuilder:
    """A candidate to which reasons can be added; the first reason always says how it was found."""

    id: str
    info: EntityInfo
    reasons: list[Reason] = field(default_factory=list)
    can_settle: bool = True

    def add(self, reason: Reason | None, *, can_settle: bool | None = None) -> None:
        """Add a reason unless it is None; set the attribute `can_settle` unless the argument is None."""
        if reason is not None:
            self.reasons.append(reason)
        if can_settle is not None:
            self.can_settle = can_settle

    @property
    def score(self) -> float:
        """The sum of the points so far, unrounded."""
        return sum(reason.points for reason in self.reasons)

    @property
    def is_whole(self) -> bool:
        """Whether the text is a full name of the entity, or its id."""
        return self.reasons[0].points > WORDS

    def candidate(self, names: Mapping[str, str]) -> Candidate:
        """Return the final candidate; `names` are the labels of its types, by id."""
        types = tuple(sorted(names.get(kind, kind) for kind in self.info.types))
        label, description = self.info.label, self.info.description
        return Candidate(self.id, label, description, types, tuple(self.reasons), self.can_settle)


def build_candidates(
    knowledge: Knowledge,
    text: str,
    kind: EntityKind,
    *,
    expected_label: str | None,
    internal: frozenset[str],
    only_id: bool = False,
) -> list[CandidateBuilder]:
    """Return a builder for each entity that a text may mean, with the reasons that do not depend on a relation.

    Items of `internal` classes are left out, unless the text is their id. With `only_id`, the text is read as an id and
    never as a name. The entity of an id is checked against `expected_label`.
    """
    given = given_id(text, kind)
    matches = () if only_id else knowledge.named(text, limit=POOL, entity=kind)
    names = {match.id: for_name(match, text) for match in matches}
    if given:
        names[given] = Reason(ID, "given by its id")
    builders = _followed(knowledge, names)
    for builder in builders:
        builder.can_settle = builder.is_whole
        builder.add(for_statements(builder.info) if kind == "item" else None)
    if given:
        _verify(knowledge, builders, given, expected_label, kind)
    return [builder for builder in builders if not builder.info.types & internal or _is_given(builder)]


def given_id(text: str, kind: EntityKind) -> str | None:
    """Return the id if the text is one of this kind: Q65, wd:Q65 or https://www.wikidata.org/wiki/Q65; else None."""
    found = _ID.fullmatch(text)
    return found[1] if found and found[1].startswith(_LETTERS[kind]) else None


def _followed(knowledge: Knowledge, names: Mapping[str, Reason]) -> list[CandidateBuilder]:
    """Return a builder for each entity, or for the entity it was merged into, with its best name as first reason."""
    about = dict(knowledge.info(names))
    ends = {entity: about[entity].merged_into or entity for entity in names}
    about |= knowledge.info(set(ends.values()) - about.keys())
    builders = {end: CandidateBuilder(end, about[end]) for end in ends.values()}
    for entity, reason in sorted(names.items(), key=lambda item: -item[1].points):
        builder = builders[ends[entity]]
        if not builder.reasons:  # keep only the best of several names
            builder.add(reason)
            if builder.id != entity:
                builder.add(Reason(0.0, f"{entity} was merged into it"))
    return list(builders.values())


def _is_given(builder: CandidateBuilder) -> bool:
    return any(reason.points == ID for reason in builder.reasons)


def _verify(
    knowledge: Knowledge, builders: Sequence[CandidateBuilder], given: str, expected: str | None, kind: EntityKind
) -> None:
    """Add reasons to the entity given by its id: whether it is known, and whether it has the expected label."""
    builder = next(filter(_is_given, builders))
    if builder.info in (EntityInfo(), EntityInfo(statements=None)):
        builder.add(Reason(0.0, f"{knowledge.name} has no information about it"), can_settle=False)
    if expected is None:
        return
    if normalise(builder.info.label or "") == normalise(expected):
        builder.add(Reason(0.0, "its label is the expected one"))
    elif {given, builder.id} & _called(knowledge, expected, kind):
        builder.add(Reason(0.0, f"{expected!r} is another name of it"))
    else:
        builder.add(Reason(0.0, f"its label is {builder.info.label!r}, not {expected!r}"), can_settle=False)


def _called(knowledge: Knowledge, name: str, kind: EntityKind) -> set[str]:
    """Return the entities that have this text as a full name."""
    found = knowledge.named(name, limit=POOL, entity=kind)
    return {match.id for match in found if normalise(match.text) == normalise(name)}
