"""The edits of a ledger or of a patch: what each was, how it was made, and what it is called."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import ValidationError

from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError, unknown_name

if TYPE_CHECKING:  # edits are listed without torch
    from kg_edit.patches.base import Patch

State = Literal["standing", "removed"]
_NEEDED = "edit", "method"


class HasEdits(Protocol):
    """A patch, or what is known of one."""

    @property
    def edits(self) -> tuple[Mapping[str, Any], ...]:
        """A record of each edit."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is changed."""


class EditPosition(NamedTuple):
    """An edit in a ledger: the step that it is part of, and its id there."""

    step: int
    id: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry:
    """An edit of a ledger; ``name`` is its id, with the step before it where two steps have that id.

    ``record`` is that of what stands, or of what was added where the edit is removed.
    """

    place: EditPosition
    name: str
    state: State
    edit: Edit
    method: str
    record: Mapping[str, Any]


def entries(steps: Mapping[int, Sequence[Mapping[str, Any]]], standing: Mapping[int, HasEdits]) -> tuple[Entry, ...]:
    """An entry for every record of every step as it was added, given which patch stands in its place now."""
    added = [
        (EditPosition(step, record["edit"]["id"]), record) for step, records in steps.items() for record in records
    ]
    ids = Counter(place.id for place, _ in added)
    here = {
        EditPosition(step, record["edit"]["id"]): record for step, patch in standing.items() for record in patch.edits
    }
    now = [(place, here.get(place, record)) for place, record in added]
    return tuple(
        Entry(
            place=place,
            name=place.id if ids[place.id] == 1 else f"{place.step}/{place.id}",
            state="standing" if place in here else "removed",
            edit=edit_of(record),
            method=record["method"],
            record=record,
        )
        for place, record in now
    )


def entries_of(patch: HasEdits) -> tuple[Entry, ...]:
    """The edits of a patch that is in no ledger; of several with one id, the later ones are called ``id#2`` and so on.

    Raises:
        PatchError: it does not say what its edits are.
    """
    _check_readable(patch)
    seen, found = Counter[str](), list[Entry]()
    for entry in entries({1: patch.edits}, {}):  # each of its own record, also where two have one id
        seen[id_ := entry.place.id] += 1
        name = id_ if seen[id_] == 1 else f"{id_}#{seen[id_]}"
        found.append(replace(entry, name=name, state="standing"))
    return tuple(found)


def edit_of(record: Mapping[str, Any]) -> Edit:
    """The edit that a patch's record tells of.

    Raises:
        PatchError: it tells of none.
    """
    try:
        return Edit.model_validate_json(json.dumps(record["edit"]))
    except (KeyError, TypeError, ValidationError) as error:
        raise PatchError("the patch does not say which edits it holds; make it anew with this version") from error


def _check_readable(patch: HasEdits) -> None:
    """Refuse a patch that changes something, and does not say by which edits."""
    if not (patch.edits or patch.is_empty):
        raise PatchError("the patch does not say which edits it holds; make it anew with this version")
    for record in patch.edits:
        if not all(field in record for field in _NEEDED):
            raise PatchError(f"a record of the patch lacks one of {', '.join(_NEEDED)}; make the patch anew")
        edit_of(record)


def check_records(patch: Patch) -> None:
    """Refuse a patch whose edits could not be told apart, checked or removed later: it can't be part of a ledger.

    Raises:
        PatchError: it has no edit, two of one id, one that is scaled or taken back, or one without its facts or method.
    """
    if not patch.edits:
        raise PatchError("the patch holds no edit, so there is nothing to add")
    _check_readable(patch)
    for record in patch.edits:
        if record.get("scale", 1.0) != 1.0:
            raise PatchError(
                f"the edit {edit_of(record).id!r} is in the patch {record['scale']:g} times, which could not be made "
                "anew; add the patch as it was made, or remove the edit from its ledger"
            )
    ids = Counter(edit_of(record).id for record in patch.edits)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise PatchError(f"the patch has several edits of the id {twice[0]!r}; give each an id of its own")


def places_of(names: Iterable[str], known: Sequence[Entry]) -> tuple[EditPosition, ...]:
    """Where the edits of some names are; ``3/*`` is all of step 3.

    Raises:
        UnknownNameError: there is none of a name.
        PatchError: a name fits several edits.
    """
    found: list[EditPosition] = []
    for name in names:
        fitting = [entry for entry in known if _is_called(entry, name)]
        if not fitting:
            raise unknown_name("edit", name, (entry.name for entry in known))
        if len(fitting) > 1 and not name.endswith("/*"):
            fits = ", ".join(entry.name for entry in fitting)
            raise PatchError(f"{name!r} fits {len(fitting)} edits; name one of {fits}")
        found += [entry.place for entry in fitting]
    return tuple(dict.fromkeys(found))


def refuse_removed(names: Iterable[str], known: Sequence[Entry]) -> None:
    """Refuse names that only removed edits have.

    Raises:
        PatchError: there is such a name.
    """
    for name in names:
        states = {entry.state for entry in known if _is_called(entry, name)}
        if states == {"removed"}:
            raise PatchError(
                f"{name!r} is removed already; kg-edit patch show LEDGER tells when, patch list LEDGER what stands"
            )


def _is_called(entry: Entry, name: str) -> bool:
    step, id_ = entry.place
    return name in (id_, f"{step}/{id_}", f"{step}/*")
