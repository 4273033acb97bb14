"""The JSON messages between the served page and its server.

Requests are checked field by field; answers have everything that the page shows. `view_of` makes the answer about a
ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.edits.edit import WAYS_OF_A_ROW, Edit, EntityId, Language, Name, Record, Text, parse_record
from kg_edit.errors import DisablingEditError
from kg_edit.languages import ENGLISH
from kg_edit.ship.ledger.log import Added, in_force
from wikidata_cache.errors import AmbiguousLabelError, EntityNotInGraphError, UnknownLabelError

if TYPE_CHECKING:
    from kg_edit.ship.ledger import Ledger
    from kg_edit.ship.ledger.log import Event


PROBES = 12  # the most that a request may have

ShortText = Annotated[Name, Field(max_length=200)]
Prompt = Annotated[Text, Field(max_length=2000)]


class PromptToTry(Record):
    """A prompt of the user's own, and an answer whose probability is of interest."""

    prompt: Prompt = Field(description="a text to continue")
    answer: ShortText | None = Field(None, description="answer whose probability is shown; default: those of the edit")


class TryRequest(Record):
    """An edit to be made and shown; it is forgotten unless it is added to the ledger."""

    subject: ShortText = Field(description="the entity that the fact is about")
    prompt: Prompt = Field(description="a sentence with {} for the subject that ends right before the answer")
    target_new: ShortText = Field(description="the answer that the edited model should generate")
    target_true: ShortText | None = Field(None, description="the answer of the unedited model")
    relation: ShortText | None = Field(None, description="the relation's name")
    subject_id: EntityId | None = Field(None, description="the subject's Wikidata id")
    target_new_id: EntityId | None = Field(None, description="the new object's Wikidata id")
    language: Language = Field(ENGLISH, description="the language of the edit, by two letters")
    probes: Annotated[tuple[PromptToTry, ...], Field(strict=False, max_length=PROBES)] = Field(
        (), description="further prompts, besides the edit's own"
    )
    on_ledger: bool = Field(False, description="make the edit on the model with the ledger's edits")
    chat: bool = Field(False, description="make the edit and ask all prompts in the model's chat template")

    def edit(self, name: str) -> Edit:
        """Return the edit with the id ``name``."""
        fields = self.model_dump(exclude={"probes", "on_ledger"}, exclude_none=True)
        return parse_record(Edit, {**fields, "id": name})


class AddRequest(Record):
    """Add an edit that was tried to the ledger."""

    id: Name = Field(description="the id of the tried edit")
    force: bool = Field(False, description="add the edit even if it probably breaks the model")


class RemoveRequest(Record):
    """Remove an edit from the ledger."""

    name: Name = Field(description="the edit's name in the ledger")


class UndoRequest(Record):
    """Undo the ledger's last event."""

    event: int = Field(description="its number, as the ledger's answer has it in last_event")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Chance(_Message):
    """The probability of a whole candidate answer right after the prompt."""

    candidate: str
    before: float = Field(description="its probability before the edit")
    after: float = Field(description="its probability after the edit")


class Outcome(_Message):
    """The model's text after a prompt, before and after the edit."""

    kind: Literal["edit", "probe"] = Field(description="whether the prompt is the edit's own, or a further one")
    prompt: str
    after_line_break: bool = Field(
        False,
        description="the prompt is asked after a line break, because it begins with the subject, and the model uses a "
        "text's first token as an attention sink",
    )
    before: str = Field(description="the text of the model before the edit")
    after: str = Field(description="the text of the model after the edit")
    chances: tuple[Chance, ...] = Field(description="of the answers to compare")


class TryAnswer(_Message):
    """The effect of an edit."""

    id: str = Field(description="of the tried edit, to add it to the ledger or to get its drawing")
    fact: str
    outcomes: tuple[Outcome, ...] = Field(description="one for each prompt")
    success: bool = Field(description="the edited model generates the new target")
    seconds: float = Field(description="how long the edit took")
    patch: str
    record: dict[str, Any] = Field(description="what the method recorded about the edit, such as norms and losses")
    subgraph: bool = Field(description="there is a drawing of the edit's subgraph")
    no_subgraph: str | None = Field(None, description="why there is no drawing")
    alone: str | None = Field(None, description="why the method read only the edit's own edge of the graph")
    on_ledger: bool = Field(description="the edit was made on the model with the ledger's edits")


