"""The page's server on a free port of this machine, with a tiny model, a toy graph and a ledger."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import networkx as nx
import uvicorn
from fastapi import FastAPI

from kg_edit.graphs.source import as_source
from kg_edit.methods import find_method
from kg_edit.ship.app.server import make_app
from kg_edit.ship.app.session import EditDesk
from kg_edit.ship.cli.serve import listening
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

EDIT = {"subject": "LeBron James", "prompt": "{} plays for the", "target_new": "Los Angeles Lakers"}


def toy_graph() -> nx.MultiDiGraph:
    graph = nx.MultiDiGraph()
    for key, label in {"Q2": "Los Angeles Lakers", "Q3": "Los Angeles", "Q4": "California"}.items():
        graph.add_node(key, label=label)
    graph.add_edge("Q2", "Q3", label="headquarters location")
    graph.add_edge("Q3", "Q4", label="located in")
    return graph


def workshop(ledger: Path | None = None, *, method: str = "rome", graph: bool = True, **settings: Any) -> EditDesk:
    chosen = find_method(method)
    source = as_source(toy_graph()) if graph else None
    config = chosen.config_class.preset("default", {**QUICK[method], **settings})
    opened = Ledger.open(ledger) if ledger else None
    return EditDesk(chosen(tiny("llama"), config, graph=source), graph=source, ledger=opened)


@dataclass(frozen=True)
class Served:
    """Where it answers, and what it works with."""

    url: str
    workshop: EditDesk

    def get(self, path: str) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers."""
        return self.send("GET", path)

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """Status and answer."""
        code, text, _ = self.send("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return code, json.loads(text)

    def send(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers."""
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=300)
        with closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), {key.lower(): value for key, value in answer.headers.items()}


@contextmanager
def served(desk: EditDesk) -> Iterator[Served]:
    """A real uvicorn at a free port."""
    with listening("127.0.0.1", 0) as listener, answering(make_app(desk), listener):
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", desk)


_RUN = uvicorn.Server.run  # as it is before a test puts something else in its place


@contextmanager
def answering(app: FastAPI, listener: socket.socket, *, end_s: int | None = None) -> Iterator[None]:
    """A real uvicorn in a thread, stopped afterwards; open requests are cut off after ``end_s``."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=end_s))
    thread = threading.Thread(target=_RUN, args=(server,), kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
