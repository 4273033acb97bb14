"""Ask a language model behind an OpenAI-compatible server: llama-server, vLLM, `kg-edit serve`, a hosted one."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from kg_common.json_text import parse
from kg_edit.errors import ConfigError, ServerError
from wikidata_cache.endpoints.web import AnswerTooLargeError, is_header_text, is_http_address, read_body, read_reply

_BUSY = (408, 429, 500, 502, 503, 504)  # HTTP statuses after which the server is asked again
_LONGEST_WAIT = 30.0  # seconds
_MOST_BYTES = 10_000_000  # the largest reply that is read
_SHOWN = 200  # the most characters of a reply that a message shows


@dataclass(frozen=True, kw_only=True)
class ModelServer:
    """A server of language models.

    Attributes:
        url: its address, such as http://localhost:8000/v1. It is checked, and named in messages. What is asked is an
            ``endpoint``: a whole URL that begins with it, such as http://localhost:8000/v1/completions.
        key: sent as a bearer token; never shown or written to a file.
        key_name: the environment variable of the key, for messages.
        seconds: the time limit for one answer.
        tries: how often a server that is busy or can't be reached is asked.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    key_name: str
    seconds: float = 60.0
    tries: int = 1

    def __post_init__(self) -> None:
        """Check the number of tries, the address and the key."""
        if self.tries < 1:
            raise ConfigError(f"tries={self.tries}: expected 1 or more")
        if not is_http_address(self.url):
            raise ConfigError(f"server {self.url!r}: expected an address such as http://localhost:8000/v1")
        if self.key and not is_header_text(self.key):
            raise ConfigError(f"the server's key has a line break or a letter beyond ASCII; correct {self.key_name}")

    def ask(self, endpoint: str, body: Any = None) -> Any:
        """Return the JSON that an ``endpoint`` (a whole URL) sends for a request: POST with a ``body``, else GET."""
        text = self.request(endpoint, body)
        try:
            return parse(text)
        except ValueError as error:  # also JSON that is nested too deeply
            raise self.unexpected(text.decode(errors="replace"), "JSON") from error

    def request(self, endpoint: str, body: Any = None) -> bytes:
        """Return the bytes that an ``endpoint`` sends for a request: POST with a ``body`` as JSON, else GET."""
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        return self._send(endpoint, data, headers)

    def _send(self, endpoint: str, data: bytes | None, headers: dict[str, str]) -> bytes:
        """Return the server's reply to a request, which is sent again while the server is busy or out of reach."""
        for attempt in range(1, self.tries + 1):
            is_last = attempt == self.tries
            wait = 0.5 * 2**attempt  # seconds, doubled at each try, unless the server asks for another time
            request = urllib.request.Request(endpoint, data=data, headers=headers)  # noqa: S310 - begins with the checked url
            deadline = time.monotonic() + self.seconds
            try:
                return read_reply(request, timeout=self.seconds, limit=_MOST_BYTES)
            except urllib.error.HTTPError as error:
                if is_last or error.code not in _BUSY:
                    raise self._error_of(endpoint, error, deadline) from error
                retry_after = error.headers.get("Retry-After")
                if retry_after and retry_after.isdecimal():
                    wait = float(retry_after)
            except AnswerTooLargeError as error:
                raise ServerError(f"{endpoint} sent {error}; check that it is a server of language models") from error
            except (OSError, ValueError, HTTPException) as error:
                if is_last:
                    raise self._no_reply(endpoint, error) from error
            time.sleep(min(wait, _LONGEST_WAIT))
        raise AssertionError("the last try returns or raises")

    def _no_reply(self, endpoint: str, error: Exception) -> ServerError:
        """Return the error about a server that sent no reply."""
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            problem = (
                f"did not answer in {self.seconds:g} s; ask later, or with a longer --timeout if the command has it"
            )
        else:
            problem = f"can't be reached: {reason}; check the address, and that the server runs"
        return ServerError(f"{endpoint} {problem}")

    def _error_of(self, endpoint: str, error: urllib.error.HTTPError, deadline: float) -> ServerError:
        """Return the error about a server that answered with an HTTP error, with the server's own words if it can."""
        reply = ""
        with suppress(OSError, ValueError, HTTPException):  # it may be too slow, too large or cut off, too
            body, _ = read_body(error, deadline=deadline, limit=_MOST_BYTES)  # a part of it will do
            reply = body.decode(errors="replace")
        reply = _find_message(reply)
        way = "check the address and the model"
        if error.code in (401, 403):
            way = f"set the server's API key in {self.key_name}"
        refusal = ServerError(f"{endpoint} answered with error {error.code}: {reply[:_SHOWN]!r}; {way}")
        refusal.status = error.code
        return refusal

    def unexpected(self, found: Any, expected: str) -> ServerError:
        """Return the error about a reply that is not what was ``expected``."""
        reply = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        return ServerError(
            f"{self.url} replied {reply[:_SHOWN]!r}; expected {expected}, as OpenAI-compatible servers give at /v1"
        )


def _find_message(reply: str) -> str:
    """Return the message in a reply that reports an error; the whole reply if it has none of the usual forms.

    {"message": "…"}   {"error_message": "…"}   {"error": {"message": "…"}}
    """
    try:
        parsed = parse(reply)
        return str(parsed.get("message") or parsed.get("error_message") or parsed["error"]["message"])
    except (ValueError, LookupError, TypeError, AttributeError):  # no JSON, or JSON of another form
        return reply