class LedgerEdit(_Message):
    """A row of the table of the ledger: an edit, its state and its conflicts."""

    name: str
    step: int
    state: str
    fact: str
    target: str
    method: str
    time: str
    norm: float | None
    conflicts: tuple[str, ...]


class LastEvent(_Message):
    """The last addition or removal that was not undone."""

    number: int
    what: str = Field(description="the event in words, such as: the addition of row-1")


class LedgerView(_Message):
    """The edits of a ledger, the number of active ones, and the conflicts between them."""

    folder: str
    active: int
    edits: tuple[LedgerEdit, ...]
    last_event: LastEvent | None


class State(_Message):
    """The server's model, method, graph and ledger, and an edit to begin with.

    ``chat``: the model has a chat template.
    """

    model: str
    size: str
    method: str
    about: str
    settings: dict[str, Any]
    graph: str | None
    ledger: str | None
    active: int
    most_probes: int = PROBES
    chat: bool = False
    example: TryRequest | None


class Problem(_Message):
    """Why a request failed, and what to do."""

    kind: str = Field(description="the name of the error's class")
    message: str
    notes: tuple[str, ...] = Field((), description="further remarks on the error")
    fields: dict[str, str] = Field({}, description="messages about single fields of the request, by the field's name")


def problem_of(error: Exception) -> Problem:
    """Return an error about a request; it names fields of the request instead of rows of a file and options."""
    message = _cut_ways_of_a_row(str(error))
    fields = dict[str, str]()
    for fault in getattr(error, "faults", ()):
        if fault.field:
            fields[fault.field] = _cut_ways_of_a_row(fault.message)
    # An error of the graph has no faults. Its message is about one field, so that is the only one in `fields`.
    match error:
        case UnknownLabelError():
            message = f"the graph has no entity {error.label!r}; correct the name, or give its id as target_new_id"
            fields = {"target_new": message}
        case AmbiguousLabelError():
            message = f"{error.label!r} names several entities; give the id of one: {'; '.join(error.described)}"
            fields = {"target_new_id": message}
        case EntityNotInGraphError():
            message = f"the graph has no entity {error.entity}; correct the id, or leave it out to use the name"
            fields = {"target_new_id": message}
        case DisablingEditError():
            message = f"the edit would probably break the model: {'; '.join(error.reasons)}"
    notes = tuple(getattr(error, "__notes__", ()))
    return Problem(kind=type(error).__name__, message=message, notes=notes, fields=fields)


def _cut_ways_of_a_row(message: str) -> str:
    """Return a message of `kg_edit.edits.edit` without a way out that a row of a file has, but a request has not."""
    for way in WAYS_OF_A_ROW:
        message = message.replace(way, "")
    return message


def view_of(ledger: Ledger) -> LedgerView:
    """Return the ledger's edits, newest first."""
    now = ledger.now
    times = {event.number: event.time for event in now.events}
    conflicts = now.conflicts()
    recomputed = ledger.recomputed
    rows = list[LedgerEdit]()
    for entry in reversed(now.edits):
        time = times.get(entry.position.step, "")
        if event := recomputed.get(entry.position):
            time = f"{time}, recomputed by event {event.number}"
        norm = entry.record.get("norms", {}).get("update")
        if not isinstance(norm, int | float):
            norm = None
        rows.append(
            LedgerEdit(
                name=entry.name,
                step=entry.position.step,
                state=entry.state,
                fact=entry.edit.text,
                target=entry.edit.target_new,
                method=entry.method,
                time=time,
                norm=norm,
                conflicts=tuple(str(conflict) for conflict in conflicts if conflict.involves(entry)),
            )
        )
    active = sum(row.state == "active" for row in rows)
    last_event = _last_event(now.events, rows)
    return LedgerView(folder=str(now.folder), active=active, edits=tuple(rows), last_event=last_event)


def _last_event(events: Sequence[Event], rows: Sequence[LedgerEdit]) -> LastEvent | None:
    """Return the event that an undo would undo, in words; None if there is none. ``rows`` are the newest first."""
    remaining = in_force(events)
    if not remaining:
        return None
    event = remaining[-1]
    if isinstance(event, Added):
        names = [row.name for row in reversed(rows) if row.step == event.number]
        what = f"the addition of {', '.join(names)}"
    else:
        names = [name for _step, name in event.edits]
        what = f"the removal of {', '.join(names)}"
    return LastEvent(number=event.number, what=what)
