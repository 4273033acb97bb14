"""What sources, caches, stores and files of edits refuse: a mistake, the class of its error, and the word one needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pyoxigraph import Store

from tests.refusals import Call, check_refused, put, refusals
from wikidata_cache import open_source, packaged_extract
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.edits import read_edits
from wikidata_cache.errors import (
    BadOptionError,
    CacheFileError,
    EditRowError,
    GraphFileError,
    LabelIndexError,
    SourceStringError,
    StoreError,
)
from wikidata_cache.labels.label_index import LabelEntry, build_label_index
from wikidata_cache.sources.source import Exchange, Fact
from wikidata_cache.stores.load import load

NAME = LabelEntry("Q65", "Los Angeles", "en", "label")
LABEL = Fact("label", "Q1", ["Universe", "en"])
ASKED = Exchange("http://e/sparql", "SELECT 1", "2026-11-20T12:00:00.000+00:00", 12, 3, "0" * 64, {"server": "x"})


def source(text: Any) -> Call:
    return lambda _: open_source(text)


def empty_store(folder: Path) -> object:
    Store(str(folder / "empty")).flush()
    return open_source(f"oxigraph:{folder / 'empty'}")


def other_file(folder: Path) -> object:
    """A file that is no graph by its name."""
    shutil.copy(packaged_extract(), folder / "graph.ttl")
    return open_source(folder / "graph.ttl")


def below_a_file(folder: Path, name: str) -> Path:
    """A path that can't be made, because its folder is a file."""
    return put(folder, "file") / name


def open_half_a_store(folder: Path) -> object:
    (folder / "half.loading").mkdir()  # where `load` works
    return open_source(folder / "half")


SOURCES: dict[str, tuple[Call, type[Exception], str]] = {
    "store that is not there": (
        lambda folder: open_source(f"oxigraph:{folder / 'none'}"),
        SourceStringError,
        "not an Oxigraph store",
    ),
    "store without triples": (empty_store, SourceStringError, "contains no triples"),
    "folder without a graph": (open_source, SourceStringError, "no graph file"),
    "store that is not loaded completely": (open_half_a_store, StoreError, "wikidata-cache load"),
    "unknown name": (source("wikidata"), SourceStringError, "is not a source; expected extract"),
    # and not the current folder
    "two empty names": (source(" , "), SourceStringError, "empty source"),
    "empty name": (source(""), SourceStringError, "empty source"),
    "space": (source(" "), SourceStringError, "empty source"),
    "nothing in memory": (source("memory:"), SourceStringError, "empty source"),
    "empty name in a list": (source([packaged_extract(), ""]), SourceStringError, "empty source"),
    "file and endpoint": (source([packaged_extract(), "http://127.0.0.1:1/query"]), SourceStringError, "combined"),
    "half an IPv6 address": (source("http://[::1/query"), SourceStringError, "is not the address of an endpoint"),
    "address without a host": (source("http:///query"), SourceStringError, "is not the address of an endpoint"),
    "port that is too large": (source("http://127.0.0.1:99999/"), SourceStringError, "is not the address of an"),
    "host with a space": (source("https://a b/"), SourceStringError, "is not the address of an endpoint"),
    "absent graph": (
        lambda folder: open_source(str(folder / "absent.nt.gz")),
        GraphFileError,
        "absent.nt.gz: does not exist",
    ),
    "file of another kind": (other_file, GraphFileError, "graph.ttl: is not a graph file"),
    "endless row": (
        lambda folder: open_source(put(folder, "graph.tsv", b"Q1\tP1\t" + b"Q" * 3_000_000)),
        GraphFileError,
        "line 1: has a line of more than",
    ),
    "version of a file": (
        lambda folder: open_source(put(folder, "g.tsv", "Q1\tP1\tQ2\n"), as_of="2026-11-20"),
        BadOptionError,
        "is a local graph without versions",
    ),
}
FILES: dict[str, tuple[Call, type[Exception], str]] = {
    "absent edits": (lambda folder: read_edits(folder / "absent.jsonl"), EditRowError, "no such file; check the path"),
    "folder as edits": (read_edits, EditRowError, "is a folder; expected a file of edits"),
    "folder as a cache": (
        lambda folder: AnswerStore(folder).look_up("wikidata", "label", ["Q1"]),
        CacheFileError,
        "is a folder",
    ),
    "cache below a file": (
        lambda folder: AnswerStore(below_a_file(folder, "c.sqlite")).save("wikidata", "labels/1", [LABEL], ASKED),
        CacheFileError,
        "cannot be written",
    ),
    "index in an absent folder": (
        lambda folder: build_label_index(folder / "no-such-folder" / "labels.sqlite", [NAME]),
        LabelIndexError,
        "cannot be written",
    ),
    "store in /proc": (
        lambda folder: load([put(folder, "g.tsv", "Q1\tP1\tQ2\n")], "/proc/wd"),
        StoreError,
        "/proc/wd: cannot be written",
    ),
    "store below a file": (
        lambda folder: load([put(folder, "g.tsv", "Q1\tP1\tQ2\n")], below_a_file(folder, "wd")),
        StoreError,
        "cannot be written",
    ),
}


@refusals({**SOURCES, **FILES})
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
