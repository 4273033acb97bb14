"""One HTTP request to a SPARQL endpoint and its reply of whatever status, within a wall-clock deadline.

SPARQLWrapper builds the request (SPARQL 1.1 Protocol: GET, or POST for long queries); sending is done here, because
the deadline must cover name look-up and slow bodies, and all statuses, headers and gzip bodies are needed. Redirects
and the size of bodies have limits (`web.py`).
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPResponse
from queue import Empty, SimpleQueue
from typing import cast
from urllib.error import HTTPError
from urllib.parse import quote_plus
from urllib.request import Request

from wikidata_cache.endpoints.web import AnswerTooLargeError, largest_answer, open_url, read_body

_GET_LIMIT = 7_500  # bytes of URL; longer questions go by POST
_ERROR_BYTES = 1 << 20  # of a reply that is no answer; more is not read


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
    """Sends queries to `url` with User-Agent `agent`; `timeout` is in wall-clock seconds; `post` forces POST.

    `max_bytes` is the largest body that is read, packed and unpacked.
    """

    url: str
    agent: str
    timeout: float
    post: bool = False
    max_bytes: int = field(default_factory=largest_answer)

    def send(self, query: str) -> Reply:
        """The reply to a query; raises TimeoutError, AnswerTooLargeError, or what urllib and http.client raise.

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
            body, whole = self._body(response, start + self.timeout)
        headers = {name.lower(): value for name, value in response.headers.items()}
        elapsed = round((time.monotonic() - start) * 1000)
        return Reply(response.status, response.reason, headers, body, whole, elapsed)

    def _body(self, response: HTTPResponse, deadline: float) -> tuple[bytes, bool]:
        if response.status == 200:
            return read_body(response, deadline=deadline, limit=self.max_bytes)
        try:
            return read_body(response, deadline=deadline, limit=min(_ERROR_BYTES, self.max_bytes))
        except AnswerTooLargeError:
            return b"", False  # the status says enough

    def _open(self, query: str) -> HTTPResponse:
        try:
            response: HTTPResponse = open_url(self._request(query), self.timeout)
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
