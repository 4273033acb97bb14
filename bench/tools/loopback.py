"""A SPARQL endpoint on loopback over a store, which counts what it is asked."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

from pyoxigraph import QueryResultsFormat, Store


class Loopback:
    """A server that runs as long as the `with` block; `requests` counts."""

    def __init__(self, store: Store) -> None:
        self.requests = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, store))
        self.url = f"http://127.0.0.1:{self._http.server_port}/query"

    def __enter__(self) -> "Loopback":
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()


def _handler(server: Loopback, store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(urlsplit(self.path).query)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def _answer(self, form: str) -> None:
            server.requests += 1
            body = store.query(parse_qs(form)["query"][0]).serialize(format=QueryResultsFormat.JSON) or b""
            self.send_response(200)
            self.send_header("Content-Type", "application/sparql-results+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler
