"""OpenAI's completions API for the model of `kg-edit serve`, with all standing edits of its ledger.

``POST /v1/completions`` and ``GET /v1/models`` support what a greedy continuation of one line needs. Other requests (a
temperature above 0, a stream, several answers) are refused, not answered differently.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from kg_edit.app.messages import Prompt
from kg_edit.edits.edit import Record
from kg_edit.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from kg_edit.app.session import EditDesk

COMPLETIONS = "/v1/completions"
_PROMPTS, _TOKENS = 32, 512  # in a request, at most
_UNUSED = ("logprobs", "echo", "suffix", "stop")


class CompletionRequest(Record):
    """A request for continuations. What would change a greedy text, and is not done here, may be absent or off."""

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


def add_completions(app: FastAPI, desk: EditDesk) -> None:
    """Add both routes to the application."""

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        """The one model that is served: the edited one where there is a ledger."""
        return {"object": "list", "data": [{"id": desk.model.name, "object": "model", "owned_by": "kg-edit"}]}

    @app.post(COMPLETIONS)
    def complete(wanted: CompletionRequest) -> Completion:
        """Go on with texts, greedily and to the end of a line, with all that stands in the ledger."""
        check_request(wanted, desk.model.name)
        prompts = (wanted.prompt,) if isinstance(wanted.prompt, str) else wanted.prompt
        texts = desk.complete(prompts, tokens=wanted.max_tokens)
        choices = tuple(_choice(desk, index, text, wanted.max_tokens) for index, text in enumerate(texts))
        return Completion(id=f"cmpl-{time.time_ns()}", created=int(time.time()), model=desk.model.name, choices=choices)


def check_request(wanted: CompletionRequest, model: str) -> None:
    """Refuse a request that a greedy continuation of one line can't fulfil.

    Raises:
        UnknownNameError: another model is asked for.
        ConfigError: sampling, a stream, several continuations, or another field that is not supported.
    """
    if wanted.model not in (None, model):
        raise UnknownNameError(f"unknown model {wanted.model!r}; this server has only {model!r}")
    asked = [name for name in _UNUSED if getattr(wanted, name)]
    if wanted.temperature or (wanted.n, wanted.best_of) != (1, 1) or wanted.stream or asked:
        raise ConfigError(
            "kg-edit serve continues a text greedily, to the end of its line, without streaming: send temperature 0, "
            f"n 1, best_of 1 and stream false{f', and leave out {asked[0]}' if asked else ''}"
        )


def _choice(desk: EditDesk, index: int, text: str, tokens: int) -> Choice:
    written = len(desk.model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Choice(index=index, text=text, finish_reason="length" if written >= tokens else "stop")
