"""A read-only SPARQL 1.1 endpoint on 127.0.0.1 over a store on disk, for programs on this machine.

The server refuses:

- requests with another host name, or from a page of another site: an attacker could make a browser on this machine
  send them (DNS rebinding);
- SERVICE, with which a query could reach the machine's network;
- queries that exceed the limits of time, memory or length.

Queries run in separate processes (`pool.py`), so that each query can be stopped.
https://www.w3.org/TR/sparql11-protocol/#query-operation
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from wikidata_cache.errors import ServeError
from wikidata_cache.ids import release
from wikidata_cache.serving.pool import WorkerPool
from wikidata_cache.stores.manifest import engine_folder

HOST = "127.0.0.1"
LONGEST = 1_000_000  # bytes of a request's body
_NAMES = ("127.0.0.1", "localhost", "::1")
_IDLE_S = 30.0  # seconds until a connection on which the client sends nothing is closed
_OF_DATASETS = ("default-graph-uri", "named-graph-uri")  # a store has one graph
_FORM = "application/x-www-form-urlencoded"
_PLAIN = "application/sparql-query"


@contextmanager
def served(folder: Path, *, port: int = 0, timeout_s: int = 60) -> Iterator[str]:
    """Serve a store during the block, to this machine only, and yield the URL (`…/query`).

    Args:
        folder: a store made by `load`, or a plain Oxigraph folder.
        port: the port on 127.0.0.1; 0 chooses a free one.
        timeout_s: seconds after which a query is stopped.
    """
    location = engine_folder(folder)
    try:
        server = _Server((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        raise ServeError(f"port {port} of {HOST} cannot be used ({error}); give another --port") from error
    with server, tempfile.TemporaryDirectory(prefix="wikidata-cache-") as scratch:
        server.pool = WorkerPool(location, seconds=timeout_s)
        server.scratch = Path(scratch)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}/query"
        finally:
            server.pool.close()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle client must not delay the end
    pool: WorkerPool
    scratch: Path

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: the client has closed the connection."""


class _Refusal(NamedTuple):
    status: int
    message: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = f"wikidata-cache/{release()}"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        text = self.headers.get("Content-Length", "")
        length = int(text) if text.isdecimal() else None
        if length is not None and length <= LONGEST:
            self._answer(self.rfile.read(length))
            return
        # Most clients read the reply only after sending all, so the body (or its beginning) is read and dropped.
        remaining = min(length or 0, 20 * LONGEST)
        while remaining > 0 and (block := self.rfile.read(min(remaining, 1 << 16))):
            remaining -= len(block)
        self._refuse(_Refusal(413, f"Give a Content-Length of at most {LONGEST} bytes."))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that the base class can't read, as text."""
        if code == HTTPStatus.REQUEST_URI_TOO_LONG:
            message = "Give a URL of at most 65,536 bytes, or send the query by POST"
        self._refuse(_Refusal(code, f"{message or HTTPStatus(code).phrase}."))

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing: a library does not print."""

    def _answer(self, body: bytes | None) -> None:
        query = self._query(body)
        if isinstance(query, _Refusal):
            self._refuse(query)
            return
        with tempfile.NamedTemporaryFile(dir=self.server.scratch) as file:
            outcome = self.server.pool.run(query, self._accepted(), Path(file.name))
            if outcome["status"] != 200:
                self._refuse(_Refusal(outcome["status"], outcome["text"]))
                return
            self._head(200, outcome["text"], Path(file.name).stat().st_size)
            with Path(file.name).open("rb") as rows:
                shutil.copyfileobj(rows, self.wfile, 1 << 20)

    def _query(self, body: bytes | None) -> str | _Refusal:
        """Return the query of the request, which the protocol allows in the URL, in a form, or as the body."""
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        if not _is_here(f"//{host}") or (origin is not None and not _is_here(origin)):
            problem = f"found Host {host[:100]!r}{f', Origin {origin[:100]!r}' if origin else ''}"
            return _Refusal(403, f"This server only answers requests to {' and '.join(_NAMES)}; {problem}.")
        url = urlsplit(self.path)
        kind = self.headers.get_content_type()
        if url.path.rstrip("/") != "/query":
            return _Refusal(404, "The endpoint is /query; it is read-only.")
        if body is not None and kind == _PLAIN:
            form = parse_qs(url.query) | {"query": [body.decode("utf-8", "replace")]}
        elif body is None or kind == _FORM:
            form = parse_qs(url.query if body is None else body.decode("utf-8", "replace"))
        else:
            return _Refusal(415, f"Send the query as {_FORM} or {_PLAIN}.")
        # Others, such as the format that SPARQLWrapper adds, are no part of the protocol: Accept chooses the format.
        if len(form.get("query", ())) != 1 or not form.keys().isdisjoint(_OF_DATASETS):
            return _Refusal(400, f"Expected the parameter query, found {', '.join(sorted(form))[:100] or 'none'}.")
        return form["query"][0]

    def _accepted(self) -> Sequence[str]:
        """Return the media types that the client accepts, best first: by q, which is 1 where it is not given."""
        accepted: list[tuple[float, str]] = []
        for part in self.headers.get("Accept", "").split(","):
            name, *parameters = part.split(";")
            try:
                quality = float(next((p.partition("=")[2] for p in parameters if p.strip().startswith("q=")), "1"))
            except ValueError:
                quality = 0.0
            accepted.append((quality, name.strip().lower()))
        return [name for quality, name in sorted(accepted, key=lambda pair: -pair[0]) if quality > 0]

    def _refuse(self, refusal: _Refusal) -> None:
        text = f"{refusal.message}\n".encode("utf-8", "replace")
        self.close_connection = True
        self._head(refusal.status, "text/plain; charset=utf-8", len(text))
        self.wfile.write(text)

    def _head(self, status: int, kind: str, length: int) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(length))):
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _is_here(url: str) -> bool:
    """Return whether a URL names this machine, at any port: a tunnel may use another port at its other end."""
    try:
        return urlsplit(url).hostname in _NAMES
    except ValueError:
        return False
