"""The edits of a ledger or of a patch: their facts, their methods and their names.

`list_entries` lists the edits of a ledger, `list_patch_entries` those of a single patch, and `find_positions` finds the
edits that a user names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from kg_edit.edits.edit import STORED, Edit
from kg_edit.errors import PatchError, unknown_name

if TYPE_CHECKING:  # edits are listed without torch
    from kg_edit.patches.base import Patch
    from kg_edit.patches.changes import Changes

State = Literal["active", "removed"]
_NEEDED = ("edit", "method")  # fields of a patch's record of an edit
_NO_RECORD = "the patch has no readable records of its edits; make the patch again"


class EditPosition(NamedTuple):
    """The position of an edit in a ledger: its step, and its id in that step."""

    step: int
    id: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Entry:
    """An edit of a ledger. ``name`` is its id; if two steps have that id, it is ``step/id``.

    ``record`` is the present record of the edit, or for a removed edit the record with which it was added.
    """

    position: EditPosition
    name: str
    state: State
    edit: Edit
    method: str
    record: Mapping[str, Any]


def list_entries(
    steps: Mapping[int, Sequence[Mapping[str, Any]]], active: Mapping[int, Patch | Changes]
) -> tuple[Entry, ...]:
    """List the edits of a ledger, in the order in which they were added.

    Args:
        steps: the records of each step, as they were added.
        active: the present patch of each step; an edit that is not in it was removed.
    """
    added = _by_position(steps)
    present = _by_position({step: patch.edits for step, patch in active.items()})
    ids = Counter(position.id for position in added)
    listed = list[Entry]()
    for position, first_record in added.items():
        record = present.get(position, first_record)  # a removal of others may have computed the edit again
        name = position.id
        if ids[position.id] > 1:
            name = f"{position.step}/{position.id}"
        state: State = "active" if position in present else "removed"
        listed.append(_make_entry(position, name, state, record))
    return tuple(listed)


def _make_entry(position: EditPosition, name: str, state: State, record: Mapping[str, Any]) -> Entry:
    return Entry(
        position=position, name=name, state=state, edit=edit_of(record), method=record["method"], record=record
    )


def _by_position(steps: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[EditPosition, Mapping[str, Any]]:
    """Return the records of all steps by the positions of their edits."""
    positions = dict[EditPosition, Mapping[str, Any]]()
    for step, records in steps.items():
        for record in records:
            positions[EditPosition(step, record["edit"]["id"])] = record
    return positions


def list_patch_entries(patch: Patch | Changes) -> tuple[Entry, ...]:
    """List the edits of a patch that is in no ledger, as those of a ledger with this one step.

    Later edits with the same id are called ``id#2`` and so on. These names are only shown. A user can't name an edit by
    one, as `find_positions` is asked for edits of ledgers, where a step has no id twice (`check_records`).
    """
    _check_readable(patch)
    seen = Counter[str]()
    listed = list[Entry]()
    for record in patch.edits:
        id_ = record["edit"]["id"]
        seen[id_] += 1
        name = id_ if seen[id_] == 1 else f"{id_}#{seen[id_]}"
        listed.append(_make_entry(EditPosition(1, id_), name, "active", record))
    return tuple(listed)


def edit_of(record: Mapping[str, Any]) -> Edit:
    """Return the edit of a patch's record."""
    try:
        return Edit.model_validate_json(json.dumps(record["edit"]), context=STORED)
    except (KeyError, TypeError, ValidationError) as error:
        raise PatchError(_NO_RECORD) from error


def _check_readable(patch: Patch | Changes) -> None:
    """Refuse a patch that changes something without records of its edits."""
    if not patch.edits and not patch.is_empty:
        raise PatchError(_NO_RECORD)
    for record in patch.edits:
        if not all(field in record for field in _NEEDED):
            raise PatchError(f"a record of the patch lacks one of {', '.join(_NEEDED)}; make the patch again")
        edit_of(record)


def check_records(patch: Patch) -> None:
    """Refuse a patch whose edits could not be identified, checked or removed later, so it can't be in a ledger."""
    if not patch.edits:
        raise PatchError("the patch has no edits, so there is nothing to add")
    _check_readable(patch)
    for record in patch.edits:
        scale = record.get("scale", 1.0)
        if scale != 1.0:
            raise PatchError(
                f"the edit {edit_of(record).id!r} is in the patch {scale:g} times, so it can't be recomputed "
                "later; add the patch as it was made, or remove the edit from its ledger"
            )
    ids = Counter(edit_of(record).id for record in patch.edits)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise PatchError(
            f"the patch has several edits with the id {twice[0]!r}, so they can't be told apart; add the patches that "
            "it is the sum of, or their ledger, or make the edits with different ids"
        )


def find_positions(names: Iterable[str], known: Sequence[Entry]) -> tuple[EditPosition, ...]:
    """Return the positions of the edits that a user names.

    Args:
        names: names or ids of edits, subjects that one edit has, or ``3/*`` for all edits of step 3.
        known: the edits.
    """
    positions: list[EditPosition] = []
    for name in names:
        fitting = _find(known, name)
        if not fitting:
            raise unknown_name("edit", name, (entry.name for entry in known))
        if len(fitting) > 1 and not name.endswith("/*"):
            fits = ", ".join(entry.name for entry in fitting)
            raise PatchError(f"{name!r} matches {len(fitting)} edits; give one of {fits}")
        positions += [entry.position for entry in fitting]
    return tuple(dict.fromkeys(positions))


def refuse_removed(names: Iterable[str], known: Sequence[Entry]) -> None:
    """Refuse names that belong only to removed edits."""
    for name in names:
        if {entry.state for entry in _find(known, name)} == {"removed"}:
            raise PatchError(
                f"{name!r} is already removed; kg-edit patch show LEDGER shows when, patch list LEDGER shows all edits"
            )


def _find(known: Sequence[Entry], name: str) -> list[Entry]:
    """Return the entries that ``name`` fits.

    These are, in this order of preference: all of a step ("3/*"), the one with exactly this name, those with this id
    or this "step/id", those with this subject. An example of the second: step 1 has an edit with the id "2/a", and
    step 2 one with the id "a". "2/a" fits both, and is the name of the first, which is therefore meant.
    """
    if not isinstance(name, str):
        raise PatchError(f"found {name!r:.60}; expected the name, id or subject of an edit, such as edit.id")
    of_step = [entry for entry in known if name == f"{entry.position.step}/*"]
    if of_step:
        return of_step
    fitting = list[Entry]()
    for entry in known:
        step, id_ = entry.position
        if name in (id_, f"{step}/{id_}"):
            fitting.append(entry)
    exact = [entry for entry in fitting if entry.name == name]
    if len(exact) == 1:
        return exact
    if fitting:
        return fitting
    return [entry for entry in known if name and entry.edit.subject.casefold() == name.casefold()]
