"""OpenAI's API for the model of `kg-edit serve`, with all active edits of its ledger.

``POST /v1/completions``, ``POST /v1/chat/completions`` and ``GET /v1/models`` support what a greedy continuation needs.
With ``stream``, the finished text is sent as server-sent events. Several answers are refused. Completions also refuse
what would change the text, such as a temperature above 0; chat ignores it. Errors have OpenAI's form (`openai_error`).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from fastapi import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from kg_edit.edits.edit import Record, TextOrEmpty
from kg_edit.errors import ConfigError
from kg_edit.ship.app.messages import Problem, Prompt

if TYPE_CHECKING:
    from fastapi import FastAPI

    from kg_edit.models.language_model import LanguageModel
    from kg_edit.scoring.generation import Reply
    from kg_edit.ship.app.session import EditDesk

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
# The most that a request may have
_PROMPTS = 32
_TOKENS = 2048
_STOPS = 16
_FAILED = 500  # the HTTP status from which the fault is the server's
_UNSUPPORTED = ("logprobs", "echo", "suffix", "presence_penalty", "frequency_penalty")

StopText = Annotated[str, Field(min_length=1, max_length=200)]
Stop = StopText | Annotated[tuple[StopText, ...], Field(strict=False, max_length=_STOPS)]


class StreamOptions(Record):
    """What a stream sends besides the text; further fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = Field(False, description="true: a last event has the numbers of tokens")


class ApiRequest(Record):
    """The body of a request. A field that is null is the same as an absent one, because clients send null for those."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


class CompletionRequest(ApiRequest):
    """A request for continuations. A field that would change a greedy text is not supported: it is absent or off."""

    model: str | None = Field(None, description="name of the served model; may be left out")
    prompt: Prompt | Annotated[tuple[Prompt, ...], Field(strict=False, min_length=1, max_length=_PROMPTS)] = Field(
        description="a text to continue, or a list of texts"
    )
    max_tokens: int = Field(16, ge=1, le=_TOKENS, description="maximum tokens of a continuation, which is one line")
    temperature: float = Field(0.0, description="only 0: always the most likely token")
    n: int = Field(1, description="number of continuations of each prompt; only 1")
    stop: Stop | None = Field(None, description="a text, or several, before which a continuation ends")
    stream: bool = Field(False, description="true: the finished texts are sent as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="what a stream sends besides the text")
    top_p: float | None = Field(None, description="ignored: decoding is greedy")
    seed: int | None = Field(None, description="ignored: decoding is greedy")
    user: str | None = Field(None, description="ignored")
    logprobs: int | None = Field(None, description="not supported")
    echo: bool | None = Field(None, description="not supported")
    suffix: str | None = Field(None, description="not supported")
    presence_penalty: float | None = Field(None, description="only 0")
    frequency_penalty: float | None = Field(None, description="only 0")
    best_of: int = Field(1, description="only 1: one continuation is written")


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(BaseModel):
    """The continuation of the prompt with this index; ``finish_reason`` is length where it was cut."""

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
    usage: Usage


def _text_of_parts(content: object) -> object:
    """Return the text of a list of text parts, a line each; pydantic refuses anything else that is not a text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case _:
                kind = part.get("type") if isinstance(part, dict) else part
                raise ValueError(f'found a part {kind!r:.80}; expected text parts: {{"type": "text", "text": "…"}}')
    return "\n".join(texts)


