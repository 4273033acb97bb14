"""Check edits on a model behind an OpenAI-compatible server: llama-server, vLLM, `kg-edit serve`.

An edit in plain text is asked by ``POST /v1/completions`` with temperature 0. It holds if the greedy continuation of
its prompt begins with the new target. (`kg_edit.ledger.check` has the model itself, and compares probabilities.) An
edit in chat form is asked by ``POST /v1/chat/completions``. It holds if the answer's first sentence mentions the
target.

Some models do not read a prompt's first token (`kg_edit.models.first_token`), but this can't be found out from a
server. So a prompt that begins with the edit's subject is asked unchanged first; if the answer is wrong, it is asked
once more after a line break. This module does not need torch.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, ServerError
from kg_edit.ledger.entries import Entry
from kg_edit.text.matching import begins_with, first_sentence, mentions
from wikidata_cache.endpoints.web import whole_reply

Kind = Literal["rewrite", "paraphrase", "portability", "locality"]
KINDS: tuple[Kind, ...] = ("rewrite", "paraphrase", "portability", "locality")
KEY = "KG_EDIT_SERVER_KEY"  # environment variable of the key
LEAD = "\n"  # before a prompt whose first token may not be read
SECONDS = 60.0
_SENTENCE = 24  # tokens around the target in an answer
_SPARE = 4  # tokens beyond the target's: a space, an article
_MOST_BYTES = 10_000_000  # size of a reply, at most
_SHOWN = 200  # characters of a server's reply in a message


@dataclass(frozen=True, kw_only=True)
class CompletionServer:
    """A server of language models.

    Attributes:
        url: its address, with or without ``/v1``.
        model: the model's name there; None: the only one that it lists.
        key: sent as a bearer token; never shown.
        seconds: the time limit for one answer.
    """

    url: str
    model: str | None = None
    key: str | None = None
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            ConfigError: it is no HTTP address.
        """
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"--server {self.url!r}: expected an address such as http://localhost:8080")

    def named(self) -> CompletionServer:
        """The same server with a model's name: the given one, or else the only one that ``GET /v1/models`` lists.

        Raises:
            ConfigError: it lists several and none is given, or it does not list the given one.
            ServerError: it can't be asked.
        """
        listed = self._listed()
        if self.model is None and len(listed) != 1:
            raise ConfigError(f"{self.url} serves {len(listed)} models; name one: --served {' or '.join(listed)}")
        if self.model is not None and self.model not in listed:
            raise ConfigError(f"{self.url} does not serve {self.model!r}; give --served one of {', '.join(listed)}")
        return CompletionServer(url=self.url, model=self.model or listed[0], key=self.key, seconds=self.seconds)

    def complete(self, prompt: str, *, tokens: int) -> str:
        """The greedy continuation of a prompt, at most ``tokens`` tokens.

        Raises:
            ServerError: the server can't be reached, takes too long, refuses, or replies in another form.
        """
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": False}
        data = self._ask("completions", body)
        try:
            return str(data["choices"][0]["text"])
        except (LookupError, TypeError) as error:
            raise self._odd(data, "a completion with choices[0].text") from error

    def answer(self, question: str, *, tokens: int) -> str:
        """The greedy answer to a user's turn, at most ``tokens`` tokens.

        Raises:
            ServerError: as `complete`.
        """
        turns = [{"role": "user", "content": question}]
        body = {"model": self.model, "messages": turns, "max_tokens": tokens, "temperature": 0, "stream": False}
        data = self._ask("chat/completions", body)
        try:
            return str(data["choices"][0]["message"]["content"])
        except (LookupError, TypeError) as error:
            raise self._odd(data, "a chat completion with choices[0].message.content") from error

    def _listed(self) -> list[str]:
        data = self._ask("models")
        try:
            return [str(one["id"]) for one in data["data"]]
        except (LookupError, TypeError) as error:
            raise self._odd(data, "a list of models with data[].id") from error

    def _ask(self, what: str, body: dict[str, Any] | None = None) -> Any:
        address = f"{self.url.rstrip('/').removesuffix('/v1')}/v1/{what}"
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data=data, headers=headers)  # noqa: S310 - checked above
        try:
            text = whole_reply(request, timeout=self.seconds, limit=_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise ServerError(_refusal(address, error)) from error
        except (OSError, ValueError) as error:
            raise ServerError(_unreachable(address, error, self.seconds)) from error
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._odd(text.decode(errors="replace"), "JSON") from error

    def _odd(self, found: Any, wanted: str) -> ServerError:
        said = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        return ServerError(
            f"{self.url} replied {said[:_SHOWN]!r}; expected {wanted}, as OpenAI-compatible servers give at /v1"
        )


def _refusal(address: str, error: urllib.error.HTTPError) -> str:
    text = error.read(_MOST_BYTES).decode(errors="replace")
    try:
        data = json.loads(text)
        said = data.get("message") or data["error"]["message"]
    except (ValueError, LookupError, TypeError, AttributeError):
        said = text
    way = f"set the server's API key in {KEY}" if error.code in (401, 403) else "check the address and --served"
    return f"{address} answered with error {error.code}: {str(said)[:_SHOWN]!r}; {way}"


def _unreachable(address: str, error: Exception, seconds: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"{address} did not answer within {seconds:g} s; wait longer with --timeout"
    return f"{address} can't be reached: {reason}; check the address, and that the server runs"


@dataclass(frozen=True, kw_only=True)
class Said:
    """A prompt of an edit, and the server's text after it; ``led``: it was asked after a line break."""

    kind: Kind
    prompt: str
    wanted: str
    text: str
    right: bool
    led: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class ServedEdit:
    """A standing edit, and the server's texts for its prompts."""

    entry: Entry
    answers: tuple[Said, ...]

    @property
    def holds(self) -> bool:
        """Whether every prompt that was asked is answered rightly."""
        return all(answer.right for answer in self.answers)


def check_served(
    server: CompletionServer, entries: Sequence[Entry], kinds: Sequence[Kind], *, chat: bool | None = None
) -> Iterator[ServedEdit]:
    """Ask the server the prompts of these ``kinds`` of each edit, one edit after the other.

    ``chat``: ask as a user's turn, or as plain text; None: in the form in which the edit was made.

    Raises:
        ConfigError: the server lists several models, and none was named.
        ServerError: it can't be reached, takes too long, refuses, or replies in another form; a note names the edit.
    """
    named = server.named()
    for entry in entries:
        try:
            answers = tuple(
                _answer(named, prompt) for prompt in prompts_of(entry.edit, chat=chat) if prompt.kind in kinds
            )
        except ServerError as error:
            error.add_note(f"asked for the edit {entry.name!r}")
            raise
        yield ServedEdit(entry=entry, answers=answers)


@dataclass(frozen=True, kw_only=True)
class ServedPrompt:
    """A prompt of an edit: ``ask`` is sent to the server, ``wanted`` is the expected answer.

    ``anywhere``: one of ``names`` may be anywhere in the text, not only at its start (for a question). ``leads``: the
    prompt begins with the edit's subject. ``chat``: the prompt is a user's turn.
    """

    kind: Kind
    ask: str
    wanted: str
    names: tuple[str, ...]
    anywhere: bool = False
    leads: bool = False
    chat: bool = False

    def is_answered(self, text: str) -> bool:
        """Whether a continuation says the wanted answer."""
        if self.chat and not self.anywhere:
            return any(mentions(first_sentence(text), name) for name in self.names)
        says = mentions if self.anywhere else begins_with
        return any(says(text, name) for name in self.names)


def prompts_of(edit: Edit, *, chat: bool | None = None) -> Iterator[ServedPrompt]:
    """All prompts of an edit, like `kg_edit.reports.probes.probes` for a model in memory."""
    in_chat = edit.forms[0] if chat is None else chat
    both = chat is None and len(edit.forms) > 1
    for prompt in _prompts(edit):
        yield replace(prompt, chat=in_chat, leads=prompt.leads and not in_chat)
        if both and prompt.kind == "rewrite":
            yield replace(prompt, kind="paraphrase", chat=True, leads=False)


def _prompts(edit: Edit) -> Iterator[ServedPrompt]:
    yield _statement("rewrite", edit.text, edit, edit.target_new)
    for prompt in edit.paraphrases:
        yield _statement("paraphrase", prompt, edit, edit.target_new)
    for question in edit.portability:
        from kg_edit.scoring.questions import format_question_with_shots, right_answers  # they import torch

        ask = format_question_with_shots(question.question)
        names = right_answers(question)
        yield ServedPrompt(kind="portability", ask=ask, wanted=question.answer, names=names, anywhere=True)
    for prompt in edit.neighborhood if edit.target_true else ():
        yield _statement("locality", prompt, edit, edit.target_true or "")


def _statement(kind: Kind, prompt: str, edit: Edit, wanted: str) -> ServedPrompt:
    text = prompt.rstrip()
    return ServedPrompt(kind=kind, ask=text, wanted=wanted, names=(wanted,), leads=text.startswith(edit.subject))


def _answer(server: CompletionServer, prompt: ServedPrompt) -> Said:
    tokens = _SPARE + max(len(name.encode()) for name in prompt.names)  # a token has at least one byte
    if prompt.chat:
        return _said(prompt, server.answer(prompt.ask, tokens=tokens + _SENTENCE), led=False)
    found = _said(prompt, server.complete(prompt.ask, tokens=tokens), led=False)
    if found.right or not prompt.leads:
        return found
    again = _said(prompt, server.complete(LEAD + prompt.ask, tokens=tokens), led=True)
    return again if again.right else found


def _said(prompt: ServedPrompt, text: str, *, led: bool) -> Said:
    line = text.strip() if prompt.chat else text.split("\n", 1)[0].strip()
    shown = prompt.ask.rpartition("\n\n")[2]  # a question without its shots
    return Said(
        kind=prompt.kind, prompt=shown, wanted=prompt.wanted, text=line, right=prompt.is_answered(line), led=led
    )
