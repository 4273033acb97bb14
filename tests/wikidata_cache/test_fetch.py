"""`wikidata-cache fetch` in real processes: killed, resumed, eight at once, and again without a network."""

import gzip
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import networkx as nx
import pytest

from tests.loopback import QuietHandler
from tests.wikidata_cache.wikidata_helpers import EDITS, LEBRON, Edit, Server, reply, run_cli, run_main, write_edits
from wikidata_cache.answers.store import AnswerStore

MAIN = "from wikidata_cache.cli import main; main()"
OPTIONS = ("--hops", "4", "--per-node", "4")
Requested = tuple[str, str]  # the query's variables, an id


class Recorder:
    """Answers a little slowly, a few ids at a time, and records what each run requested."""

    def __init__(self, server: Server, *, delay: float, most: int = 3) -> None:
        self.seen: list[tuple[int, list[Requested]]] = []
        self.run = 0
        self._delay, self._most = delay, most
        server.fault = self

    def __call__(self, handler: QuietHandler, body: bytes) -> bool:
        query: str = handler.query  # type: ignore[attr-defined]
        variables = query.partition("WHERE")[0].rpartition("SELECT")[2]
        requested = [
            (variables, entity)
            for entity in re.findall(r"wd:([QP]\d+)", query.partition("VALUES")[2].partition("}")[0])
        ]
        if len(requested) > self._most:
            handler.send_response(500)
            handler.end_headers()
            handler.wfile.write(b"java.util.concurrent.TimeoutException")
            return True
        run = self.run
        time.sleep(self._delay)
        self.seen.append((run, requested))
        with suppress(OSError):  # the client may be dead by now
            reply(handler, 200, body)
        return True


