"""The doctor finds what is broken, and asks nobody."""

import sqlite3
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wikidata_helpers import SPIKE, Server

from wikidata_cache import WikidataCache, cli
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.doctor import examine
from wikidata_cache.endpoints.pace_state import PaceState


def broken(cache: Path) -> list[str]:
    return [finding.what for finding in examine(cache=Path(cache)) if not finding.ok]


def test_all_is_well_without_and_with_a_cache(cache_path: str, server: Server) -> None:
    assert broken(cache_path) == []
    WikidataCache(server.url, cache=cache_path).subgraph(SPIKE)
    found = {finding.what: finding.found for finding in examine(server.url, cache=Path(cache_path))}
    assert "whole: " in found[f"cache {cache_path}"] and " out (wikidata)" in found[f"cache {cache_path}"]
    assert "Philadelphia" in found[f"source {server.url}"]
    output = CliRunner().invoke(cli.app, ["doctor", "--cache", str(cache_path)])
    assert output.exit_code == 0, output.output


def test_it_says_that_a_host_wants_to_be_left_alone(cache_path: str) -> None:
    with AnswerStore(cache_path) as store:
        store.paces.write("query.wikidata.org", PaceState(not_before=time.time() + 500, reason="Too many requests"))
    (found,) = [f.found for f in examine(cache=Path(cache_path)) if f.what == "host query.wikidata.org"]
    assert "wait" in found and "Too many requests" in found


@pytest.mark.parametrize("content", [b"no SQLite file at all, but text" * 40, None])
def test_a_damaged_cache_is_found(cache_path: str, server: Server, content: bytes | None) -> None:
    file = Path(cache_path)
    WikidataCache(server.url, cache=cache_path).subgraph(SPIKE)
    with sqlite3.connect(file) as connection:  # else SQLite would mend the file from its log
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if content is None:  # a page in the middle was overwritten
        whole = file.read_bytes()
        file.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    else:
        file.write_bytes(content)
    assert broken(cache_path) == [f"cache {cache_path}"]
    assert CliRunner().invoke(cli.app, ["doctor", "--cache", str(cache_path)]).exit_code == 1


def test_a_source_that_does_not_answer_is_broken(server: Server, cache_path: str) -> None:
    server.close()
    findings = list(examine("nowhere.nt.gz", cache=Path(cache_path)))
    assert [finding.what for finding in findings if not finding.ok] == ["source nowhere.nt.gz"]
