"""One HTTP request to a SPARQL endpoint and its reply of whatever status, within a wall-clock deadline.

SPARQLWrapper builds the request (SPARQL 1.1 Protocol: GET, or POST for long queries); sending is done here, because
the deadline must cover name look-up and slow bodies, and all statuses, headers and gzip bodies are needed.
"""

import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from queue import Empty, SimpleQueue
from typing import cast
from urllib.error import HTTPError
from urllib.parse import quote_plus
from urllib.request import Request, urlopen

_GET_LIMIT = 7_500  # bytes of URL; longer questions go by POST


@dataclass(frozen=True)
class Reply:
    """An HTTP reply: header names in lower case, the body unzipped; `whole` is False where the body is incomplete."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    whole: bool
    elapsed_ms: int


@dataclass
class Transport:
    """Sends queries to `url` with User-Agent `agent`; `timeout` is in wall-clock seconds; `post` forces POST."""

    url: str
    agent: str
    timeout: float
    post: bool = False

    def send(self, query: str) -> Reply:
        """The reply to a query; raises TimeoutError, or what urllib and http.client raise without a reply.

        A socket's timeout covers neither name look-up nor a server that sends byte by byte. So a daemon thread
        makes the exchange, and is abandoned at the deadline (it ends with its connection).
        """
        outcome: SimpleQueue[Reply | Exception] = SimpleQueue()

        def talk() -> None:
            try:
                outcome.put(self._exchange(query))
            except Exception as error:  # raised by the waiting thread below
                outcome.put(error)

        threading.Thread(target=talk, daemon=True).start()
        try:
            result = outcome.get(timeout=min(1.1 * self.timeout, self.timeout + 1.0))  # the socket may speak first
        except Empty:
            raise TimeoutError from None
        if isinstance(result, Exception):
            raise result
        return result

    def _exchange(self, query: str) -> Reply:
        start = time.monotonic()
        with self._open(query) as response:
            body, whole = _read(response, start + self.timeout)
        if response.headers.get("Content-Encoding", "").lower() == "gzip":
            body, unzipped = _gunzip(body)
            whole = whole and unzipped
        headers = {name.lower(): value for name, value in response.headers.items()}
        elapsed = round((time.monotonic() - start) * 1000)
        return Reply(response.status, response.reason, headers, body, whole, elapsed)

    def _open(self, query: str) -> HTTPResponse:
        try:
            response: HTTPResponse = urlopen(self._request(query), timeout=self.timeout)  # noqa: S310 it is http
        except HTTPError as error:
            return cast(HTTPResponse, error)  # wraps a response like any other
        return response

    def _request(self, query: str) -> Request:
        from SPARQLWrapper import GET, JSON, POST, SPARQLWrapper  # here, since only endpoints need it

        wrapper = SPARQLWrapper(self.url, returnFormat=JSON, agent=self.agent)
        wrapper.setOnlyConneg(True)
        wrapper.setQuery(query)
        wrapper.setMethod(POST if self.post or len(self.url) + len(quote_plus(query)) > _GET_LIMIT else GET)
        wrapper.addCustomHttpHeader("Accept-Encoding", "gzip")
        # Its query() would lose the headers of five statuses, and leave their bodies zipped.
        request: Request = wrapper._createRequest()
        return request


def _read(response: HTTPResponse, deadline: float) -> tuple[bytes, bool]:
    """The body, and whether it is as long as was announced; raises TimeoutError at the deadline (monotonic seconds)."""
    chunks = []
    try:
        while chunk := response.read1(1 << 16):
            chunks.append(chunk)
            if time.monotonic() > deadline:
                raise TimeoutError
    except (HTTPException, ConnectionError):
        return b"".join(chunks), False
    return b"".join(chunks), not response.length


def _gunzip(body: bytes) -> tuple[bytes, bool]:
    """The unzipped bytes, as far as they go, and whether the stream is complete."""
    text = b""
    try:
        while body:
            stream = zlib.decompressobj(wbits=31)  # gzip
            text += stream.decompress(body)
            if not stream.eof:
                return text, False
            body = stream.unused_data
    except zlib.error:
        return text, False
    return text, True
