"""`wikidata-cache fetch` in real processes: killed, resumed, eight at once, and again without a network."""

import gzip
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import redirect_stderr, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import networkx as nx
import pytest
from typer.testing import CliRunner

from tests.wikidata_cache.wikidata_helpers import EDITS, LEBRON, Edit, Server, reply
from wikidata_cache import cli
from wikidata_cache.answers.store import AnswerStore

MAIN = "from wikidata_cache.cli import main; main()"
OPTIONS = ("--hops", "4", "--per-node", "4")
Asked = tuple[str, str]  # the query's variables, an id


class Recorder:
    """Answers a little slowly, a few ids at a time, and remembers what each run was told."""

    def __init__(self, server: Server, *, delay: float, most: int = 3) -> None:
        self.told: list[tuple[int, list[Asked]]] = []
        self.run = 0
        self._delay, self._most = delay, most
        server.fault = self

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> bool:
        query: str = handler.query  # type: ignore[attr-defined]
        variables = query.partition("WHERE")[0].rpartition("SELECT")[2]
        asked = [
            (variables, entity)
            for entity in re.findall(r"wd:([QP]\d+)", query.partition("VALUES")[2].partition("}")[0])
        ]
        if len(asked) > self._most:
            handler.send_response(500)
            handler.end_headers()
            handler.wfile.write(b"java.util.concurrent.TimeoutException")
            return True
        run = self.run
        time.sleep(self._delay)
        self.told.append((run, asked))
        with suppress(OSError):  # the client may be dead by now
            reply(handler, 200, body)
        return True


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    path = tmp_path / "edits.jsonl"
    path.write_text("".join(json.dumps(vars(edit)) + "\n" for edit in EDITS))
    return path


