"""HTTP as this package uses it: redirects within one host only, and bodies of a limited size.

A request carries the caller's contact address (User-Agent) or key (Authorization). It is sent on to another host, port
or protocol by nobody but the caller, so such a redirect is a reply like any other: an `HTTPError` with its Location.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, cast
from urllib.error import HTTPError
from urllib.parse import SplitResult, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from wikidata_cache.errors import BadOptionError

LIMIT = "KG_MAX_ANSWER_MB"
_USUAL_LIMIT = 50.0  # MB
_MB = 1_000_000
_CHUNK = 1 << 16  # bytes read at a time
_STEP = 1 << 12  # bytes unzipped at a time: what follows a member of a gzip stream is copied
_PORTS = {"http": 80, "https": 443}


class AnswerTooLargeError(ValueError):
    """A body is larger than `limit` bytes, packed or unpacked."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a reply of more than {limit / _MB:g} MB")
        self.limit = limit


def largest_answer() -> int:
    """The bytes that an answer may have, packed and unpacked: KG_MAX_ANSWER_MB, else 50 MB.

    Raises BadOptionError where KG_MAX_ANSWER_MB is no positive number.
    """
    said = os.environ.get(LIMIT, "").strip()
    try:
        megabytes = float(said or _USUAL_LIMIT)
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes < 1e9:
        raise BadOptionError(f"{LIMIT}={said!r}: expected the megabytes that an answer may have, such as 50.")
    return int(megabytes * _MB)


def open_url(request: Request, timeout: float) -> HTTPResponse:
    """The response to a request; `timeout` in seconds is that of each socket operation.

    Raises what `urllib.request.urlopen` raises, HTTPError also for a redirect to another host, port or protocol.
    """
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        UnknownHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        _SameHostRedirects(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return cast(HTTPResponse, opener.open(request, timeout=timeout))


class _SameHostRedirects(HTTPRedirectHandler):
    """Follows redirects to the same protocol, host and port, and from http to https of one host."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """The request to follow, or None for one that is not followed."""
        if not _same_place(urlsplit(req.full_url), urlsplit(newurl)):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _same_place(old: SplitResult, new: SplitResult) -> bool:
    before, after = _place(old), _place(new)
    return before == after or (before[1:] == (old.hostname, 80) and after == ("https", old.hostname, 443))


def _place(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)


def whole_reply(request: Request, *, timeout: float, limit: int) -> bytes:
    """The body of the reply to a request within `timeout` seconds in all.

    Raises what `open_url` and `read_body` raise, and ConnectionError where only a part of the body came.
    """
    deadline = time.monotonic() + timeout
    with open_url(request, timeout) as response:
        body, whole = read_body(response, deadline=deadline, limit=limit)
    if not whole:
        raise ConnectionError(f"the reply broke off after {len(body)} bytes")
    return body


def read_body(response: HTTPResponse | HTTPError, *, deadline: float, limit: int) -> tuple[bytes, bool]:
    """The body, unzipped where it is gzip, and whether all of it came.

    `limit` in bytes holds for the body as it is sent and unzipped. Raises AnswerTooLargeError, and TimeoutError at
    the `deadline` (monotonic seconds).
    """
    source = cast(HTTPResponse, response)
    unzip = _Gunzip(limit) if response.headers.get("Content-Encoding", "").lower() == "gzip" else None
    body, packed = bytearray(), 0
    try:
        while chunk := source.read1(_CHUNK):
            packed += len(chunk)
            for piece in (chunk,) if unzip is None else unzip.feed(chunk):
                body += piece
            if packed > limit or len(body) > limit:
                raise AnswerTooLargeError(limit)
            if time.monotonic() > deadline:
                raise TimeoutError
    except (HTTPException, ConnectionError, zlib.error):
        return bytes(body), False
    return bytes(body), not source.length and (unzip is None or unzip.complete)


class _Gunzip:
    """Unzips a gzip stream of any number of members piece by piece, never to more than `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self._left = limit + 1
        self._member: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        """Whether the last member has ended."""
        return self._member is None or self._member.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` unzips to, at most one byte more than the limit allows in all; raises zlib.error."""
        for start in range(0, len(data), _STEP):
            yield from self._unzipped(data[start : start + _STEP])

    def _unzipped(self, piece: bytes) -> Iterator[bytes]:
        while piece and self._left > 0:
            if self._member is None or self._member.eof:
                self._member = zlib.decompressobj(wbits=31)  # gzip
            found = self._member.decompress(piece, self._left)
            self._left -= len(found)
            yield found
            piece = self._member.unused_data
