"""HTTP requests with limits: redirects are followed within one host only, and bodies have a maximal size.

A request has the caller's contact address (User-Agent) or key (Authorization), which no other host must get. Therefore
a redirect to another host, port or protocol is not followed: it is an error reply, an `HTTPError` with its Location.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, cast
from urllib.error import HTTPError
from urllib.parse import urlsplit
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

LIMIT_VARIABLE = "KG_MAX_ANSWER_MB"  # name of the environment variable
_USUAL_LIMIT = 50.0  # MB
_MB = 1_000_000
_CHUNK = 1 << 16  # bytes read at a time
_STEP = 1 << 12  # bytes to unzip at a time: small, since zlib copies the data after the end of a gzip member
_PORTS = {"http": 80, "https": 443}


class AnswerTooLargeError(ValueError):
    """A body is larger than `limit` bytes, zipped or unzipped."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a reply of more than {limit / _MB:g} MB")
        self.limit = limit


def read_answer_limit() -> int:
    """Return the maximal size of an answer in bytes, zipped and unzipped: KG_MAX_ANSWER_MB, else 50 MB."""
    setting = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        megabytes = float(setting or _USUAL_LIMIT)
    except ValueError:
        megabytes = 0.0
    if not 0 < megabytes < 1e9:
        raise BadOptionError(
            f"{LIMIT_VARIABLE}={setting!r}: expected the maximal size of an answer in megabytes, such as 50."
        )
    return int(megabytes * _MB)


def is_header_text(text: str) -> bool:
    """Return whether `text`, such as a key, can be the value of a header: printable ASCII.

    Callers refuse other texts themselves, since the error that Python raises for one would show the key.
    """
    return text.isascii() and text.isprintable()


def is_http_address(url: str) -> bool:
    """Return whether requests can be sent to `url`: http or https, a host, a port that is a number, and no spaces."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.port == 0:
            return False
        return re.search(r"[\s\0-\x1f]", url) is None
    except ValueError:  # such as a port in letters, or a bracket that is not closed
        return False


def open_url(request: Request, timeout: float) -> HTTPResponse:
    """Send a request and return the response; `timeout` is the limit of each socket operation, in seconds.

    Raises the errors of `urllib.request.urlopen`; HTTPError also for a redirect to another host, port or protocol.
    """
    # `build_opener` would add handlers for file:, ftp: and data: addresses, and its own redirects to other hosts.
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
        """Return the request for a redirect to follow, or None for a redirect that is not followed.

        A POST is sent again as it was. The status 303 asks for a GET without its body, and is not followed.
        """
        old = _find_origin(req.full_url)
        new = _find_origin(newurl)
        _, host, port = old
        is_upgrade = port == 80 and new == ("https", host, 443)
        if new != old and not is_upgrade:
            return None
        if req.data is not None and code == 303:
            return None
        if req.data is not None:  # urllib would ask without the body, which is the whole question
            return Request(newurl, req.data, dict(req.headers))  # noqa: S310  # as before
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _find_origin(url: str) -> tuple[str, str | None, int | None]:
    """Return the protocol, host and port of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def read_reply(request: Request, *, timeout: float, limit: int) -> bytes:
    """Send a request and return the body of the reply, within `timeout` seconds in total.

    Raises the errors of `open_url` and `read_body`, and ConnectionError if only a part of the body arrived.
    """
    deadline = time.monotonic() + timeout
    with open_url(request, timeout) as response:
        body, complete = read_body(response, deadline=deadline, limit=limit)
    if not complete:
        raise ConnectionError(f"the reply ended too early, after {len(body)} bytes")
    return body


def read_body(response: HTTPResponse | HTTPError, *, deadline: float, limit: int) -> tuple[bytes, bool]:
    """Return (body, whether it is complete); a gzip body is unzipped.

    `limit` (bytes) applies to the body as it is sent, and to the unzipped body.
    """
    source = cast(HTTPResponse, response)
    unzip: _Gunzip | None = None
    if response.headers.get("Content-Encoding", "").lower() == "gzip":
        unzip = _Gunzip(limit)
    body = bytearray()
    received = 0  # bytes, as they are sent
    try:
        while chunk := source.read1(_CHUNK):
            received += len(chunk)
            if unzip is None:
                body += chunk
            else:
                for piece in unzip.feed(chunk):
                    body += piece
            if received > limit or len(body) > limit:
                raise AnswerTooLargeError(limit)
            if time.monotonic() > deadline:
                raise TimeoutError
    except (HTTPException, ConnectionError, zlib.error):
        return bytes(body), False
    is_complete = not source.length  # the bytes that were announced and have not come
    if unzip is not None:
        is_complete = is_complete and unzip.is_complete
    return bytes(body), is_complete


class _Gunzip:
    """Unzips a gzip stream of any number of members piece by piece, to at most `limit` + 1 bytes in total.

    The one byte more shows `read_body` that the body is larger than the limit.
    """

    def __init__(self, limit: int) -> None:
        self._remaining = limit + 1
        self._member: zlib._Decompress | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the data so far ends where a member ends; no data at all is complete, too."""
        return self._member is None or self._member.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the unzipped `data`, in total at most one byte more than the limit; raises zlib.error."""
        for start in range(0, len(data), _STEP):
            # A piece may have the end of one member, whole small members, and the start of another one: each round
            # unzips what belongs to one member, and leaves what follows its end (`unused_data`) to the next round.
            piece = data[start : start + _STEP]
            while piece and self._remaining > 0:
                if self._member is None or self._member.eof:
                    self._member = zlib.decompressobj(wbits=31)  # gzip
                # With a maximal length, zlib keeps back the input that it has no room for (`unconsumed_tail`). This
                # happens only when no bytes remain: the body is too large then, and the rest is not needed.
                unzipped = self._member.decompress(piece, self._remaining)
                self._remaining -= len(unzipped)
                yield unzipped
                piece = self._member.unused_data