def command(edits: Path, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", MAIN, "fetch", str(edits), *OPTIONS, *map(str, arguments)]


def digest(output: str) -> str:
    [found] = re.findall(r"digest ([0-9a-f]{64})", output)
    return found


def fetched(edits: Path, *arguments: str | Path) -> str:
    """The digest that a run in this process prints."""
    result = CliRunner().invoke(cli.app, ["fetch", str(edits), *OPTIONS, *map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return digest(result.output)


def killed_at_random(edits: Path, server: Server, folder: Path, *, kills: int) -> None:
    expected = fetched(edits, "--endpoint", server.url, "--cache", folder / "whole.sqlite")
    recorder, chance = Recorder(server, delay=0.02), random.Random(4)  # noqa: S311
    cache = folder / "killed.sqlite"
    for recorder.run in range(kills):
        before = len(recorder.told)
        process = subprocess.Popen(
            command(edits, "--endpoint", server.url, "--cache", cache), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        answers = chance.randrange(4)  # then at any moment after so many answers
        while len(recorder.told) < before + answers and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() * (0.03 if answers else 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.05)  # whatever it sent last has arrived
    recorder.run = kills
    assert fetched(edits, "--endpoint", server.url, "--cache", cache) == expected
    assert fetched(edits, "--offline", "--cache", cache) == expected
    assert AnswerStore(cache).database.read("PRAGMA integrity_check") == [("ok",)]
    assert {run for run, _ in recorder.told} >= {0, kills}, "no run was interrupted"
    assert_nothing_repeated(recorder)


def assert_nothing_repeated(recorder: Recorder) -> None:
    """Only what was under way when a run was killed may be asked again."""
    last = {run: number for number, (run, _) in enumerate(recorder.told)}
    under_way = {number for run, number in last.items() if run != recorder.run}
    kept = Counter(one for number, (_, asked) in enumerate(recorder.told) if number not in under_way for one in asked)
    assert kept and max(kept.values()) == 1, kept.most_common(3)


@pytest.mark.slow
def test_killed_and_resumed(edits: Path, server: Server, tmp_path: Path) -> None:
    killed_at_random(edits, server, tmp_path, kills=4)


@pytest.mark.slow
def test_killed_and_resumed_twenty_times(edits: Path, server: Server, tmp_path: Path) -> None:
    killed_at_random(edits, server, tmp_path, kills=20)


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


def test_offline_is_byte_for_byte_the_same(
    edits: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, runner = str(tmp_path / "c.sqlite"), CliRunner()
    online = fetched(edits, "--endpoint", server.url, "--cache", cache, "--out", tmp_path / "online.jsonl.gz")
    assert runner.invoke(cli.app, ["export", str(tmp_path / "online.gz"), "--cache", cache]).exit_code == 0

    def refuse(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert fetched(edits, "--offline", "--cache", cache, "--out", tmp_path / "offline.jsonl.gz") == online
    assert runner.invoke(cli.app, ["export", str(tmp_path / "offline.gz"), "--cache", cache]).exit_code == 0
    assert (tmp_path / "online.jsonl.gz").read_bytes() == (tmp_path / "offline.jsonl.gz").read_bytes()
    assert (tmp_path / "online.gz").read_bytes() == (tmp_path / "offline.gz").read_bytes()
    other = str(tmp_path / "other.sqlite")
    assert "0 requests" not in runner.invoke(cli.app, ["import", str(tmp_path / "online.gz"), "--cache", other]).output
    assert fetched(edits, "--offline", "--cache", other, "--out", tmp_path / "other.jsonl") == online
    assert gzip.decompress((tmp_path / "online.jsonl.gz").read_bytes()) == (tmp_path / "other.jsonl").read_bytes()


def test_what_is_written(edits: Path, server: Server, tmp_path: Path) -> None:
    fetched(edits, "--endpoint", server.url, "--cache", tmp_path / "c.sqlite", "--out", tmp_path / "s.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["graph"]["edit"]["row"] for line in lines] == [1, 2, 3]
    assert lines[1]["graph"]["source"]["urls"] == [server.url]
    graph = nx.node_link_graph(lines[1], edges="edges")
    assert graph.nodes["Q169138"]["label"] == "Miami Heat" and graph.has_edge("Q36159", "Q169138", key="P54")


def test_the_table_counts(edits: Path, server: Server, tmp_path: Path) -> None:
    arguments = ["fetch", str(edits), "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")]
    first, second = (CliRunner().invoke(cli.app, arguments).output for _ in range(2))

    def count(name: str, output: str) -> int:
        [found] = re.findall(rf"{name} +│ +([0-9,]+) ", output)
        return int(found.replace(",", ""))

    assert count("edits", first) == count("edits", second) == 3
    assert count("requests", first) == len(server.requests)
    assert count("ids requested", first) > count("requests", first)
    assert count("requests", second) == count("ids requested", second) == 0
    assert count("ids from the cache", second) > count("ids from the cache", first)
    assert digest(first) == digest(second)


def failing(arguments: list[str]) -> str:
    """What the console entry point says of a failure: one line, exit code 2."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stderr(said), pytest.raises(SystemExit) as end:
        patched.setattr(sys, "argv", ["wikidata-cache", *arguments])
        cli.main()
    errors = [line for line in said.getvalue().splitlines() if line.startswith("wikidata-cache: ")]
    assert end.value.code == 2 and len(errors) == 1, said.getvalue()
    return errors[0]


def test_errors_say_what_to_do(edits: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "c.sqlite")
    said = failing(["fetch", str(edits), "--cache", cache])
    assert "Requests to query.wikidata.org must name a contact" in said and "KG_EDIT_CONTACT" in said
    said = failing(["fetch", str(edits), "--cache", cache, "--offline"])
    assert f"`wikidata-cache fetch {edits} --endpoint https://query" in said and "c.sqlite (no such file)" in said
    said = failing(["fetch", str(edits), "--cache", cache, "--offline", "--mode", "refresh"])
    assert "disagree" in said
    said = failing(["fetch", "Q42", "--cache", cache, "--offline"])
    assert "expected a file of edits" in said
    assert "no cache file" in failing(["export", "s.jsonl.gz", "--cache", cache])
    assert "cannot be read" in failing(["import", "absent.jsonl.gz", "--cache", cache])


def test_edits_that_the_graph_does_not_know(edits: Path, server: Server, tmp_path: Path) -> None:
    known = fetched(edits, "--endpoint", server.url, "--cache", tmp_path / "c.sqlite")
    unknown = (
        Edit(subject="A", target_new="No Such Thing at All"),
        Edit(subject="B", target_new="C", target_new_id="Q999999999"),
    )
    edits.write_text("".join(json.dumps(vars(edit)) + "\n" for edit in (unknown[0], *EDITS, unknown[1])))
    arguments = ["fetch", str(edits), *OPTIONS, "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")]
    said = failing(arguments)
    assert "edits.jsonl, row 1: No entity is labelled 'No Such Thing at All'" in said
    assert "2 rows have such errors; --keep-going" in said
    done = CliRunner().invoke(cli.app, [*arguments, "--keep-going"])
    assert done.exit_code == 0 and digest(done.output) == known
    assert re.search(r"skipped\s+│\s+2\b", done.output)
    edits.write_text(json.dumps(vars(unknown[1])))
    assert "Q999999999" in failing([*arguments, "--keep-going"])


@pytest.mark.slow
def test_the_command_that_a_miss_names_works(server: Server, tmp_path: Path) -> None:
    cache = str(tmp_path / "c.sqlite")
    miss = failing(["labels", "Q65", "P19", "--offline", "--cache", cache])
    [words] = re.findall(r"`wikidata-cache (fetch [^`]*)`", miss)
    assert "--endpoint https://query.wikidata.org/sparql" in words and "--contact" in words  # nothing else is known
    done = CliRunner().invoke(cli.app, [*words.split(), "--endpoint", server.url])
    assert done.exit_code == 0, done.output
    found = CliRunner().invoke(cli.app, ["labels", "Q65", "P19", "--offline", "--cache", cache])
    assert found.output == "Q65\tLos Angeles\nP19\tplace of birth\n"


def test_a_page_offline_with_and_without_descriptions(edits: Path, server: Server, tmp_path: Path) -> None:
    cache, page = str(tmp_path / "c.sqlite"), tmp_path / "page.html"
    fetched(edits, "--endpoint", server.url, "--cache", cache)
    show = ["show", f"{edits}:2", "--offline", "--cache", cache, "--html", str(page)]
    assert CliRunner().invoke(cli.app, show).exit_code == 0 and page.exists()
    fetched(edits, "--endpoint", server.url, "--cache", cache, "--descriptions")
    asked = len(server.requests)
    assert CliRunner().invoke(cli.app, show).exit_code == 0
    fetched(edits, "--endpoint", server.url, "--cache", cache, "--descriptions")
    assert len(server.requests) == asked


def test_ids_are_checked_before_anything_is_asked(server: Server, tmp_path: Path) -> None:
    injection = "Q1 } ?s ?p ?o } #"
    line = ["fetch", "--kind", "out", injection, "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")]
    assert "is not a Wikidata id" in failing(line)
    assert server.requests == []


def test_provenance_does_not_change_when_others_fetch(edits: Path, server: Server, tmp_path: Path) -> None:
    common = ("--cache", tmp_path / "c.sqlite", "--hops", "2")
    fetched(edits, "--endpoint", server.url, *common, "--out", tmp_path / "before.jsonl")
    fetched(edits, "--endpoint", server.url, *common, "--hops", "4", "--per-node", "30")
    fetched(edits, "--offline", *common, "--out", tmp_path / "after.jsonl")
    assert (tmp_path / "before.jsonl").read_bytes() == (tmp_path / "after.jsonl").read_bytes()


def test_one_row_alone(edits: Path, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "one.jsonl"
    fetched(Path(f"{edits}:2"), "--endpoint", server.url, "--cache", tmp_path / "c.sqlite", "--out", out)
    [line] = out.read_text().splitlines()
    assert json.loads(line)["graph"]["edit"]["subject"] == LEBRON.subject
