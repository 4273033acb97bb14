"""Decide which requests `kg-edit serve` refuses: those of other sites' pages, under other host names, or too large.

A browser sends a form's POST from any site to any address. So a request that changes something is refused unless it
comes from this page or from a program. A site can also make its own name point to this machine (DNS rebinding), so that
its page counts as "the same origin". So the server answers only to its own names. An IP address can't be redirected, so
a server that listens to other machines also answers to every IP address.
"""

from __future__ import annotations

import asyncio
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
_UNKNOWN_HOST = 400
_FOREIGN = 403
_TOO_LARGE = 413
_NOT_JSON = 415
_STOPPED = 503


class Refusal(NamedTuple):
    """Why a request is refused; ``kind`` is that of a `Problem`."""

    code: int
    kind: str
    message: str


def refusal_of(request: Request, hosts: tuple[str, ...] = LOCAL) -> Refusal | None:
    """Return why a request is refused; None for a request of this page or of a program.

    ``hosts`` are the names to which the server answers; with `ANY_ADDRESS`, it also answers to every IP address.
    """
    host = request.headers.get("host", "")
    if not _is_served(host, hosts):
        names = ", ".join("any IP address" if name == ANY_ADDRESS else name for name in hosts)
        message = f"the request is for the host {host[:100]!r}; this server answers to {names}"
        return Refusal(_UNKNOWN_HOST, "UnknownHostError", f"{message}; add another name with --name")
    if request.method in _READING:
        return None

    # A browser sends the page's origin, which no page can change. A program that is no browser sends none.
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    foreign = None
    if origin is not None:
        try:
            same_site = urlsplit(origin).netloc.lower() == host.lower()  # the origin "null" has no netloc
        except ValueError:
            same_site = False
        foreign = None if same_site else f"a page at {origin!r}"
    if foreign is None and site not in (None, "same-origin", "none"):  # none: the user opened the address
        foreign = f"another page ({site})"
    if foreign:
        address = f"{request.url.scheme}://{request.url.netloc}/"
        return Refusal(_FOREIGN, "ForeignRequestError", f"the request comes from {foreign}; open {address} instead")

    # A browser sends JSON to another site only with its permission, which this server never gives.
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != _JSON:
        problem = f"the content type is {content_type!r}" if content_type else "there is no content type"
        return Refusal(_NOT_JSON, "ContentTypeError", f"{problem}; send JSON with the header Content-Type: {_JSON}")
    return None


def _is_served(host: str, hosts: tuple[str, ...]) -> bool:
    """Whether the host name in the header Host is one of the server's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in hosts:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return ANY_ADDRESS in hosts


class BodyLimit:
    """Reads a request's body first, and refuses one of more than ``largest`` bytes.

    As the outermost layer, it also answers the requests that the server's end cuts off, and passes HEAD on as GET: no
    server of an application sends a body for it.
    """

    def __init__(self, app: ASGIApp, *, largest: int, answer: Callable[[str, Refusal], Response]) -> None:
        self._app = app
        self._largest = largest
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its body in one piece."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._body(scope, receive)
        if body is None:
            message = f"the request has more than {self._largest} bytes; send less, or raise --max-body"
            refusal = Refusal(_TOO_LARGE, "RequestTooLargeError", message)
            await self._answer(scope["path"], refusal)(scope, receive, send)
            return
        scope = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            """Return the body, then the later messages."""
            return waiting.pop() if waiting else await receive()

        started = False

        async def noted(message: Message) -> None:
            """Send a part of the answer."""
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, replay, noted)
        except asyncio.CancelledError:  # Ctrl-C during a long request: raised on, it is a traceback and an error 500
            message = (
                "the server was stopped during this request; start it again, and see its ledger before you repeat it"
            )
            if not started:
                await self._answer(scope["path"], Refusal(_STOPPED, "StoppedError", message))(scope, receive, send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if it is too large, or its announced length is."""
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._largest:
            return None
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._largest:
                return None
            more = message.get("more_body", False)
        return bytes(body)
