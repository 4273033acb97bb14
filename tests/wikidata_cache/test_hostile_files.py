"""Packs, snapshots, graphs and edits made to do harm: each is refused with a clear message, in little memory."""

import bz2
import gzip
import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kg_common.json_text import parse
from tests.everyday import keep_first
from tests.peak_memory import adds_at_most
from tests.wikidata_cache.wikidata_helpers import save_facts
from wikidata_cache import WikidataCache, open_source
from wikidata_cache.answers.snapshot import FORMAT, export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore, open_pack
from wikidata_cache.edits import read_edits
from wikidata_cache.errors import CacheFileError, EditRowError, GraphFileError, SnapshotError
from wikidata_cache.sources.source import Fact
from wikidata_cache.stores import chunks
from wikidata_cache.stores.load import load

MB = 1_000_000


@contextmanager
def within(seconds: float, megabytes: int) -> Iterator[None]:
    """The block takes no more time and memory than this."""
    start = time.monotonic()
    with adds_at_most(megabytes):
        yield
    assert time.monotonic() - start < seconds


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A valid pack."""
    return save_facts(tmp_path / "pack.sqlite", Fact("label", "Q65", ["Los Angeles", "en"])).path


def changed(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statements",
    [
        [
            "DROP TABLE facts",
            "CREATE VIEW facts AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT 'wikidata' graph, 'label' kind, 'Q' || i id, '2026' fetched_at, 1 url, '[]' value FROM n",
        ],
        ["CREATE TRIGGER t AFTER INSERT ON facts BEGIN DELETE FROM facts; END"],
        ["CREATE TABLE more (x)"],
        ["DROP TABLE queries"],
        ["DROP TABLE pace", "CREATE VIRTUAL TABLE pace USING fts5(host, state)"],
    ],
    ids=["endless view", "trigger", "another table", "a table less", "virtual table"],
)
def test_pack_with_other_tables_is_refused(pack: Path, statements: list[str]) -> None:
    changed(pack, *statements)
    with within(5, 50), pytest.raises(CacheFileError, match="has other tables than a cache"):
        open_pack(pack)
    with pytest.raises(CacheFileError, match="has other tables"):
        WikidataCache(cache=pack, mode="offline").labels(["Q65"])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (lambda: zlib.compress(bytes(60 * MB)), "larger than the limit of 50 MB"),
        (zlib.compress(b'["a","en"]')[:-3], "cut off"),
        (b"no zlib", "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
        (lambda: "[" + "[]," * 4 * MB + "[]]", "values; at most"),
        ("{", "cannot be read"),
        ('"None"', "not have the shape"),
        ('[["evil"],"en"]', "not have the shape"),
    ],
    ids=["bomb", "cut off", "no zlib", "deep", "wide", "no json", "text", "list"],
)
def test_hostile_value_in_a_pack_is_refused(
    pack: Path, tmp_path: Path, value: str | bytes | Callable[[], str | bytes], problem: str
) -> None:
    connection = sqlite3.connect(pack, isolation_level=None)
    connection.execute("UPDATE facts SET value = ?", [value() if callable(value) else value])
    connection.close()
    cache = WikidataCache(cache=tmp_path / "own.sqlite", packs=[pack], mode="offline")
    with within(10, 250), pytest.raises(CacheFileError, match=problem):
        cache.labels(["Q65"])


def snapshot(path: Path, *lines: bytes) -> Path:
    header = {"format": FORMAT, "counts": {"facts": 1, "queries": 0}, "sha256": "0" * 64}
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(json.dumps(header).encode() + b"\n")
        for line in lines:
            file.write(line)
    return path


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b" " * 51 * MB, "line 2: has a line of more than 50 MB"),
        (b"[" + b"[]," * 10 * MB + b"[]]\n", "values; at most"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
    ],
    ids=["long", "wide", "deep"],
)
def test_hostile_snapshot_takes_little_memory(tmp_path: Path, line: bytes, problem: str) -> None:
    path = snapshot(tmp_path / "s.jsonl.gz", line)
    with within(10, 250), pytest.raises(SnapshotError, match=problem):
        import_snapshot(AnswerStore(tmp_path / "c.sqlite"), path)
    assert not (tmp_path / "c.sqlite").exists()


@pytest.mark.slow
def test_large_answer_can_be_exported_and_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One limit for answers, for lines and for values in the file."""
    monkeypatch.setenv("KG_MAX_ANSWER_MB", "1")
    rows = [{"x": f"{number:06d}" * 10} for number in range(9_000)]
    store = save_facts(tmp_path / "c.sqlite", Fact("query", "0" * 64, rows))  # type: ignore[arg-type]
    export_snapshot(store, tmp_path / "s.jsonl.gz")
    assert import_snapshot(AnswerStore(tmp_path / "d.sqlite"), tmp_path / "s.jsonl.gz").new == 1


@pytest.mark.parametrize("opened", keep_first([open, gzip.open, bz2.open]))
def test_endless_line_of_a_dump_is_refused(
    tmp_path: Path, opened: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 1 << 20)
    monkeypatch.setattr(chunks, "_LONGEST_LINE", 4 << 20)
    path = tmp_path / "dump.nt"
    with opened(path, "wb") as file:  # type: ignore[attr-defined]
        file.write(b"<http://www.wikidata.org/entity/Q1> <http://www.wikidata.org/prop/direct/P1> <")
        for _ in range(30):
            file.write(b"x" * MB)
    with within(10, 100), pytest.raises(GraphFileError, match=r"line 1: has a line of more than .* MiB"):
        load([path], tmp_path / "store")


def test_open_quote_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "edits.csv"
    rows = "".join(f"s{number},{{}} is in,t{number}\n" for number in range(100_000))
    path.write_text(f'subject,prompt,target_new\na,"{{}} is in,b\n{rows}')
    with within(5, 100), pytest.raises(EditRowError, match="close the quotes"):
        read_edits(str(path))


def test_file_of_edits_has_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text("{}\n" * 1000)
    monkeypatch.setattr("kg_common.rows._LARGEST", 1000)
    with pytest.raises(EditRowError, match="so split it"):
        read_edits(str(path))


def test_json_parser_has_limits() -> None:
    assert parse(b'{"a": [1, 2]}') == {"a": [1, 2]}
    assert parse('{"a": 1}', pairs=dict) == {"a": 1}
    for text in ("[" * 10**5, "[1,2,3]", b"[{},{}]"):
        with pytest.raises(ValueError, match=r"nested too deeply|at most"):
            parse(text, most=10**6 if len(text) > 100 else 2)


@pytest.mark.slow
def test_store_with_a_label_of_20_mb_can_be_opened(tmp_path: Path) -> None:
    label = "a" * 20 * MB
    path = tmp_path / "g.nt"
    path.write_text(
        f'<http://www.wikidata.org/entity/Q1> <http://www.w3.org/2000/01/rdf-schema#label> "{label}"@en .\n'
    )
    load([path], tmp_path / "wd")
    assert open_source(tmp_path / "wd").select("SELECT ?s { ?s ?p ?o }") == [{"s": "http://www.wikidata.org/entity/Q1"}]
