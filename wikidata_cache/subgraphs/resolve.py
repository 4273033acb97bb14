"""From edits as they are written to ends whose ids the graph knows: labels resolved, mergers followed."""

from collections.abc import Iterable, Mapping, Sequence

from wikidata_cache.errors import (
    AmbiguousLabelError,
    BadOptionError,
    EntityNotInGraphError,
    UnknownLabelError,
    WikidataCacheError,
)
from wikidata_cache.ids import is_item, is_property
from wikidata_cache.subgraphs.edit_ends import EditLike, Ends
from wikidata_cache.subgraphs.facts import Facts


def find_ends(edits: Sequence[EditLike], facts: Facts) -> list[Ends]:
    """Settle the ids of every edit, follow those that were merged, and check that the graph knows the new object.

    Raises AmbiguousLabelError, UnknownLabelError, EntityNotInGraphError, or BadOptionError for malformed ids.
    """
    return [_or_raise(end) for end in try_ends(edits, facts)]


def try_ends(edits: Sequence[EditLike], facts: Facts) -> list[Ends | WikidataCacheError]:
    """What `find_ends` gives for each edit, or the error that it raises, with the requests of all edits together."""
    objections = [_malformed(edit) for edit in edits]
    sound = [edit for edit, objection in zip(edits, objections, strict=True) if objection is None]
    found = _resolved({edit.target_new for edit in sound if edit.target_new_id is None}, facts)
    targets = [edit.target_new_id or found[edit.target_new] for edit in sound]
    pairs = [(edit, target) for edit, target in zip(sound, targets, strict=True) if isinstance(target, str)]
    checked = iter(_checked(_followed(pairs, facts), facts))
    settled = iter([next(checked) if isinstance(target, str) else target for target in targets])
    return [objection or next(settled) for objection in objections]


def _or_raise(end: Ends | WikidataCacheError) -> Ends:
    if isinstance(end, WikidataCacheError):
        raise end
    return end


def _followed(pairs: Sequence[tuple[EditLike, str]], facts: Facts) -> list[Ends]:
    """Edits and their new objects, after all mergers."""
    stated = facts.out({node for edit, target in pairs for node in (target, edit.subject_id) if node})
    doubtful = {entity for entity, said in stated.items() if not said}
    doubtful.update(old for edit, _ in pairs if (old := edit.target_true_id) and not _states_old(edit, stated))
    redirects = facts.redirects(doubtful)
    return [_follow(edit, target, redirects) for edit, target in pairs]


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


def _checked(ends: Sequence[Ends], facts: Facts) -> list[Ends | WikidataCacheError]:
    """The ends, or an error where the graph does not know the new object."""
    stated = facts.out({node for end in ends for node in (end.target_new, end.subject_id) if node})
    silent = {end.target_new for end in ends if not stated[end.target_new]}
    labelled = facts.labels(silent)
    mentioned = facts.mentioned(silent - labelled.keys())
    unknown = silent - labelled.keys() - mentioned
    return [
        EntityNotInGraphError(end.target_new, end.edit.target_new, facts.source.name)
        if end.target_new in unknown
        else end
        for end in ends
    ]


def _resolved(labels: Iterable[str], facts: Facts) -> dict[str, str | WikidataCacheError]:
    """The one item of the world with each label, or why there is none; disambiguation pages and the like are none."""
    named = {label: list(filter(is_item, found)) for label, found in facts.named(labels).items()}
    facts.types({entity for found in named.values() for entity in found})  # asked for together
    worldly = {label: [entity for entity in found if not facts.is_internal(entity)] for label, found in named.items()}
    facts.out({entity for found in worldly.values() if len(found) > 1 for entity in found})
    return {label: _the_only(label, found, facts) for label, found in worldly.items()}


def _the_only(label: str, candidates: Sequence[str], facts: Facts) -> str | WikidataCacheError:
    if not candidates:
        return UnknownLabelError(label, facts.source.name)
    if len(candidates) > 1:
        likeliest_first = _most_stated_first(candidates, facts)
        return AmbiguousLabelError(label, likeliest_first, _described(likeliest_first, facts))
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


def _malformed(edit: EditLike) -> BadOptionError | None:
    items = {"subject_id": edit.subject_id, "target_new_id": edit.target_new_id}
    for name, value in (items | {"target_true_id": edit.target_true_id}).items():
        if value is not None and not is_item(value):
            return BadOptionError(f"{name}={value!r} of the edit of {edit.subject!r}: expected an id such as Q42.")
    if edit.relation_id is not None and not is_property(edit.relation_id):
        return BadOptionError(
            f"relation_id={edit.relation_id!r} of the edit of {edit.subject!r}: expected an id such as P19."
        )
    return None
