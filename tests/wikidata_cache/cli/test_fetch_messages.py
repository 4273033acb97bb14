"""Messages of `fetch`: the command that fetches what is missing, labels that differ, contradictory options."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.everyday import keep_first
from tests.wikidata_cache.link_graph import write_graph
from tests.wikidata_cache.wikidata_helpers import EDITS, Server, run_cli, write_edits
from wikidata_cache import packaged_extract
from wikidata_cache.errors import BadOptionError, CacheMissError

MAIN = "from wikidata_cache.cli import main; main()"


@pytest.mark.parametrize(
    "options",
    keep_first(
        [
            "--hops 4 --per-node 30",
            "--hops 3 --per-node 6 --policy inverse-hub",
            "--hops 3 --per-node 9 --seed 5 --direction both --root target_new --root subject",
            "--hops 2 --descriptions",
        ],
        keep=2,
    ),
)
def test_command_of_a_miss_fetches_the_missing_facts(
    options: str, edits: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "c.sqlite")
    run_cli("fetch", edits, "--endpoint", server.url, "--cache", cache, "--hops", "2", "--per-node", "2")
    offline = ["fetch", edits, *options.split(), "--cache", cache]
    with pytest.raises(CacheMissError) as caught:
        run_cli(*offline, "--offline")
    command = shlex.split(caught.value.command)
    assert (
        command[:3] == ["wikidata-cache", "fetch", str(edits)]
        and command[3 : 3 + len(options.split())] == options.split()
    )
    assert "--contact" not in command and "--offline" not in command  # no request to Wikimedia
    monkeypatch.setenv("KG_OFFLINE", "1")
    with pytest.raises(CacheMissError) as forced:
        run_cli(*offline)
    assert shlex.split(forced.value.command) == ["env", "-u", "KG_OFFLINE", *command]
    monkeypatch.delenv("KG_OFFLINE")
    digests = [re.findall("digest .*", run_cli(*command[1:])), re.findall("digest .*", run_cli(*offline, "--offline"))]
    assert digests[0] == digests[1]


def test_command_of_a_miss_lists_all_ids(server: Server, tmp_path: Path) -> None:
    ids = [f"Q{number}" for number in range(60, 90)]
    with pytest.raises(CacheMissError) as caught:
        run_cli("fetch", "--kind", "label", *ids, "--offline", "--cache", str(tmp_path / "c.sqlite"))
    assert all(entity in shlex.split(caught.value.command) for entity in ids)


def test_labels_that_contradict_their_ids_are_warned_about(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"subject": "The Louvre", "target_new": "Paris", "target_new_id": "Q65", "target_true_id": "Q1345"}
    right = {"subject": "x", "target_new": "los  ANGELES", "target_new_id": "Q65", "target_true": "Q1345"}
    rows = write_edits(tmp_path / "e.jsonl", right, right, wrong)
    output = run_cli("fetch", rows, "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite"))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "row 3: target_new_id Q65 is 'Los Angeles' in the graph, but 'Paris' in the row; check the id or use `link`"
    ]
    assert re.search(r"labels that differ +│ +1 ", output)
    write_edits(tmp_path / "e.jsonl", right)
    assert "labels that differ" not in run_cli(
        "fetch", rows, "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")
    )


def test_merged_id_has_the_label_of_its_replacement(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    graph = write_graph(tmp_path, "Q1 | merged into | Q2\nQ2 | label | Two\nP1 | label | knows\nQ2 | P1 | Q2")
    row = {"subject": "s", "target_new": "Two", "target_new_id": "Q1", "relation": "Likes", "relation_id": "P1"}
    rows = write_edits(tmp_path / "e.jsonl", row, row | {"target_new": "One", "relation": "Knows"})
    assert "labels that differ" in run_cli("fetch", rows, "--endpoint", str(graph))
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "row 1: relation_id P1 is 'knows' in the graph, but 'Likes' in the row; check the id or use `link`",
        "row 2: target_new_id Q1 is 'Two' in the graph, but 'One' in the row; check the id or use `link`",
    ]


def test_fetch_from_a_local_graph_ignores_the_cache_of_the_environment(
    edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = ["fetch", edits, "--endpoint", str(packaged_extract()), "--out", str(tmp_path / "s.jsonl")]
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "c.sqlite"))  # is meant for other commands
    assert "digest" in run_cli(*local)
    assert (tmp_path / "s.jsonl").read_text().count("\n") == len(EDITS)


def test_refresh_needs_the_network(edits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_OFFLINE", "1")
    with pytest.raises(BadOptionError, match="--mode refresh needs an endpoint, but KG_OFFLINE is set"):
        run_cli("fetch", edits, "--mode", "refresh")


def test_files_that_are_read_are_not_overwritten(edits: Path, server: Server, tmp_path: Path) -> None:
    cache, graph = tmp_path / "paper.sqlite", tmp_path / "graph.nt.gz"
    run_cli("fetch", edits, "--endpoint", server.url, "--cache", str(cache))
    shutil.copy(packaged_extract(), graph)
    (tmp_path / "seeds.tsv").write_text("Q1345\n")
    for command, message in (
        (["fetch", edits, "--offline", "--cache", str(cache), "--out", edits], "is the input file itself"),
        (["fetch", edits, "--offline", "--cache", str(cache), "--out", str(cache)], "expected a name ending in .jsonl"),
        (["export", str(cache), "--cache", str(cache)], "expected a name ending in .gz"),
        (["extract", str(tmp_path / "seeds.tsv"), str(graph), "-g", str(graph)], "is the input file itself"),
    ):
        with pytest.raises(BadOptionError, match=message):
            run_cli(*command)
    assert graph.read_bytes() == packaged_extract().read_bytes()
    assert "requests" in run_cli("fetch", edits, "--offline", "--cache", str(cache))


def test_roots(edits: Path, server: Server, tmp_path: Path) -> None:
    cache, out = str(tmp_path / "c.sqlite"), tmp_path / "s.jsonl"
    common = ["fetch", f"{edits}:2", "--endpoint", server.url, "--cache", cache, "--out", str(out)]
    run_cli(*common)
    few = json.loads(out.read_text())
    run_cli(*common, "--root", "target_new", "--root", "subject")
    more = json.loads(out.read_text())
    assert more["graph"]["roots"] == ["target_new", "subject"] and len(more["edges"]) > len(few["edges"])


@pytest.mark.slow
def test_ctrl_c_leaves_a_cache_to_resume_from(edits: Path, server: Server, tmp_path: Path) -> None:
    stopped = threading.Event()
    server.fault = lambda handler, body: len(server.requests) > 1 and not stopped.wait(60)
    line = ["fetch", edits, "--endpoint", server.url, "--cache", str(tmp_path / "c.sqlite")]
    heeded = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {MAIN}"  # ignored after nohup &
    process = subprocess.Popen(
        [sys.executable, "-c", heeded, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    while len(server.requests) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    stopped.set()
    assert (process.returncode, output) == (130, ""), errors
    assert (
        errors.splitlines()[-1] == "stopped; fetched answers are in the cache; run the same command again to continue"
    )
    assert "Traceback" not in errors
    server.fault = None
    assert "digest" in run_cli(*line)
