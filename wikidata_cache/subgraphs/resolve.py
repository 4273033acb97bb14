"""From edits as they are written to ends whose ids the graph knows: labels resolved, mergers followed."""

from collections.abc import Mapping, Sequence

from wikidata_cache.errors import (
    AmbiguousLabelError,
    BadOptionError,
    EntityNotInGraphError,
    UnknownLabelError,
)
from wikidata_cache.ids import is_item, is_property
from wikidata_cache.subgraphs.ends import EditLike, Ends
from wikidata_cache.subgraphs.facts import Facts


def find_ends(edits: Sequence[EditLike], facts: Facts) -> list[Ends]:
    """Settle the ids of every edit, follow those that were merged, and check that the graph knows the new object.

    Raises AmbiguousLabelError, UnknownLabelError, EntityNotInGraphError, or BadOptionError for malformed ids.
    """
    for edit in edits:
        _check_ids(edit)
    unsettled = dict.fromkeys(edit.target_new for edit in edits if edit.target_new_id is None)
    named = facts.named(unsettled)
    found = {label: _resolve(label, named[label], facts) for label in unsettled}
    targets = [edit.target_new_id or found[edit.target_new] for edit in edits]
    stated = facts.out({*targets, *(edit.subject_id for edit in edits if edit.subject_id)})
    doubtful = {entity for entity, pairs in stated.items() if not pairs}
    doubtful.update(old for edit in edits if (old := edit.target_true_id) and not _states_old(edit, stated))
    redirects = facts.redirects(doubtful)
    ends = [_follow(edit, target, redirects) for edit, target in zip(edits, targets, strict=True)]
    _check_known(ends, facts)
    return ends


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


def _check_known(ends: Sequence[Ends], facts: Facts) -> None:
    stated = facts.out({node for end in ends for node in (end.target_new, end.subject_id) if node})
    silent = {end.target_new for end in ends if not stated[end.target_new]}
    labelled = facts.labels(silent)
    mentioned = facts.mentioned(silent - labelled.keys())
    for end in ends:
        if end.target_new in silent and end.target_new not in labelled and end.target_new not in mentioned:
            raise EntityNotInGraphError(end.target_new, end.edit.target_new, facts.source.name)


def _resolve(label: str, entities: Sequence[str], facts: Facts) -> str:
    """The one item of the world with this label; a disambiguation page and its like are no candidates."""
    named = [entity for entity in entities if is_item(entity)]
    facts.types(named)  # one request for all of them
    candidates = [entity for entity in named if not facts.is_internal(entity)]
    if not candidates:
        raise UnknownLabelError(label, facts.source.name)
    if len(candidates) > 1:
        likeliest_first = _most_stated_first(candidates, facts)
        raise AmbiguousLabelError(label, likeliest_first, _described(likeliest_first, facts))
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


def _check_ids(edit: EditLike) -> None:
    items = {"subject_id": edit.subject_id, "target_new_id": edit.target_new_id}
    for name, value in (items | {"target_true_id": edit.target_true_id}).items():
        if value is not None and not is_item(value):
            raise BadOptionError(f"{name}={value!r} of the edit of {edit.subject!r}: expected an id such as Q42.")
    if edit.relation_id is not None and not is_property(edit.relation_id):
        raise BadOptionError(
            f"relation_id={edit.relation_id!r} of the edit of {edit.subject!r}: expected an id such as P19."
        )
