"""The JSON messages between the served page and its server.

Requests are checked field by field; answers have everything that the page shows. `view_of` makes the answer about a
ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.edits.edit import Edit, EntityId, Name, Record, Text, checked

if TYPE_CHECKING:
    from kg_edit.ledger import Ledger
    from kg_edit.ledger.conflicts import Conflict
    from kg_edit.ledger.entries import Entry
    from kg_edit.ledger.log import Removed


PROBES = 12  # in a request, at most

Answer = Annotated[Name, Field(max_length=200)]
Prompt = Annotated[Text, Field(max_length=2000)]


class PromptToTry(Record):
    """A prompt of the user's own, and an answer whose probability is of interest."""

    prompt: Prompt = Field(description="a text to continue")
    answer: Answer | None = Field(None, description="answer whose probability is shown; default: those of the edit")


class TryRequest(Record):
    """An edit to be made, looked at, and forgotten unless it is kept."""

    subject: Answer = Field(description="s, the entity the fact is about")
    prompt: Prompt = Field(description="a sentence with {} for the subject that ends right before the answer")
    target_new: Answer = Field(description="o*, what the edited model should predict")
    target_true: Answer | None = Field(None, description="o, what the unedited model says")
    relation: Answer | None = Field(None, description="the relation's name")
    subject_id: EntityId | None = Field(None, description="the Wikidata id of s")
    target_new_id: EntityId | None = Field(None, description="the Wikidata id of o*")
    probes: Annotated[tuple[PromptToTry, ...], Field(strict=False, max_length=PROBES)] = Field(
        (), description="further prompts, besides the edit's own"
    )
    on_ledger: bool = Field(False, description="make the edit on the model with the ledger's edits")
    chat: bool = Field(False, description="make the edit and ask all prompts in the model's chat template")

    def edit(self, name: str) -> Edit:
        """Make the edit with the id ``name``.

        Raises:
            EditError: its fields do not fit together.
        """
        fields = self.model_dump(exclude={"probes", "on_ledger"}, exclude_none=True)
        return checked(Edit, {**fields, "id": name})


class ChatMessage(Record):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"] = Field(description="whose turn it is")
    content: Annotated[Text, Field(max_length=20_000)] = Field(description="what is said, as text")


class ChatRequest(Record):
    """A conversation to be answered, as OpenAI's API has it; what is not here, such as ``top_p``, is passed over."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[tuple[ChatMessage, ...], Field(strict=False, min_length=1, max_length=200)] = Field(
        description="the turns so far, the last one a user's"
    )
    model: str = Field("", max_length=200, description="repeated in the answer; the server has only one model")
    max_tokens: int = Field(128, ge=1, le=2048, description="maximum number of tokens of the answer")
    max_completion_tokens: int | None = Field(None, ge=1, le=2048, description="the newer name of max_tokens")
    temperature: float | None = Field(None, description="ignored: decoding is greedy")
    stream: Literal[False] = Field(False, description="only false: the answer is sent in one piece")
    n: Literal[1] = Field(1, description="number of answers; only 1")

    @property
    def most(self) -> int:
        """The largest number of tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens


class KeepRequest(Record):
    """Put an edit that was tried into the ledger."""

    id: Name = Field(description="the id of the tried edit")
    force: bool = Field(False, description="keep the edit even if it probably breaks the model")


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Chance(_Said):
    """The probability of a whole candidate right after the prompt."""

    candidate: str
    before: float
    after: float


class Outcome(_Said):
    """What the model writes after a prompt, before and after the edit.

    ``led``: it is asked after a line break, as it begins with the subject and the model does not read a first token.
    """

    kind: Literal["edit", "probe"]
    prompt: str
    led: bool = False
    before: str
    after: str
    chances: tuple[Chance, ...]


class TryAnswer(_Said):
    """What an edit changed. ``subgraph``: there is a drawing of it; else ``no_subgraph`` says why there is none."""

    id: str
    fact: str
    outcomes: tuple[Outcome, ...]
    said: bool
    seconds: float
    patch: str
    record: dict[str, Any]
    subgraph: bool
    no_subgraph: str | None = None
    on_ledger: bool


class ChatChoice(_Said):
    """The assistant's turn; ``finish_reason`` is length where it was cut."""

    index: int = 0
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatUsage(_Said):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(_Said):
    """An answer in the form of OpenAI's API."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: ChatUsage


class LedgerEdit(_Said):
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


class LedgerView(_Said):
    """What a ledger holds, and which of its edits are in each other's way."""

    folder: str
    active: int
    edits: tuple[LedgerEdit, ...]


class State(_Said):
    """What the server runs with: model, method, graph and ledger, and an edit to begin with.

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


class Problem(_Said):
    """Why a request came to nothing, and the way out; ``fields`` names what is wrong with single fields."""

    kind: str
    message: str
    notes: tuple[str, ...] = ()
    fields: dict[str, str] = {}


def view_of(ledger: Ledger) -> LedgerView:
    """The ledger's edits, newest first.

    Raises:
        PatchError: the ledger can't be read.
    """
    times = {event.number: event.time for event in ledger.events}
    found, entries, recomputed = ledger.conflicts(), ledger.edits, ledger.recomputed
    edits = tuple(
        _edit(entry, _time(times.get(entry.place.step, ""), recomputed.get(entry.place)), found)
        for entry in reversed(entries)
    )
    return LedgerView(folder=str(ledger.folder), active=sum(edit.state == "active" for edit in edits), edits=edits)


def _time(added: str, recomputed: Removed | None) -> str:
    """When an edit was added, and by which event it was computed again, if it was."""
    return f"{added}, recomputed by event {recomputed.number}" if recomputed else added


def _edit(entry: Entry, time: str, found: tuple[Conflict, ...]) -> LedgerEdit:
    norm = entry.record.get("norms", {}).get("update")
    mine = [one for one in found if entry.place in (one.first.place, one.second.place)]
    return LedgerEdit(
        name=entry.name,
        step=entry.place.step,
        state=entry.state,
        fact=entry.edit.text,
        target=entry.edit.target_new,
        method=entry.method,
        time=time,
        norm=norm if isinstance(norm, int | float) else None,
        conflicts=tuple(map(str, mine)),
    )
