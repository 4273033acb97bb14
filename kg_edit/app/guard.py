"""Decide which requests `kg-edit serve` refuses: those of other sites' pages, under other host names, or too large.

A browser sends a form's POST from any site to any address. So a request that changes something is refused unless it
comes from this page or from a program. A site can also make its own name point to this machine (DNS rebinding), so that
its page counts as "the same origin". So the server answers only to its own names. An IP address can't be redirected, so
a server that listens to other machines also answers to every IP address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost")
ANY_ADDRESS = "*"  # among hosts: every IP address
LARGEST = 1_000_000  # bytes of a request's body
_READING = ("GET", "HEAD", "OPTIONS")
_JSON = "application/json"
_OWN = ("same-origin", "none")  # none: the user opened the address
_UNKNOWN_HOST, _FOREIGN, _TOO_LARGE, _NOT_JSON = 400, 403, 413, 415


class Refusal(NamedTuple):
    """Why a request is refused; ``kind`` is that of a `Problem`."""

    code: int
    kind: str
    message: str


def refusal_of(request: Request, hosts: tuple[str, ...] = LOCAL) -> Refusal | None:
    """Why a request is refused; None for a request of this page or of a program.

    ``hosts`` are the names to which the server answers; with `ANY_ADDRESS`, it also answers to every IP address. A
    browser sends the page's origin, which no page can change, and sends JSON to another site only with its permission,
    which this server never gives. A program that is no browser sends no origin.
    """
    if not _answers_to(request.headers.get("host", ""), hosts):
        return _unknown_host(request.headers.get("host", ""), hosts)
    if request.method in _READING:
        return None
    if site := _foreign(request):
        return Refusal(_FOREIGN, "ForeignRequestError", f"the request comes from {site}; open {_own(request)} instead")
    found = request.headers.get("content-type", "")
    if found.partition(";")[0].strip().lower() != _JSON:
        said = f"the content type is {found!r}" if found else "there is no content type"
        return Refusal(_NOT_JSON, "ContentTypeError", f"{said}; send JSON with the header Content-Type: {_JSON}")
    return None


def _foreign(request: Request) -> str | None:
    """The other place from which the request comes, according to the browser; None if there is none."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None and _place(origin) != request.headers.get("host", "").lower():
        return f"a page at {origin!r}"
    return f"another page ({site})" if site is not None and site not in _OWN else None


def _place(origin: str) -> str | None:
    """Host and port of an origin; None for the origin ``null``, and for an invalid one."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _own(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}/"


def _answers_to(host: str, hosts: tuple[str, ...]) -> bool:
    """Whether the host name in the header Host is one of the server's."""
    name = _name(host)
    return name in hosts or (ANY_ADDRESS in hosts and _is_address(name))


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _unknown_host(host: str, hosts: tuple[str, ...]) -> Refusal:
    names = ", ".join("any IP address" if name == ANY_ADDRESS else name for name in hosts)
    said = f"the request is for the host {host[:100]!r}; this server answers to {names}"
    return Refusal(_UNKNOWN_HOST, "UnknownHostError", f"{said}; add another name with --name")


class BodyLimit:
    """Reads a request's body first, and refuses one of more than ``largest`` bytes."""

    def __init__(self, app: ASGIApp, *, largest: int, answer: Callable[[Refusal], Response]) -> None:
        self._app, self._largest, self._answer = app, largest, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its body in one piece."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._body(scope, receive)
        if body is None:
            said = f"the request has more than {self._largest} bytes; send less, or raise --max-body"
            await self._answer(Refusal(_TOO_LARGE, "RequestTooLargeError", said))(scope, receive, send)
            return
        await self._app(scope, _replayed(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if it is too large, or its announced length is."""
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._largest:
            return None
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._largest:
                return None
            more = message.get("more_body", False)
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A channel that returns the body, then the later messages."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