class ChatMessage(Record):
    """A turn of a conversation; further fields, such as ``name``, are ignored."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "user", "assistant"] = Field(description="whose turn it is")
    content: Annotated[TextOrEmpty, Field(max_length=20_000), BeforeValidator(_text_of_parts)] = Field(
        description="the text of the turn, or a list of text parts"
    )


class ResponseFormat(Record):
    """The form of an answer; only plain text."""

    type: Literal["text"] = Field("text", description="only text")


class ChatRequest(ApiRequest):
    """A conversation to be answered; fields that change only how likely a text is, such as ``top_p``, are ignored."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[tuple[ChatMessage, ...], Field(strict=False, min_length=1, max_length=200)] = Field(
        description="the turns so far, the last one a user's"
    )
    model: str | None = Field(None, max_length=200, description="name of the served model; default: the only one")
    max_tokens: int = Field(128, ge=1, le=_TOKENS, description="maximum number of tokens of the answer")
    max_completion_tokens: int | None = Field(None, ge=1, le=_TOKENS, description="the newer name of max_tokens")
    temperature: float | None = Field(None, description="ignored: decoding is greedy")
    stop: Stop | None = Field(None, description="a text, or several, before which the answer ends")
    stream: bool = Field(False, description="true: the finished answer is sent as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="what a stream sends besides the text")
    n: Literal[1] = Field(1, description="number of answers; only 1")
    tools: tuple[Any, ...] = Field(
        (), strict=False, max_length=0, description="not supported: a client waits for calls"
    )
    response_format: ResponseFormat | None = Field(None, description="only text: a client would parse JSON")
    logprobs: Literal[False] = Field(False, description="not supported")

    @field_validator("messages")
    @classmethod
    def _ends_with_a_user(cls, messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...]:
        role = messages[-1].role
        if role != "user":  # after an assistant's, some servers continue its text, and others begin a new one
            raise ValueError(f"the last message is the {role}'s; expected a user's, which is answered")
        return messages


class ChatChoice(BaseModel):
    """The assistant's turn; ``finish_reason`` is length where it was cut."""

    index: int = 0
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatAnswer(BaseModel):
    """An answer in the form of OpenAI's API."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: Usage


def add_openai_api(app: FastAPI, desk: EditDesk) -> None:
    """Add the two routes to the application."""
    _add_completions(app, desk)
    _add_chat(app, desk)


def _add_completions(app: FastAPI, desk: EditDesk) -> None:
    @app.post(COMPLETIONS, response_model=Completion)
    def complete(request: CompletionRequest) -> Completion | Response:
        """Continue texts, greedily and to the end of a line, by the model that the request names."""
        check_request(request)
        prompts = request.prompt
        if isinstance(prompts, str):
            prompts = (prompts,)
        replies = desk.complete(prompts, tokens=request.max_tokens, name=request.model)
        endings = [_cut_at_stop(reply, request.stop, desk.model) for reply in replies]
        choices = []
        for index, ending in enumerate(endings):
            choices.append(Choice(index=index, text=ending.text, finish_reason=ending.reason))
        read = sum(reply.read for reply in replies)
        written = sum(ending.tokens for ending in endings)
        completion = Completion(
            id=f"cmpl-{time.time_ns()}",
            created=int(time.time()),
            model=request.model or desk.model.name,
            choices=tuple(choices),
            usage=Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written),
        )
        if not request.stream:
            return completion
        return event_stream(completion, [choice.model_dump() for choice in choices], request.stream_options)


def _add_chat(app: FastAPI, desk: EditDesk) -> None:
    @app.post(CHAT, response_model=ChatAnswer)
    def chat(request: ChatRequest) -> ChatAnswer | Response:
        """Answer a conversation in the chat template, by the model that the request names."""
        limit = request.max_completion_tokens or request.max_tokens
        reply = desk.chat([message.model_dump() for message in request.messages], tokens=limit, name=request.model)
        ending = _cut_at_stop(reply, request.stop, desk.model)
        message = ChatMessage.model_construct(role="assistant", content=ending.text)  # unchecked: it may be long
        total = reply.read + ending.tokens
        answer = ChatAnswer(
            id=f"chatcmpl-{secrets.token_hex(8)}",
            created=int(time.time()),
            model=request.model or desk.model.name,
            choices=(ChatChoice(message=message, finish_reason=ending.reason),),
            usage=Usage(prompt_tokens=reply.read, completion_tokens=ending.tokens, total_tokens=total),
        )
        if not request.stream:
            return answer
        parts = [
            {"index": 0, "delta": {"role": "assistant", "content": ending.text}, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": ending.reason},
        ]
        return event_stream(answer, parts, request.stream_options)


def check_request(request: CompletionRequest) -> None:
    """Refuse a request that a greedy continuation of one line can't fulfil."""
    unsupported = [name for name in _UNSUPPORTED if getattr(request, name)]
    is_greedy = not request.temperature and request.n == 1 and request.best_of == 1
    if is_greedy and not unsupported:
        return
    way = "send temperature 0, n 1 and best_of 1"
    if unsupported:
        way += f", and leave out {unsupported[0]}"
    raise ConfigError(f"kg-edit serve continues a text greedily, to the end of its line: {way}")


class _Ending(NamedTuple):
    """The text that is sent, why it ends there, and its number of tokens."""

    text: str
    reason: Literal["stop", "length"]
    tokens: int


def _cut_at_stop(reply: Reply, stop: Stop | None, model: LanguageModel) -> _Ending:
    """Return the part of a reply that is sent: up to the first text of ``stop``."""
    text = before_stop(reply.text, stop)
    if text != reply.text:
        tokens = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return _Ending(text, "stop", len(tokens))
    if reply.ended:
        return _Ending(text, "stop", reply.written)
    return _Ending(text, "length", reply.written)


def before_stop(text: str, stop: Stop | None) -> str:
    """Return the text up to the first position where a text of ``stop`` begins."""
    stops = (stop,) if isinstance(stop, str) else stop or ()
    positions = [text.find(ending) for ending in stops if ending in text]
    return text[: min(positions, default=len(text))]


def event_stream(answer: Completion | ChatAnswer, parts: Iterable[object], options: StreamOptions | None) -> Response:
    """Return a finished answer as server-sent events: one for each of the ``parts`` of its choices, then ``[DONE]``.

    The text is not sent while it is generated, because other requests wait for the end of this one, and a slow reader
    would make them wait longer.
    """
    kind: str = answer.object
    if isinstance(answer, ChatAnswer):
        kind += ".chunk"
    head = {"id": answer.id, "object": kind, "created": answer.created, "model": answer.model}
    events: list[dict[str, object]] = [{**head, "choices": [part]} for part in parts]
    if options and options.include_usage:
        events.append({**head, "choices": [], "usage": answer.usage.model_dump()})
    texts = [json.dumps(event) for event in events]
    texts.append("[DONE]")
    lines = [f"data: {text}\n\n" for text in texts]
    return Response("".join(lines), media_type="text/event-stream")


def openai_error(code: int, problem: Problem) -> dict[str, Any]:
    """Return a problem in the form of OpenAI's errors; ``param`` is the first wrong field."""
    error: dict[str, Any] = {
        "message": "\n".join((problem.message, *problem.notes)),
        "type": "server_error" if code >= _FAILED else "invalid_request_error",
        "param": next(iter(problem.fields), None),
        "code": "model_not_found" if problem.kind == "UnknownNameError" else None,
    }
    return {"error": error}
