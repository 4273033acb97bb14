"""The edits of a ledger or of a patch: their facts, their methods and their names."""

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
_NO_RECORD = "the patch has no readable records of its edits; make the patch again with this version"


class HasEdits(Protocol):
    """A patch, or a summary of one."""

    @property
    def edits(self) -> tuple[Mapping[str, Any], ...]:
        """One record for each edit."""

    @property
    def is_empty(self) -> bool:
        """Whether the patch changes nothing."""


class EditPosition(NamedTuple):
    """The position of an edit in a ledger: its step, and its id in that step."""

    step: int
    id: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry:
    """An edit of a ledger. ``name`` is its id; if two steps have that id, it is ``step/id``.

    ``record`` is the present record of the edit, or for a removed edit the record with which it was added.
    """

    place: EditPosition
    name: str
    state: State
    edit: Edit
    method: str
    record: Mapping[str, Any]


def entries(steps: Mapping[int, Sequence[Mapping[str, Any]]], standing: Mapping[int, HasEdits]) -> tuple[Entry, ...]:
    """Make an entry for every record of every step as it was added; ``standing`` has the patches that stand now."""
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
    """The edits of a patch that is in no ledger; later edits with the same id are called ``id#2`` and so on.

    Raises:
        PatchError: the patch does not say what its edits are.
    """
    _check_readable(patch)
    seen, found = Counter[str](), list[Entry]()
    for entry in entries({1: patch.edits}, {}):  # {}: each entry keeps its own record
        seen[id_ := entry.place.id] += 1
        name = id_ if seen[id_] == 1 else f"{id_}#{seen[id_]}"
        found.append(replace(entry, name=name, state="standing"))
    return tuple(found)


def edit_of(record: Mapping[str, Any]) -> Edit:
    """The edit of a patch's record.

    Raises:
        PatchError: the record has no valid edit.
    """
    try:
        return Edit.model_validate_json(json.dumps(record["edit"]))
    except (KeyError, TypeError, ValidationError) as error:
        raise PatchError(_NO_RECORD) from error


def _check_readable(patch: HasEdits) -> None:
    """Refuse a patch that changes something without records of its edits."""
    if not (patch.edits or patch.is_empty):
        raise PatchError(_NO_RECORD)
    for record in patch.edits:
        if not all(field in record for field in _NEEDED):
            raise PatchError(f"a record of the patch lacks one of {', '.join(_NEEDED)}; make the patch again")
        edit_of(record)


def check_records(patch: Patch) -> None:
    """Refuse a patch whose edits could not be identified, checked or removed later, so it can't be in a ledger.

    Raises:
        PatchError: it has no edit, two edits of one id, an edit with a scale other than 1, or one without its facts or
            method.
    """
    if not patch.edits:
        raise PatchError("the patch has no edits, so there is nothing to add")
    _check_readable(patch)
    for record in patch.edits:
        if record.get("scale", 1.0) != 1.0:
            raise PatchError(
                f"the edit {edit_of(record).id!r} is in the patch {record['scale']:g} times, so it can't be recomputed "
                "later; add the patch as it was made, or remove the edit from its ledger"
            )
    ids = Counter(edit_of(record).id for record in patch.edits)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise PatchError(f"the patch has several edits with the id {twice[0]!r}; give each a different id")


def places_of(names: Iterable[str], known: Sequence[Entry]) -> tuple[EditPosition, ...]:
    """The positions of the edits with these names; ``3/*`` means all edits of step 3.

    Raises:
        UnknownNameError: no edit has a name.
        PatchError: a name fits several edits.
    """
    found: list[EditPosition] = []
    for name in names:
        fitting = _called(known, name)
        if not fitting:
            raise unknown_name("edit", name, (entry.name for entry in known))
        if len(fitting) > 1 and not name.endswith("/*"):
            fits = ", ".join(entry.name for entry in fitting)
            raise PatchError(f"{name!r} matches {len(fitting)} edits; give one of {fits}")
        found += [entry.place for entry in fitting]
    return tuple(dict.fromkeys(found))


def refuse_removed(names: Iterable[str], known: Sequence[Entry]) -> None:
    """Refuse names that belong only to removed edits.

    Raises:
        PatchError: there is such a name.
    """
    for name in names:
        states = {entry.state for entry in _called(known, name)}
        if states == {"removed"}:
            raise PatchError(
                f"{name!r} is already removed; kg-edit patch show LEDGER says when, patch list LEDGER shows all edits"
            )


def _called(known: Sequence[Entry], name: str) -> list[Entry]:
    """The entries that ``name`` fits; only one if that is its name, because an id may look like a step and an id."""
    fitting = [entry for entry in known if _is_called(entry, name)]
    own = [entry for entry in fitting if entry.name == name]
    return own if len(own) == 1 and not name.endswith("/*") else fitting


def _is_called(entry: Entry, name: str) -> bool:
    step, id_ = entry.place
    return name in (id_, f"{step}/{id_}", f"{step}/*")
