"""Decide which requests `kg-edit serve` refuses: those of other sites' pages, for other host names, or too large.

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
    if not _names_this_server(host, hosts):
        served = ", ".join(hosts).replace(ANY_ADDRESS, "any IP address")
        message = f"the request is for the host {host[:100]!r}; this server answers to {served}"
        return Refusal(_UNKNOWN_HOST, "UnknownHostError", f"{message}; add another name with --name")
    if request.method in _READING:
        return None
    sender = _foreign_sender(request, host)
    if sender:
        address = f"{request.url.scheme}://{request.url.netloc}/"
        return Refusal(_FOREIGN, "ForeignRequestError", f"the request comes from {sender}; open {address} instead")
    # A browser sends JSON to another site only with its permission, which this server never gives.
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != _JSON:
        problem = "there is no content type"
        if content_type:
            problem = f"the content type is {content_type!r}"
        return Refusal(_NOT_JSON, "ContentTypeError", f"{problem}; send JSON with the header Content-Type: {_JSON}")
    return None


def _foreign_sender(request: Request, host: str) -> str | None:
    """Return which page of another site sent a request; None for a page of this server, and for a program.

    A browser sends the page's origin, and how the page's site relates to this one. No page can change these headers,
    and other programs send none of them.
    """
    origin = request.headers.get("origin")
    if origin is not None and not _is_origin_of(origin, host):
        return f"a page at {origin!r}"
    site = request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin", "none"):  # none: the user opened the address
        return f"another page ({site})"
    return None


def _is_origin_of(origin: str, host: str) -> bool:
    """Return whether an origin is that of the pages at ``host``."""
    try:
        address = urlsplit(origin).netloc  # "" for the origin "null"
    except ValueError:
        return False
    return address.lower() == host.lower()


def _names_this_server(host: str, hosts: tuple[str, ...]) -> bool:
    """Return whether the header Host, such as localhost:8000, has a name or an address of this server."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in hosts:
        return True
    return ANY_ADDRESS in hosts and _is_ip_address(name)


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class BodyLimit:
    """The outermost layer of the server, through which each request goes before the application sees it.

    1. It reads the body, and refuses one of more than ``largest`` bytes.
    2. It passes HEAD on as GET, because the web server sends no body for HEAD anyway.
    3. It answers a request that is cut off because the server stops.

    ``answer(path, refusal)`` makes the response for a refused request.
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
        body = await self._read_body(scope, receive)
        if body is None:
            message = f"the request has more than {self._largest} bytes; send less, or raise --max-body"
            refusal = Refusal(_TOO_LARGE, "RequestTooLargeError", message)
            await self._answer(scope["path"], refusal)(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        messages = _Messages(body, receive, send)
        try:
            await self._app(scope, messages.receive, messages.send)
        except asyncio.CancelledError:  # Ctrl-C during a long request: if it were raised, a traceback and an error 500
            if not messages.answer_has_begun:
                message = (
                    "the server was stopped during this request; start it again, and see its ledger before you repeat "
                    "it"
                )
                refusal = Refusal(_STOPPED, "StoppedError", message)
                await self._answer(scope["path"], refusal)(scope, receive, send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body; None if it, or its announced length, is too large."""
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


class _Messages:
    """The messages between the web server and the application, for a request whose body has been read already."""

    def __init__(self, body: bytes, receive: Receive, send: Send) -> None:
        self._body: bytes | None = body  # until the application has read it
        self._receive = receive
        self._send = send
        self.answer_has_begun = False

    async def receive(self) -> Message:
        """Return the body, then the web server's later messages."""
        if self._body is None:
            return await self._receive()
        body = self._body
        self._body = None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        self.answer_has_begun = True
        await self._send(message)
