"""Send one HTTP request to a SPARQL endpoint, and return the reply, of any status, within a wall-clock deadline.

SPARQLWrapper builds the request (SPARQL 1.1 Protocol: GET, or POST for long queries). This module sends it, because the
deadline must cover name look-up and slow bodies, and because statuses, headers and gzip bodies are needed. `web.py`
limits redirects and the size of bodies.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from queue import Empty, SimpleQueue
from typing import cast
from urllib.error import HTTPError
from urllib.parse import quote_plus
from urllib.request import Request

from wikidata_cache.endpoints.web import AnswerTooLargeError, open_url, read_body
from wikidata_cache.errors import BadOptionError

logger = logging.getLogger(__name__)

_GET_LIMIT = 7_500  # bytes of the URL; longer queries are sent by POST
_LONGEST = 1e9  # seconds; sockets and queues can't wait longer than some 300 years
_SILENCE = 10.0  # seconds after which a wait is logged, and again
_ERROR_BYTES = 1 << 20  # largest body to read of a reply with an error status


@dataclass(frozen=True)
class Reply:
    """An HTTP reply: header names in lower case, the body unzipped; `is_complete` is False if the body was cut off."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    is_complete: bool
    elapsed_ms: int


@dataclass
class Transport:
    """Sends queries to an endpoint."""

    url: str
    agent: str  # the User-Agent
    timeout: float  # wall-clock limit, in seconds
    max_bytes: int  # largest body to read, zipped and unzipped
    post: bool = False  # always send POST

    def __post_init__(self) -> None:
        if not (isinstance(self.timeout, int | float) and 0 < self.timeout < _LONGEST):
            raise BadOptionError(f"timeout={self.timeout!r}: expected a number of seconds greater than 0.")

    def send(self, query: str) -> Reply:
        """Return the reply to a query; raises TimeoutError, AnswerTooLargeError, or errors of urllib and http.client.

        The timeout of a socket covers neither name look-up nor a server that sends byte by byte. Therefore a daemon
        thread makes the exchange. At the deadline the thread is abandoned; it ends with its connection.
        """
        outcome: SimpleQueue[Reply | Exception] = SimpleQueue()

        def talk() -> None:
            try:
                outcome.put(self._exchange(query))
            except Exception as error:  # raised by the waiting thread below
                outcome.put(error)

        threading.Thread(target=talk, daemon=True).start()
        left = min(1.1 * self.timeout, self.timeout + 1.0)  # the socket may time out first
        result = None
        while result is None:
            try:
                result = outcome.get(timeout=min(left, _SILENCE))
            except Empty:
                left -= _SILENCE
                if left <= 0:
                    raise TimeoutError from None
                logger.info("%s: waiting for the answer, at most %.0f s more", self.url, left)
        if isinstance(result, Exception):
            raise result
        return result

    def _exchange(self, query: str) -> Reply:
        """Send a query once, and return the reply, also one with an error's status."""
        start = time.monotonic()
        try:
            response: HTTPResponse = open_url(self._request(query), self.timeout)
        except HTTPError as error:
            response = cast(HTTPResponse, error)  # an HTTPError wraps a response
        with response:
            is_good = response.status == 200
            limit = self.max_bytes
            if not is_good:
                limit = min(_ERROR_BYTES, self.max_bytes)
            try:
                body, complete = read_body(response, deadline=start + self.timeout, limit=limit)
            except AnswerTooLargeError:
                if is_good:
                    raise
                body = b""  # the status is enough for an error message
                complete = False
        headers = {name.lower(): value for name, value in response.headers.items()}
        elapsed = round((time.monotonic() - start) * 1000)
        return Reply(response.status, response.reason, headers, body, complete, elapsed)

    def _request(self, query: str) -> Request:
        """Return the request of a query: a GET with the query in the address, or a POST with it in the body.

        It is a POST if the address would be too long, or `post` is set.
        """
        from SPARQLWrapper import GET, JSON, POST, SPARQLWrapper  # imported here, since only endpoints need it

        wrapper = SPARQLWrapper(self.url, returnFormat=JSON, agent=self.agent)
        wrapper.setOnlyConneg(True)  # ask for JSON by the Accept header alone, without parameters such as format=json
        wrapper.setQuery(query)
        is_long = len(self.url) + len(quote_plus(query)) > _GET_LIMIT
        if self.post or is_long:
            wrapper.setMethod(POST)
        else:
            wrapper.setMethod(GET)
        wrapper.addCustomHttpHeader("Accept-Encoding", "gzip")
        # SPARQLWrapper.query() would lose the headers of five statuses, and leave their bodies zipped.
        request: Request = wrapper._createRequest()
        if "?" in self.url and request.data is None:
            # SPARQLWrapper adds a second question mark: https://host/sparql?key=1?query=... needs "&query=...".
            parameters = request.full_url[len(self.url) + 1 :]
            request.full_url = f"{self.url}&{parameters}"
        return request
