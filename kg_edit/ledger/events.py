"""The events of a ledger, and what stands after them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from kg_edit import __version__
from kg_edit.errors import PatchError


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Said):
    """A patch file in the ledger's folder."""

    name: str = Field(pattern=r"^[0-9]{4,}\.safetensors$")
    sha256: str


class _Happened(_Said):
    """What all events say: their number from 1 on, when they happened (UTC), and by which version of this tool."""

    number: int
    time: str
    kg_edit: str


class Added(_Happened):
    """A patch file was added: a step, known by the event's number.

    ``after`` are the steps whose changes the model had in it while the patch was computed; ``source`` the file it
    was copied from.
    """

    event: Literal["added"] = "added"
    file: StoredFile
    after: tuple[int, ...] = ()
    source: str | None = None


class Removed(_Happened):
    """Edits were removed, each named by its step and its id; ``files`` says what every step became (None: nothing)."""

    event: Literal["removed"] = "removed"
    edits: tuple[tuple[int, str], ...]
    files: dict[int, StoredFile | None]


class Undone(_Happened):
    """An event was taken back."""

    event: Literal["undone"] = "undone"
    undoes: int


Event = Added | Removed | Undone


class Line(RootModel[Annotated[Event, Field(discriminator="event")]]):
    """A line of the log."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A patch of the ledger as it stands: its number, its file, and the steps that it was computed after."""

    number: int
    file: StoredFile
    after: tuple[int, ...] = ()


def stamp(number: int) -> dict[str, Any]:
    """What an event that happens now says of itself."""
    return {"number": number, "time": datetime.now(UTC).isoformat(timespec="seconds"), "kg_edit": __version__}


def in_force(events: Iterable[Event]) -> tuple[Added | Removed, ...]:
    """The events that were not taken back."""
    listed = tuple(events)
    undone = {event.undoes for event in listed if isinstance(event, Undone)}
    return tuple(event for event in listed if not isinstance(event, Undone) and event.number not in undone)


def standing(events: Iterable[Event]) -> tuple[Step, ...]:
    """The steps whose sum the ledger is, in the order in which they were added.

    Raises:
        PatchError: a removal is about a step that is not there.
    """
    steps = dict[int, Step]()
    for event in in_force(events):
        if isinstance(event, Added):
            steps[event.number] = Step(number=event.number, file=event.file, after=event.after)
            continue
        for number, file in event.files.items():
            if number not in steps:
                raise PatchError(
                    f"the log says that event {event.number} took edits out of step {number}, which did not stand "
                    "then; restore the log from a copy"
                )
            if file is None:
                del steps[number]
            else:
                steps[number] = replace(steps[number], file=file)
    return tuple(steps.values())
