"""OpenAI's API for the model of `kg-edit serve`, with all active edits of its ledger.

``POST /v1/completions``, ``POST /v1/chat/completions`` and ``GET /v1/models`` support what a greedy continuation needs.
Other requests (a temperature above 0, a stream, several answers) are refused, not answered differently.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.app.messages import Prompt
from kg_edit.edits.edit import Record, Text
from kg_edit.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from kg_edit.app.session import EditDesk

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_PROMPTS, _TOKENS = 32, 512  # in a request, at most
_UNSUPPORTED = ("logprobs", "echo", "suffix", "stop")


class CompletionRequest(Record):
    """A request for continuations. What would change a greedy text, and is not supported, may be absent or off."""

    model: str | None = Field(None, description="name of the served model; may be left out")
    prompt: Prompt | Annotated[tuple[Prompt, ...], Field(strict=False, min_length=1, max_length=_PROMPTS)] = Field(
        description="a text to continue, or a list of texts"
    )
    max_tokens: int = Field(16, ge=1, le=_TOKENS, description="maximum tokens of a continuation, which is one line")
    temperature: float = Field(0.0, description="only 0: always the most likely token")
    n: int = Field(1, description="number of continuations of each prompt; only 1")
    stream: bool = Field(False, description="only false: the answer is sent in one piece")
    top_p: float | None = Field(None, description="ignored: decoding is greedy")
    seed: int | None = Field(None, description="ignored: decoding is greedy")
    user: str | None = Field(None, description="ignored")
    logprobs: int | None = Field(None, description="not supported")
    echo: bool | None = Field(None, description="not supported")
    suffix: str | None = Field(None, description="not supported")
    best_of: int = Field(1, description="only 1: one continuation is written")
    stop: str | Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None, description="not supported: a continuation ends with its line"
    )


class Choice(BaseModel):
    """The continuation of the prompt with this index."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Completion(BaseModel):
    """The continuations of a request's prompts, in their order."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[Choice, ...]


class ChatMessage(Record):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"] = Field(description="whose turn it is")
    content: Annotated[Text, Field(max_length=20_000)] = Field(description="the text of the turn")


class ChatRequest(Record):
    """A conversation to be answered; further fields, such as ``top_p``, are ignored."""

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


class ChatChoice(BaseModel):
    """The assistant's turn; ``finish_reason`` is length where it was cut."""

    index: int = 0
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatUsage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    """An answer in the form of OpenAI's API."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: ChatUsage


def add_openai_api(app: FastAPI, desk: EditDesk) -> None:
    """Add the three routes to the application."""

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        """The one model that is served: the edited one if there is a ledger."""
        return {"object": "list", "data": [{"id": desk.model.name, "object": "model", "owned_by": "kg-edit"}]}

    @app.post(COMPLETIONS)
    def complete(wanted: CompletionRequest) -> Completion:
        """Continue texts, greedily and to the end of a line, with all active edits of the ledger."""
        check_request(wanted, desk.model.name)
        prompts = (wanted.prompt,) if isinstance(wanted.prompt, str) else wanted.prompt
        choices = []
        for index, text in enumerate(desk.complete(prompts, tokens=wanted.max_tokens)):
            written = len(desk.model.tokenizer(text, add_special_tokens=False)["input_ids"])
            reason: Literal["stop", "length"] = "length" if written >= wanted.max_tokens else "stop"
            choices.append(Choice(index=index, text=text, finish_reason=reason))
        name, now = f"cmpl-{time.time_ns()}", int(time.time())
        return Completion(id=name, created=now, model=desk.model.name, choices=tuple(choices))

    @app.post(CHAT)
    def chat(wanted: ChatRequest) -> ChatAnswer:
        """Answer a conversation in the model's chat template, with all active edits of the ledger."""
        limit = wanted.max_completion_tokens or wanted.max_tokens
        found = desk.chat([message.model_dump() for message in wanted.messages], tokens=limit)
        message = ChatMessage.model_construct(role="assistant", content=found.text)  # an answer may be empty
        return ChatAnswer(
            id=f"chatcmpl-{secrets.token_hex(8)}",
            created=int(time.time()),
            model=wanted.model or desk.model.name,
            choices=(ChatChoice(message=message, finish_reason="stop" if found.ended else "length"),),
            usage=ChatUsage(
                prompt_tokens=found.read, completion_tokens=found.written, total_tokens=found.read + found.written
            ),
        )


def check_request(wanted: CompletionRequest, model: str) -> None:
    """Refuse a request that a greedy continuation of one line can't fulfil.

    Raises:
        UnknownNameError: another model is asked for.
        ConfigError: sampling, a stream, several continuations, or another field that is not supported.
    """
    if wanted.model not in (None, model):
        raise UnknownNameError(f"unknown model {wanted.model!r}; this server has only {model!r}")
    unsupported = [name for name in _UNSUPPORTED if getattr(wanted, name)]
    if wanted.temperature or (wanted.n, wanted.best_of) != (1, 1) or wanted.stream or unsupported:
        raise ConfigError(
            "kg-edit serve continues a text greedily, to the end of its line, without streaming: send temperature 0, "
            f"n 1, best_of 1 and stream false{f', and leave out {unsupported[0]}' if unsupported else ''}"
        )
