"""Edits, a toy graph and a real SPARQL server on loopback, shared by the tests of wikidata_cache."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pyoxigraph import QueryResultsFormat, Store
from typer.testing import CliRunner

from tests.conftest import SHARED
from tests.loopback import Loopback, QuietHandler
from wikidata_cache import EditLike, WikidataCache, cli
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.sources.source import Exchange, Fact, Source
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions

SHARED_DATA = SHARED


@dataclass(frozen=True)
class Edit:
    """An edit with the attributes that are required, and no others."""

    subject: str
    target_new: str
    target_true: str | None = None
    relation: str | None = None
    subject_id: str | None = None
    relation_id: str | None = None
    target_new_id: str | None = None
    target_true_id: str | None = None


SPIKE = Edit(
    subject="Spike Hughes",
    relation="originates from",
    relation_id="P19",
    target_new="Philadelphia",
    target_new_id="Q1345",
    target_true="London",
    target_true_id="Q84",
)
LEBRON = Edit(
    subject="LeBron James",
    subject_id="Q36159",
    relation_id="P54",
    target_new="Miami Heat",
    target_new_id="Q169138",
    target_true="Los Angeles Lakers",
    target_true_id="Q121783",
)
LAKERS = Edit(
    subject="Los Angeles Lakers",
    subject_id="Q121783",
    relation_id="P159",
    target_new="Miami",
    target_new_id="Q8652",
    target_true="Los Angeles",
    target_true_id="Q65",
)
EDITS = [SPIKE, LEBRON, LAKERS]

TOY = """\
subject\tproperty\tobject
Q1\tP1\tQ2
Q2\tP1\tQ3
Q2\tP2\tQ4
Q2\tP2\tQ1
Q3\tP1\tQ5
Q1\tP2\tQ6
Q4\tP3\tQ3
Q2\tP910\tQ7
Q2\tP1\tQ8
Q8\tP31\tQ4167836
Q2\tP9\tQ3
Q2\tP1\tQ9

P1\tlabel\tborders
P2\tlabel\tis part of
P3\tlabel\tadmires
P910\tlabel\ttopic's main category
Q1\tlabel\tOne
Q2\tlabel\tTwo
Q3\tlabel\tThree
Q4\tlabel\tFour
Q5\tlabel\tFive
Q6\tlabel\tSix
Q7\tlabel\tCategory:Two
Q8\tlabel\tCategory:Eight
Q10\tlabel\tTwin
Q11\tlabel\tTwin
"""


def read_shared(name: str) -> Path:
    """A shared benchmark file, or a skip where this checkout has none."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip("needs KG_EDIT_MEASUREMENT_DATA (docs/contributing/data.md)")
    return path


def facts(source: Source) -> Facts:
    """Return the facts of a source, with housekeeping."""
    return Facts(source, meta=(), internal=())


Fault = Callable[[QuietHandler, bytes], bool]  # True: the answer has been given


class Server(Loopback):
    """A SPARQL endpoint over a store; `fault` may spoil answers, `requests` remembers who asked what."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fault: Fault | None = None
        self.requests: list[tuple[str, dict[str, str], str]] = []
        super().__init__(SparqlHandler, "/query")


class SparqlHandler(QuietHandler):
    server: Server

    def do_GET(self) -> None:
        self.asked(urlsplit(self.path).query)

    def do_POST(self) -> None:
        self.asked(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def asked(self, form: str) -> None:
        query = self.query = parse_qs(form)["query"][0]
        self.server.requests.append((self.command, dict(self.headers), query))
        body = self.server.store.query(query).serialize(format=QueryResultsFormat.JSON)
        if self.server.fault is None or not self.server.fault(self, body):
            reply(self, 200, body)


def reply(
    handler: QuietHandler,
    status: int,
    body: bytes,
    *,
    kind: str = "application/sparql-results+json",
    headers: dict[str, str] | None = None,
) -> bool:
    handler.answer(status, body, {"Content-Type": kind, **(headers or {})})
    return True


def content_hashes(
    cache: WikidataCache, edits: Sequence[EditLike] = EDITS, options: SubgraphOptions = DEFAULTS
) -> list[str]:
    """Return the content hashes of the subgraphs of these edits."""
    return [graph.graph["content_hash"] for graph in cache.subgraphs(edits, options)]


def written(path: Path, text: str) -> Path:
    """Write a text file, with its folder, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_edits(path: Path, *edits: Edit | Mapping[str, object]) -> Path:
    """Write a JSONL file of edits or rows, and return its path."""
    rows = (edit if isinstance(edit, Mapping) else vars(edit) for edit in edits)
    return written(path, "".join(json.dumps(row) + "\n" for row in rows))


def run_cli(*arguments: str | Path) -> str:
    """Run `wikidata-cache` in this process and return its output; its errors are raised."""
    result = CliRunner().invoke(cli.app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def run_main(*arguments: str | Path) -> tuple[object, str]:
    """Run the console command in this process; return its exit code, and what it wrote to stderr."""
    error = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stderr(error), pytest.raises(SystemExit) as end:
        patched.setattr(sys, "argv", ["wikidata-cache", *map(str, arguments)])
        cli.main()
    return end.value.code, error.getvalue()


def save_facts(path: Path | str, *facts: Fact, at: str = "2026-01-20T12:00:00+00:00") -> AnswerStore:
    """Save facts to a cache file, as an answer that came at a time; return the file."""
    with AnswerStore(path) as store:
        store.save("wikidata", "labels/1", facts, Exchange("http://e/", "SELECT", at, 1, 1, "0" * 64, {}))
    return store


def triples(graph: object) -> set[tuple[str, str, str]]:
    return {(u, key, v) for u, v, key in graph.edges(keys=True)}  # type: ignore[attr-defined]


def as_json(graph: object) -> str:
    """A graph with everything on it, order included."""
    nodes = list(graph.nodes(data=True))  # type: ignore[attr-defined]
    edges = list(graph.edges(keys=True, data=True))  # type: ignore[attr-defined]
    return json.dumps([nodes, edges, graph.graph])  # type: ignore[attr-defined]
