"""Collect, score and rank the candidates for a text: the entities that it may mean.

Every candidate has reasons with points; its score is the sum of the points. Names count most (`LABEL`, `ALIAS`,
`WORDS`), then the relation (`TYPE`, `AT_THIS_END`), then the number of statements in the graph. The weights were chosen
on CounterFact records.

A `Mention` goes in. `build_candidates` finds the entities and gives the reasons that depend on names and statements
(`judge_name`, `judge_statements`); `Linker` adds those that depend on the relation (`judge_types`), and returns a
`LinkResult`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kg_common.ids import bare_id, is_entity
from wikidata_cache.labels.label_index import LETTERS, EntityKind, Match, name_words, normalise, space_out
from wikidata_cache.linking.knowledge import EntityInfo, Knowledge, RelationEndTypes
from wikidata_cache.sources.queries import Role

Status = Literal["exact", "ambiguous", "none"]

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

POOL = 50  # largest number of entities to consider for a text


class Mention(NamedTuple):
    """A text to link, and what is known about the entity that it names.

    `text` is a name or an id; with `only_id` it is read as an id and never as a name, and `expected_label` is the label
    that the entity should have. The entity is at the end `role` of the property `relation` (an id), if that is given.
    """

    text: str
    kind: EntityKind = "item"
    role: Role = "object"
    relation: str | None = None
    expected_label: str | None = None
    only_id: bool = False


class Reason(NamedTuple):
    """Evidence for a candidate (positive points) or against it (negative points); `text` describes it in words.

    `is_full_name` is for the reason that says how the candidate was found: True if the text is its id or a full name.
    """

    points: float
    text: str
    is_full_name: bool = False

    def __str__(self) -> str:
        return f"{self.points:+.1f} {self.text}"


@dataclass
class Candidate:
    """An entity that a text may mean: what is known about it, and reasons, of which the first is how it was found.

    `info.types` are the ids of its classes, `type_labels` their labels, which `Linker.make_result` adds.
    """

    id: str
    info: EntityInfo
    reasons: list[Reason] = field(default_factory=list)
    has_full_name: bool = True  # the text is its id or one of its full names
    is_contradicted: bool = False  # it has no type of that end of the relation, or the graph knows nothing about it
    is_stated: bool = False  # it is a part of a fact of the graph, with candidates for the other parts of its edit
    has_other_label: bool = False  # the text is its id, and the label that is expected of it is not a name of it
    type_labels: tuple[str, ...] = ()

    @property
    def can_settle(self) -> bool:
        """Whether it can make a result "exact", so that no person has to choose.

        The first line that fits counts:

            the id and the expected label disagree      no: the id may be wrong, even if it forms a fact
            the graph states a fact of the edit         yes: that outweighs all that follows
            it is contradicted                          no
            the text is its id or a full name           yes
            the text is some words of a name            no
        """
        if self.has_other_label:
            return False
        if self.is_stated:
            return True
        if self.is_contradicted:
            return False
        return self.has_full_name

    def contradict(self, reason: Reason) -> None:
        """Add a reason against the candidate: now it can settle only if the graph states a fact of the edit with it."""
        self.reasons.append(reason)
        self.is_contradicted = True

    @property
    def score(self) -> float:
        """The sum of the points of all reasons, rounded to two digits."""
        return round(sum(reason.points for reason in self.reasons), 2)

    def to_json(self) -> dict[str, object]:
        """Return the candidate as plain JSON values; reasons are texts such as "+10.0 its label, exact match"."""
        return {
            "id": self.id,
            "label": self.info.label,
            "description": self.info.description,
            "types": list(self.type_labels),
            "reasons": list(map(str, self.reasons)),
            "can_settle": self.can_settle,
            "score": self.score,
        }

    def __str__(self) -> str:
        about = self.info.description or ", ".join(self.type_labels) or "no known type"
        return f"{self.id} ({self.info.label or 'without a label'}: {about})"


@dataclass(frozen=True)
class LinkResult:
    """The candidates for a text, the best first; `notes` name what could not be checked.

    The status is "none" without candidates; "exact" if the best candidate has `can_settle` and leads by at least `LEAD`
    points; else "ambiguous", and a person has to choose. `next_score` is the score of the best candidate that is not
    listed, or None where all are. `nearest` are names one letter away, where there is no candidate.
    """

    text: str
    candidates: tuple[Candidate, ...]
    source: str
    notes: tuple[str, ...] = ()
    next_score: float | None = None
    nearest: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The status: "exact" if one candidate clearly leads, else "ambiguous" or "none"."""
        return find_status(self.candidates, self.next_score)

    @property
    def rival(self) -> Candidate | None:
        """The second candidate, if it could make the result "exact" too; else None."""
        if len(self.candidates) > 1 and self.candidates[1].can_settle:
            return self.candidates[1]
        return None

    def to_json(self) -> dict[str, object]:
        """Return the result as plain JSON values."""
        return {
            "text": self.text,
            "status": self.status,
            "source": self.source,
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "notes": list(self.notes),
            "nearest": list(self.nearest),
        }

    def describe_absence(self) -> str:
        """Return that a text is not in the graph, in words that continue "it is".

        This is for a text without candidates, and for an id of which the graph knows nothing.
        """
        words = f"not in this graph ({self.source})"
        if self.nearest:
            words += f". The nearest names: {', '.join(self.nearest)}"
        return words


