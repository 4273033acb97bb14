"""What changed in the graph, as edits: objects that replaced others between two times.

`compare_versions` compares the answers in the cache at two times (``fetch --mode refresh`` adds versions).
`compare_dates` reads one version, and the start and end times of its statements. A `Change` is the replacement of one
object by another, (s, r, o -> o*); what is only added, only removed, or replaced by several is counted.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.deny_lists import read_meta_properties
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages, list_families
from wikidata_cache.sources.source import batches
from wikidata_cache.sources.wordings import choose_texts, write_keys

Pair = tuple[str, str]  # relation, object
_BLOCK = 500  # ids that are looked up at once


@dataclass(frozen=True, kw_only=True)
class Change:
    """One object of a relation was replaced by another: ids, and a time.

    `compare_dates` gives the time from which the new object is true. `compare_versions` gives the time of the answer
    that has it, the newest one of several.
    """

    subject: str
    relation: str
    old: str
    new: str
    time: str

    @property
    def ids(self) -> set[str]:
        """The ids of all parts."""
        return {self.subject, self.relation, self.old, self.new}


@dataclass(kw_only=True)
class Changes:
    """The changes in the order of their subjects and relations, and the number of other differences, by kind.

    ``compared`` is the number of items that are known at both times.
    """

    replacements: list[Change] = field(default_factory=list)
    other_counts: Counter[str] = field(default_factory=Counter)
    compared: int = 0

    def add_differences(
        self, subject: str, old: Iterable[Pair], new: Mapping[Pair, str], *, ignored_relations: Collection[str]
    ) -> None:
        """Add what differs between the pairs (relation, object) of a subject at two times.

        Args:
            subject: the id of the subject.
            old: the pairs at the earlier time.
            new: {pair: time of the change} of the pairs at the later time.
            ignored_relations: relations that are not compared.
        """
        self.compared += 1
        old_pairs = set(old)
        removed = _group_by_relation(old_pairs - new.keys())
        added = _group_by_relation(new.keys() - old_pairs)
        for relation in sorted(removed.keys() | added.keys()):
            if relation in ignored_relations:
                continue
            old_objects = removed.get(relation, [])
            new_objects = added.get(relation, [])
            if not old_objects:
                self.other_counts["objects were only added"] += 1
            elif not new_objects:
                self.other_counts["objects were only removed"] += 1
            elif len(old_objects) == len(new_objects) == 1:
                time = new[relation, new_objects[0]]
                self.replacements.append(
                    Change(subject=subject, relation=relation, old=old_objects[0], new=new_objects[0], time=time)
                )
            else:
                self.other_counts["several objects were replaced"] += 1


def _group_by_relation(pairs: Iterable[Pair]) -> dict[str, list[str]]:
    """Return the objects of each relation, sorted."""
    objects: dict[str, list[str]] = defaultdict(list)
    for relation, value in sorted(pairs):
        objects[relation].append(value)
    return objects


def compare_versions(store: AnswerStore, *, graph: str, since: str, until: str) -> Changes:
    """Compare the truthy statements in the cache at two times, for the items that have an answer at both.

    Args:
        store: the cache file.
        graph: the name of the graph in the cache.
        since: the earlier time (as `utc` writes it).
        until: the later time.
    """
    changes = Changes()
    ignored = read_meta_properties()  # Wikimedia's own housekeeping
    for ids in batches(store.list_ids(graph, "out"), size=_BLOCK):
        # "out": the statements of an item, as lists [relation, object]
        old = store.look_up(graph, "out", ids, as_of=since)
        new = store.look_up(graph, "out", ids, as_of=until)
        origins = store.find_origins(graph, "out", ids, as_of=until)
        for item in sorted(old.keys() & new.keys()):
            _, fetched_at = origins[item]
            old_pairs = [(relation, value) for relation, value in old[item]]
            new_pairs = [(relation, value) for relation, value in new[item]]
            changes.add_differences(item, old_pairs, dict.fromkeys(new_pairs, fetched_at), ignored_relations=ignored)
    return changes


def compare_dates(store: AnswerStore, *, graph: str, since: str, until: str) -> Changes:
    """Compare what was true at two times, by the start and end times of the statements in the newest answers.

    A statement is true from its start to its end; one without a start was always true, one without an end still is. The
    time of a change is the start of its new statement, the earliest one of several. The arguments are those of
    `compare_versions`.
    """
    changes = Changes()
    ignored = read_meta_properties()  # Wikimedia's own housekeeping
    for ids in batches(store.list_ids(graph, "claims"), size=_BLOCK):
        for item, claims in sorted(store.look_up(graph, "claims", ids).items()):
            old: set[Pair] = set()
            new: dict[Pair, str] = {}  # with the start of each pair
            for claim in claims:  # a pair may have several claims
                relation, value, _, start, _ = claim
                pair = (relation, value)
                if _is_true(claim, since[:10]):  # the first ten characters of a time are its day
                    old.add(pair)
                if _is_true(claim, until[:10]):
                    new[pair] = min(start, new.get(pair, start))
            changes.add_differences(item, old, new, ignored_relations=ignored)
    return changes


def _is_true(claim: Sequence[str], day: str) -> bool:
    """Return whether a claim (relation, object, rank, start, end) is true on a day.

    Times are compared as text; "" is no time, and "-" begins a year B.C.
    """
    _, _, _, start, end = claim
    has_begun = not start or start.startswith("-") or start[:10] <= day
    has_ended = end.startswith("-") or (end != "" and end[:10] <= day)
    return has_begun and not has_ended


def make_edit_rows(
    changes: Sequence[Change],
    store: AnswerStore,
    *,
    graph: str,
    languages: Languages = DEFAULT_LANGUAGES,
) -> tuple[list[dict[str, str]], list[Change]]:
    """Return a row of an edit file for each change, and the changes of which the cache lacks a label.

    Labels are in the first language of the chain that has one in the cache.
    """
    rows = []
    unlabelled = []
    for block in batches(changes, size=_BLOCK):
        ids: set[str] = set()
        for change in block:
            ids |= change.ids
        labels = _find_labels(store, graph, ids, languages)
        for change in block:
            if labels.keys() >= change.ids:
                rows.append(_make_edit_row(change, labels))
            else:
                unlabelled.append(change)
    return rows, unlabelled


def _find_labels(store: AnswerStore, graph: str, ids: Collection[str], languages: Languages) -> dict[str, str]:
    """Return the label of each entity that has one in the cache, in the first language of the chain that has one."""
    labels = {}
    # The answers of the default chain (English): a text and its language, or None.
    for entity, answer in store.look_up(graph, "label", ids).items():
        if answer:
            labels[entity] = answer[0]
    # Labels in the other languages of the chain come before those.
    keys = write_keys("label", ids, list_families(languages))
    labels |= choose_texts(store.look_up(graph, "label_in", keys), languages)
    return labels


def _make_edit_row(change: Change, labels: Mapping[str, str]) -> dict[str, str]:
    parts = {
        "subject": change.subject,
        "relation": change.relation,
        "object": change.old,
        "new_object": change.new,
    }
    row = {"id": f"{change.subject} {change.relation} {change.time[:10]}"}
    for name, entity in parts.items():
        row[name] = labels[entity]
        row[f"{name}_id"] = entity
    return row
