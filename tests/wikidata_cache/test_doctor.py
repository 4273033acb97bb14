"""The doctor finds what is broken, and sends no request."""

import sqlite3
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.wikidata_cache.wikidata_helpers import SPIKE, Server, reply, run_cli, save_facts
from wikidata_cache import WikidataCache, cli, packaged_extract
from wikidata_cache.answers.store import AnswerStore, take_inventory
from wikidata_cache.doctor import examine
from wikidata_cache.endpoints.rate_limit import RateLimitState
from wikidata_cache.errors import CacheFileError
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.sources.source import Fact
from wikidata_cache.subgraphs.options import SubgraphOptions


def broken(cache: Path | str) -> list[str]:
    return [finding.what for finding in examine(cache=Path(cache)) if not finding.ok]


def test_examine_finds_nothing_broken(cache_path: str, server: Server) -> None:
    assert broken(cache_path) == []
    WikidataCache(server.url, cache=cache_path).subgraph(SPIKE)
    findings = {finding.what: finding.result for finding in examine(server.url, cache=Path(cache_path))}
    assert "intact: " in findings[f"cache {cache_path}"] and " out (wikidata)" in findings[f"cache {cache_path}"]
    assert "Philadelphia" in findings[f"source {server.url}"]
    output = CliRunner().invoke(cli.app, ["doctor", "--cache", str(cache_path)])
    assert output.exit_code == 0, output.output


def test_examine_reports_a_host_that_requires_waiting(cache_path: str) -> None:
    with AnswerStore(cache_path) as store:
        store.rate_limits.write(
            "query.wikidata.org", RateLimitState(not_before=time.time() + 500, reason="Too many requests")
        )
    (message,) = [f.result for f in examine(cache=Path(cache_path)) if f.what == "host query.wikidata.org"]
    assert "wait" in message and "Too many requests" in message


@pytest.mark.parametrize("content", [b"no SQLite file at all, but text" * 40, None])
def test_examine_finds_a_damaged_cache(cache_path: str, server: Server, content: bytes | None) -> None:
    file = Path(cache_path)
    WikidataCache(server.url, cache=cache_path).subgraph(SPIKE)
    with sqlite3.connect(file) as connection:  # else SQLite would repair the file from its log
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if content is None:  # a page in the middle was overwritten
        data = file.read_bytes()
        file.write_bytes(data[:4096] + b"\xff" * 4096 + data[8192:])
    else:
        file.write_bytes(content)
    assert broken(cache_path) == [f"cache {cache_path}"]
    assert CliRunner().invoke(cli.app, ["doctor", "--cache", str(cache_path)]).exit_code == 1


def test_examine_finds_nothing_broken_in_a_file_without_tables(tmp_path: Path) -> None:
    file = tmp_path / "c.sqlite"
    file.touch()
    output = CliRunner().invoke(cli.app, ["doctor", "--cache", str(file)])
    assert output.exit_code == 0, output.output


@pytest.mark.slow
def test_damaged_cache_is_described_by_one_fault_and_replaced_as_the_message_says(tmp_path: Path) -> None:
    file, snapshot = tmp_path / "c.sqlite", tmp_path / "s.jsonl.gz"
    save_facts(file, *(Fact("label", f"Q{number}", [f"name {number}" * 20, "en"]) for number in range(1, 1000)))
    run_cli("export", snapshot, "--cache", file)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = file.read_bytes()
    file.write_bytes(data[: 8 * 4096] + b"\xff" * 16 * 4096 + data[24 * 4096 :])
    advice = r"Delete the file; then fetch again, or import a snapshot \(`wikidata-cache import`\)\.$"
    with pytest.raises(CacheFileError, match=rf"is damaged \([^\n]{{,60}}\)\. {advice}"):
        take_inventory(file)
    with pytest.raises(CacheFileError, match=advice):
        run_cli("import", snapshot, "--cache", file)
    file.unlink()
    assert "999 of 999 facts are new" in run_cli("import", snapshot, "--cache", file)


def test_examine_continues_after_an_unreadable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    closed = tmp_path / "closed" / "cache.sqlite"
    monkeypatch.setattr("wikidata_cache.doctor.take_inventory", denied)  # what a folder without x does, root aside
    monkeypatch.setenv("KG_PACKS", str(tmp_path / "pack.sqlite"))
    findings = list(examine(packaged_extract(), cache=closed))
    bad = [finding.what for finding in findings if not finding.ok]
    assert bad == [f"cache {closed}", f"pack {tmp_path / 'pack.sqlite'}"]
    assert "Permission denied" in next(finding.result for finding in findings if not finding.ok)
    assert findings[-1].what == f"source {packaged_extract()}" and findings[-1].ok
    assert CliRunner().invoke(cli.app, ["doctor", "--cache", str(closed)]).exit_code == 1


def test_examine_finds_a_missing_source(cache_path: str) -> None:
    findings = list(examine("nowhere.nt.gz", cache=Path(cache_path)))
    assert [finding.what for finding in findings if not finding.ok] == ["source nowhere.nt.gz"]
    long = Path(cache_path).parents[1] / ("x" * 400)  # longer than a file name may be
    assert broken(long) == [f"cache {long}"]


def test_examine_needs_no_item_of_a_certain_graph(toy_file: Path, cache_path: str, tmp_path: Path) -> None:
    last = list(examine(toy_file, cache=Path(cache_path)))[-1]
    assert last.ok and " has statements, content hash" in last.result
    with Server(load_files([toy_file])[0]) as endpoint:
        last = list(examine(endpoint.url, cache=Path(cache_path)))[-1]
        assert last.ok and " has statements, content hash" in last.result
    (tmp_path / "labels.tsv").write_text("Q1\tlabel\tOne\n")
    last = list(examine(tmp_path / "labels.tsv", cache=Path(cache_path)))[-1]
    assert not last.ok and "has no statement about an item" in last.result


def test_examine_finds_an_endpoint_that_is_down(server: Server, cache_path: str) -> None:
    WikidataCache(server.url, cache=cache_path).neighbourhood("Q1345", SubgraphOptions(hops=1, per_node=10))
    server.fault = lambda handler, body: reply(handler, 404, b"gone")
    last = list(examine(server.url, cache=Path(cache_path)))[-1]
    assert not last.ok and "HTTP 404" in last.result