def find_status(ranked: Sequence[Candidate], next_score: float | None = None) -> Status:
    """Return the status of candidates, the best first; `next_score` is that of the best one that is not among them."""
    if not ranked:
        return "none"
    best = ranked[0]
    second_score = next_score
    if len(ranked) > 1:
        second_score = ranked[1].score
    has_lead = second_score is None or round(best.score - second_score, 2) >= LEAD
    if best.can_settle and has_lead:
        return "exact"
    return "ambiguous"


def judge_name(match: Match, text: str) -> Reason:
    """Return the points of a name that was found for a text, by how well both agree."""
    name_kind = match.kind
    points = ALIAS
    if name_kind == "label":
        points = LABEL
    if match.text == text:
        return Reason(points, f"its {name_kind}, exact match", is_full_name=True)
    found_name = normalise(match.text)
    wanted_name = normalise(text)
    if found_name == wanted_name:
        return Reason(points + OTHERWISE_WRITTEN, f"its {name_kind}, written {match.text!r}", is_full_name=True)
    if set(name_words(space_out(wanted_name))) <= set(name_words(space_out(found_name))):
        return Reason(WORDS, f"all words are in its {name_kind} {match.text!r}")
    return Reason(FOUND, f"found by a search; its {name_kind} is {match.text!r}")


def judge_types(info: EntityInfo, ends: RelationEndTypes, names: Mapping[str, str]) -> Reason | None:
    """Return the points of an entity's types, by how many values (or subjects) of the relation have one of them.

    Args:
        info: the facts about the entity.
        ends: the types of a sample of the values (or subjects) of the relation.
        names: the labels of types, for the text of the reason.

    Returns:
        None if the types of the entity are unknown, or the sample is too small to tell.
    """
    if not info.types:
        return None
    type_ids = sorted(info.types)  # so that the first id is taken of those with equal shares
    best = max(type_ids, key=lambda type_id: ends.shares.get(type_id, 0.0))
    share = ends.shares.get(best, 0.0)
    who = "subjects"
    if ends.role == "object":
        who = "values"
    if share >= _COMMON:
        return Reason(TYPE, f"{names.get(best, best)}, like {share:.0%} of the {who} of {ends.relation}")
    if share > 0:
        return Reason(TYPE / 2, f"{names.get(best, best)}, like a few of the {who} of {ends.relation}")
    if ends.sampled < _MIN_SAMPLE:
        return None
    return Reason(OTHER_TYPE, f"none of its types is common among the {who} of {ends.relation}")


def judge_statements(info: EntityInfo) -> Reason:
    """Return the points of the number of statements that the graph has about an entity."""
    if info.statements is None:
        return Reason(0.0, "its statements are not in the cache")
    number = len(info.statements)
    if number == 0:
        return Reason(0.0, "no statements about it")
    if number == 1:
        return Reason(IN_GRAPH, "one statement about it")
    return Reason(IN_GRAPH + round(TENFOLD * math.log10(number), 1), f"{number} statements about it")


