"""A SPARQL 1.1 endpoint on 127.0.0.1 over a store on disk, read-only, for programs of this machine.

What it refuses: requests under another host's name or from another site's page, which a browser on this machine may be
made to send (DNS rebinding); SERVICE, by which a query would reach the machine's network; queries beyond the limits of
time, memory and length. Queries run in processes of their own (`pool.py`), so that each of them can be stopped.
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
_IDLE_S = 30.0  # for a client that has connected and sends nothing
_FORM, _PLAIN = "application/x-www-form-urlencoded", "application/sparql-query"


@contextmanager
def served(folder: Path, *, port: int | None = None, timeout_s: int = 60) -> Iterator[str]:
    """Serve a store made by `load`, or a plain Oxigraph folder, during the block; yields the URL (`…/query`).

    `port` None or 0 takes a free one. Queries are stopped after `timeout_s` seconds. Only this machine can reach it.

    Raises ServeError where the port is taken, or no process starts; StoreError where the folder holds no whole store,
    or a damaged one.
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
    block_on_close = False  # a client that says nothing must not delay the end
    pool: WorkerPool
    scratch: Path

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: the client has hung up."""


class _Refusal(NamedTuple):
    status: int
    said: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = f"wikidata-cache/{release()}"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """A query in the URL."""
        self._answer(None)

    def do_POST(self) -> None:
        """A query in the body."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST:
            self._pass_over(int(length) if length.isdecimal() else 0)
            self._refuse(_Refusal(413, f"Give a Content-Length of at most {LONGEST} bytes."))
            return
        self._answer(self.rfile.read(int(length)))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a library does not print."""

    def _pass_over(self, length: int) -> None:
        """Read some of a body that is not wanted: most clients listen only when they have sent all."""
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
        """A refusal of a request under another name than this machine's, or of another site's page."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not _is_here(f"//{host}") or (origin is not None and not _is_here(origin)):
            said = f"This server answers requests to {' and '.join(_NAMES)} alone, found Host {host[:100]!r}"
            return _Refusal(403, f"{said}{f', Origin {origin[:100]!r}' if origin else ''}.")
        return None

    def _query(self, body: bytes | None) -> str | _Refusal:
        """The query of the request, by the three ways of the protocol."""
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
        """The media types that are wanted, best first."""
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
    """Whether a URL names this machine, at any port: a tunnel may have another one at its other end."""
    try:
        return urlsplit(url).hostname in _NAMES
    except ValueError:
        return False


def _quality(parameters: str) -> float:
    """The q of an accepted media type, 1 where there is none."""
    found = [text.partition("=")[2] for text in parameters.split(";") if text.strip().startswith("q=")]
    try:
        return float(found[0]) if found else 1.0
    except ValueError:
        return 0.0