def command(edits: Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", MAIN, "fetch", str(edits), *OPTIONS, *map(str, arguments)]


def digest(output: str) -> str:
    [value] = re.findall(r"digest ([0-9a-f]{64})", output)
    return value


def fetched(edits: Path, *arguments: str | Path) -> str:
    """The digest that a run in this process prints."""
    return digest(run_cli("fetch", edits, *OPTIONS, *arguments))


def assert_nothing_repeated(recorder: Recorder) -> None:
    """Only the request that was under way when a run was killed may be repeated."""
    last = {run: number for number, (run, _) in enumerate(recorder.seen)}
    under_way = {number for run, number in last.items() if run != recorder.run}
    kept = Counter(
        fact for number, (_, requested) in enumerate(recorder.seen) if number not in under_way for fact in requested
    )
    assert kept and max(kept.values()) == 1, kept.most_common(3)


@pytest.mark.slow
def test_killed_fetch_resumes_without_repeating_requests(edits: Path, server: Server, tmp_path: Path) -> None:
    kills = 12
    expected = fetched(edits, "--endpoint", server.url, "--cache", tmp_path / "whole.sqlite")
    recorder, chance = Recorder(server, delay=0.02), random.Random(4)  # noqa: S311
    cache = tmp_path / "killed.sqlite"
    for recorder.run in range(kills):
        before = len(recorder.seen)
        process = subprocess.Popen(
            command(edits, "--endpoint", server.url, "--cache", cache), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        answers = chance.randrange(4)  # then at any moment after so many answers
        while len(recorder.seen) < before + answers and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() * (0.03 if answers else 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.05)  # whatever it sent last has arrived
    recorder.run = kills
    assert fetched(edits, "--endpoint", server.url, "--cache", cache) == expected
    assert fetched(edits, "--offline", "--cache", cache) == expected
    assert AnswerStore(cache).database.read("PRAGMA integrity_check") == [("ok",)]
    assert {run for run, _ in recorder.seen} >= {0, kills}, "no run was interrupted"
    assert_nothing_repeated(recorder)


@pytest.mark.slow
def test_eight_processes_fetch_into_one_cache(edits: Path, server: Server, tmp_path: Path) -> None:
    expected = fetched(edits, "--endpoint", server.url, "--cache", tmp_path / "alone.sqlite")
    recorder, cache = Recorder(server, delay=0.0), tmp_path / "shared.sqlite"
    line = command(edits, "--endpoint", server.url, "--cache", cache)
    processes = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert digest(output) == expected
    assert_nothing_repeated(recorder)
    shared, alone = AnswerStore(cache).database, AnswerStore(tmp_path / "alone.sqlite").database
    assert shared.read("PRAGMA integrity_check") == [("ok",)]
    what = "SELECT kind, id, value FROM facts ORDER BY kind, id"
    assert shared.read(what) == alone.read(what)


def test_offline_gives_the_same_bytes(
    edits: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "c.sqlite")
    online = fetched(edits, "--endpoint", server.url, "--cache", cache, "--out", tmp_path / "online.jsonl.gz")
    run_cli("export", tmp_path / "online.gz", "--cache", cache)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert fetched(edits, "--offline", "--cache", cache, "--out", tmp_path / "offline.jsonl.gz") == online
    run_cli("export", tmp_path / "offline.gz", "--cache", cache)
    assert (tmp_path / "online.jsonl.gz").read_bytes() == (tmp_path / "offline.jsonl.gz").read_bytes()
    assert (tmp_path / "online.gz").read_bytes() == (tmp_path / "offline.gz").read_bytes()
    other = str(tmp_path / "other.sqlite")
    assert "0 requests" not in run_cli("import", tmp_path / "online.gz", "--cache", other)
    assert fetched(edits, "--offline", "--cache", other, "--out", tmp_path / "other.jsonl") == online
    assert gzip.decompress((tmp_path / "online.jsonl.gz").read_bytes()) == (tmp_path / "other.jsonl").read_bytes()


def test_fetch_writes_node_link_json(edits: Path, server: Server, tmp_path: Path) -> None:
    fetched(edits, "--endpoint", server.url, "--cache", tmp_path / "c.sqlite", "--out", tmp_path / "s.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["graph"]["edit"]["row"] for line in lines] == [1, 2, 3]
    assert lines[1]["graph"]["source"]["urls"] == [server.url]
    graph = nx.node_link_graph(lines[1], edges="edges")
    assert graph.nodes["Q169138"]["label"] == "Miami Heat" and graph.has_edge("Q36159", "Q169138", key="P54")


def test_fetch_prints_counts(edits: Path, server: Server, tmp_path: Path) -> None:
    arguments = ["fetch", str(edits), "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")]
    first, second = (run_cli(*arguments) for _ in range(2))

    def count(name: str, output: str) -> int:
        [value] = re.findall(rf"{name} +│ +([0-9,]+) ", output)
        return int(value.replace(",", ""))

    assert count("edits", first) == count("edits", second) == 3
    assert count("answered requests", first) == len(server.requests)
    assert count("ids requested", first) > count("requests", first)
    assert count("requests", second) == count("ids requested", second) == 0
    assert count("ids from the cache", second) > count("ids from the cache", first)
    assert digest(first) == digest(second)


def failing(arguments: list[str]) -> str:
    """Return the error of the console entry point: one line, exit code 2."""
    code, error = run_main(*arguments)
    errors = [line for line in error.splitlines() if line.startswith("wikidata-cache: ")]
    assert code == 2 and len(errors) == 1, error
    return errors[0]


def test_fetch_errors_name_a_remedy(edits: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "c.sqlite")
    error = failing(["fetch", str(edits), "--cache", cache])
    assert "Requests to query.wikidata.org must name a contact" in error and "KG_EDIT_CONTACT" in error
    error = failing(["fetch", str(edits), "--cache", cache, "--offline"])
    assert f"`wikidata-cache fetch '{edits}' --endpoint https://query" in error and "c.sqlite (no such file)" in error
    assert f"{edits}, row 1: not in the cache: " in error
    error = failing(["fetch", "Q42", "--cache", cache, "--offline"])
    assert "expected a file of edits" in error


def test_fetch_skips_unknown_edits_with_keep_going(edits: Path, server: Server, tmp_path: Path) -> None:
    expected = fetched(edits, "--endpoint", server.url, "--cache", tmp_path / "c.sqlite")
    unknown = (
        Edit(subject="A", target_new="No Such Thing at All"),
        Edit(subject="B", target_new="C", target_new_id="Q999999999"),
    )
    write_edits(edits, unknown[0], *EDITS, unknown[1])
    arguments = ["fetch", str(edits), *OPTIONS, "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")]
    error = failing(arguments)
    assert "my edits.jsonl, row 1: No entity is labelled 'No Such Thing at All'" in error
    assert "2 rows have such errors; --keep-going" in error
    output = run_cli(*arguments, "--keep-going")
    assert digest(output) == expected and re.search(r"skipped\s+│\s+2\b", output)
    write_edits(edits, *unknown)
    error = failing([*arguments, "--keep-going"])
    assert "2 rows have such errors" in error and "--keep-going" not in error
    write_edits(edits, unknown[1])
    assert "Q999999999" in failing([*arguments, "--keep-going"])


def test_show_offline_with_and_without_descriptions(edits: Path, server: Server, tmp_path: Path) -> None:
    cache, page = str(tmp_path / "c.sqlite"), tmp_path / "page.html"
    fetched(edits, "--endpoint", server.url, "--cache", cache)
    show = ["show", f"{edits}:2", "--offline", "--cache", cache, "--html", str(page)]
    assert run_cli(*show) == run_cli("show", f"{edits}:2", "--cache", cache) and page.exists()
    fetched(edits, "--endpoint", server.url, "--cache", cache, "--descriptions")
    requested = len(server.requests)
    run_cli(*show)
    fetched(edits, "--endpoint", server.url, "--cache", cache, "--descriptions")
    assert len(server.requests) == requested


def test_fetch_checks_ids_before_any_request(server: Server, tmp_path: Path) -> None:
    injection = "Q1 } ?s ?p ?o } #"
    line = ["fetch", "--kind", "out", injection, "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")]
    assert "is not a Wikidata id" in failing(line)
    assert server.requests == []


@pytest.mark.slow
def test_provenance_is_unchanged_by_other_fetches(edits: Path, server: Server, tmp_path: Path) -> None:
    common = ("--cache", tmp_path / "c.sqlite", "--hops", "2")
    fetched(edits, "--endpoint", server.url, *common, "--out", tmp_path / "before.jsonl")
    fetched(edits, "--endpoint", server.url, *common, "--hops", "4", "--per-node", "30")
    fetched(edits, "--offline", *common, "--out", tmp_path / "after.jsonl")
    assert (tmp_path / "before.jsonl").read_bytes() == (tmp_path / "after.jsonl").read_bytes()


def test_fetch_of_one_row(edits: Path, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "one.jsonl"
    fetched(Path(f"{edits}:2"), "--endpoint", server.url, "--cache", tmp_path / "c.sqlite", "--out", out)
    [line] = out.read_text().splitlines()
    assert json.loads(line)["graph"]["edit"]["subject"] == LEBRON.subject
