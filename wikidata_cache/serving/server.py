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
_FORM, _PLAIN = "application/x-www-form-urlencoded", "application/sparql-query"


@contextmanager
def served(folder: Path, *, port: int | None = None, timeout_s: int = 60) -> Iterator[str]:
    """Serve a store made by `load`, or a plain Oxigraph folder, during the block; yield the URL (`…/query`).

    `port` None or 0 chooses a free port. Queries are stopped after `timeout_s` seconds. Only this machine can reach the
    server.

    Raises ServeError where the port is taken or no process starts, and StoreError where the folder has no store, or an
    incomplete or damaged store.
    """
    location = engine_folder(folder)
    with _listening(port or 0) as server, tempfile.TemporaryDirectory(prefix="wikidata-cache-") as scratch:
        server.pool, server.scratch = WorkerPool(location, seconds=timeout_s), Path(scratch)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}/query"
        finally:
            server.pool.close()
            server.shutdown()
            thread.join()


def _listening(port: int) -> _Server:
    try:
        return _Server((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        raise ServeError(f"port {port} of {HOST} cannot be used ({error}); give another --port") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an idle client must not delay the end
    pool: WorkerPool
    scratch: Path

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: the client has closed the connection."""


class _Refusal(NamedTuple):
    status: int
    said: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = f"wikidata-cache/{release()}"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Answer a query in the URL."""
        self._answer(None)

    def do_POST(self) -> None:
        """Answer a query in the body."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            self._pass_over(int(length) if length.isdecimal() else 0)
            self._refuse(_Refusal(413, f"Give a Content-Length of at most {LONGEST} bytes."))
            return
        self._answer(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing: a library does not print."""

    def _pass_over(self, length: int) -> None:
        """Read and drop (part of) a body that is too long: most clients read the reply only after sending all."""
        left = min(length, 20 * LONGEST)
        while left > 0 and (found := self.rfile.read(min(left, 1 << 16))):
            left -= len(found)

    def _answer(self, body: bytes | None) -> None:
        asked = self._stranger() or self._query(body)
        if isinstance(asked, _Refusal):
            self._refuse(asked)
            return
        with tempfile.NamedTemporaryFile(dir=self.server.scratch) as file:
            outcome = self.server.pool.ask(asked, self._accepted(), Path(file.name))
            if outcome["status"] == 200:
                self._send(outcome["said"], Path(file.name))
            else:
                self._refuse(_Refusal(outcome["status"], outcome["said"]))

    def _stranger(self) -> _Refusal | None:
        """Return a refusal for a request with a host name that is not this machine's, or from another site's page."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not _is_here(f"//{host}") or (origin is not None and not _is_here(origin)):
            said = f"This server only answers requests to {' and '.join(_NAMES)}; found Host {host[:100]!r}"
            return _Refusal(403, f"{said}{f', Origin {origin[:100]!r}' if origin else ''}.")
        return None

    def _query(self, body: bytes | None) -> str | _Refusal:
        """Return the query of the request, which the protocol allows in the URL, in a form, or as the body."""
        url, kind = urlsplit(self.path), self.headers.get_content_type()
        if url.path.rstrip("/") != "/query":
            return _Refusal(404, "The endpoint is /query; it is read-only.")
        if body is not None and kind == _PLAIN:
            form = parse_qs(url.query) | {"query": [body.decode("utf-8", "replace")]}
        elif body is None or kind == _FORM:
            form = parse_qs(url.query if body is None else body.decode("utf-8", "replace"))
        else:
            return _Refusal(415, f"Send the query as {_FORM} or {_PLAIN}.")
        if len(form.get("query", ())) != 1 or set(form) - {"query"}:
            return _Refusal(400, f"Expected the parameter query, found {', '.join(sorted(form))[:100] or 'none'}.")
        return form["query"][0]

    def _accepted(self) -> Sequence[str]:
        """Return the media types that the client accepts, best first."""
        wanted = [part.partition(";") for part in self.headers.get("Accept", "").split(",")]
        ranked = sorted(wanted, key=lambda part: -_quality(part[2]))
        return [name.strip().lower() for name, _, _ in ranked]

    def _send(self, kind: str, path: Path) -> None:
        with path.open("rb") as file:
            self._head(200, kind, path.stat().st_size)
            shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _refuse(self, refusal: _Refusal) -> None:
        said = f"{refusal.said}\n".encode("utf-8", "replace")
        self.close_connection = True
        self._head(refusal.status, "text/plain; charset=utf-8", len(said))
        self.wfile.write(said)

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


def _quality(parameters: str) -> float:
    """Return the quality q of an accepted media type: 1 if it has none, 0 if it is not a number."""
    found = [text.partition("=")[2] for text in parameters.split(";") if text.strip().startswith("q=")]
    try:
        return float(found[0]) if found else 1.0
    except ValueError:
        return 0.0