def rank_candidates(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Sort by score, highest first; equal scores by id number, since lower numbers are mostly better known entities."""
    return sorted(candidates, key=lambda candidate: (-candidate.score, int(candidate.id[1:])))


def build_candidates(knowledge: Knowledge, mention: Mention, *, internal: frozenset[str]) -> list[Candidate]:
    """Return a candidate for each entity that a text may mean, with the reasons that do not depend on its relation.

    Items of `internal` classes are left out, unless the text is their id.
    """
    own_id = parse_id(mention.text, mention.kind)
    reasons = _find_entities(knowledge, mention, own_id)
    infos, current_ids = _resolve_merged(knowledge, reasons)
    candidates = []
    for current_id, found in _group_merged(reasons, current_ids).items():
        candidate = _build_candidate(current_id, infos[current_id], found)
        if mention.kind == "item":
            candidate.reasons.append(judge_statements(candidate.info))
        if own_id is not None and current_id == current_ids[own_id]:
            _check_identified(knowledge, mention, candidate, {own_id, current_id})
            candidates.append(candidate)
        elif internal.isdisjoint(candidate.info.types):
            candidates.append(candidate)
    return candidates


def _group_merged(reasons: Mapping[str, Reason], current_ids: Mapping[str, str]) -> dict[str, list[tuple[str, Reason]]]:
    """Return the (id, reason) pairs by current id: an entity and one that was merged into it are one candidate."""
    groups: dict[str, list[tuple[str, Reason]]] = defaultdict(list)
    for entity, reason in reasons.items():
        groups[current_ids[entity]].append((entity, reason))
    return groups


def _build_candidate(current_id: str, info: EntityInfo, found: Sequence[tuple[str, Reason]]) -> Candidate:
    """Return a candidate whose first reason is the best of those for which it was found.

    Args:
        current_id: its id.
        info: the facts about it.
        found: pairs (id, reason) for which it was found. The id is its own, or that of an entity merged into it.
    """
    entity, reason = max(found, key=lambda pair: pair[1].points)
    candidate = Candidate(current_id, info, [reason], has_full_name=reason.is_full_name)
    if entity != current_id:
        candidate.reasons.append(Reason(0.0, f"{entity} was merged into it"))
    return candidate


def _resolve_merged(knowledge: Knowledge, ids: Collection[str]) -> tuple[dict[str, EntityInfo], dict[str, str]]:
    """Return the facts about the ids, and their current ids: an id itself, or that into which it was merged.

    The facts about the current ids are in the first result, too.
    """
    infos = dict(knowledge.info(ids))
    current_ids = {entity: infos[entity].merged_into or entity for entity in ids}
    infos |= knowledge.info(set(current_ids.values()) - infos.keys())
    return infos, current_ids


def _find_entities(knowledge: Knowledge, mention: Mention, own_id: str | None) -> dict[str, Reason]:
    """Return {id: reason} of the entities with a name like the text, and of the one of which the text is the id."""
    reasons = {}
    if not mention.only_id:
        for match in knowledge.named(mention.text, limit=POOL, kind=mention.kind):
            reasons[match.id] = judge_name(match, mention.text)
    if own_id is not None:
        reasons[own_id] = Reason(ID, "given by its id", is_full_name=True)
    return reasons


def _check_identified(knowledge: Knowledge, mention: Mention, candidate: Candidate, ids: Collection[str]) -> None:
    """Add what speaks for or against an entity that is named by its id: whether it exists, and has the expected label.

    `ids` are the id in the text and that of the candidate, which differ for a merged entity.
    """
    if candidate.info.is_unknown:
        candidate.contradict(Reason(0.0, f"{knowledge.name} has no information about it"))
    label = mention.expected_label
    if label is None:
        return
    if normalise(candidate.info.label or "") == normalise(label):
        candidate.reasons.append(Reason(0.0, "its label is the expected one"))
        return
    for match in knowledge.named(label, limit=POOL, kind=mention.kind):
        if match.id in ids and normalise(match.text) == normalise(label):
            candidate.reasons.append(Reason(0.0, f"{label!r} is another name of it"))
            return
    candidate.reasons.append(Reason(0.0, f"its label is {candidate.info.label!r}, not {label!r}"))
    candidate.has_other_label = True


def parse_id(text: str, kind: EntityKind) -> str | None:
    """Return the id if the text is one of this kind: Q65, wd:Q65 or https://www.wikidata.org/wiki/Q65; else None."""
    entity = bare_id(text.removeprefix("wd:"))
    if is_entity(entity) and entity.startswith(LETTERS[kind]):
        return entity
    return None
