"""What `load` cannot read: bad lines, cut and damaged files, and the errors that it raises."""

import bz2
import errno
import gzip
import json
from pathlib import Path

import pytest

from tests.everyday import keep_first
from tests.wikidata_cache.wikidata_helpers import written
from wikidata_cache.errors import BadOptionError, GraphFileError, StoreError
from wikidata_cache.stores.engine import store_write_errors
from wikidata_cache.stores.inputs import LoadOptions
from wikidata_cache.stores.load import load

WD = "http://www.wikidata.org/entity/"
P = "http://www.wikidata.org/prop/"
LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
GOOD = f"<{WD}Q1> <{P}direct/P31> <{WD}Q2> .\n".encode()
BAD = {
    "prose.nt": (GOOD + b"this is prose\n", 2, "is not N-Triples"),
    "no_dot.nt": (GOOD + GOOD[:-3] + b"\n", 2, "is not N-Triples"),
    "quotes.nt": (GOOD + f'<{WD}Q1> {LABEL} "The "Rock""@en .\n'.encode(), 2, "is not N-Triples"),
    "surrogate.nt": (GOOD + f'<{WD}Q1> {LABEL} "\\ud800"@en .\n'.encode(), 2, "is not N-Triples"),
    "latin.nt": (GOOD + f'<{WD}Q1> {LABEL} "caf'.encode() + b'\xe9"@en .\n', 2, "UTF-8"),
    "latin.tsv": (b"Q1\tP31\tQ2\nQ1\tlabel\tcaf\xe9\n", 2, "is not UTF-8"),
    "columns.tsv": (b"Q1\tP31\tQ2\n\nQ1\tP31\n", 3, "expected three tab-separated cells"),
    "cells.tsv": (b"node1\tlabel\tnode2\nQ1\tP31\tQ2\nQ1\tP31\n", 3, "found 2 cells; expected 3"),
    "names.tsv": (b"my node1\tlabel\tnode2\nQ1\tP31\tQ2\n", 1, "expected three tab-separated cells"),
    "header.tsv": (b"node1\tlabel\tnode2\tcaf\xe9\nQ1\tP31\tQ2\t\n", 1, "is not UTF-8"),
    "no_end.nt": (GOOD + GOOD[:-3], 2, "is not N-Triples"),
    "middle.json": (b'[\n{"type":"item","id":"Q1","claims":{"P31":[]}},\n{"type":"it\n]\n', 3, "is not an entity"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lines_are_named_or_skipped(tmp_path: Path, name: str) -> None:
    content, line, problem = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(GraphFileError, match=problem) as caught:
        load([path], tmp_path / "wd")
    assert (caught.value.path, caught.value.line) == (path, line)
    assert "--skip-bad-lines" in str(caught.value)
    assert not (tmp_path / "wd").exists()
    written(tmp_path / "more.tsv", "Q8\tP31\tQ9\n")
    report = load([path, tmp_path / "more.tsv"], tmp_path / "wd", options=LoadOptions(skip_bad_lines=True))
    assert report.skipped == 1
    assert report.manifest.counts["statements"] == (1 if name == "middle.json" else 2)


ENTITIES = [
    json.dumps({"type": "item", "id": f"Q{number}", "labels": {"en": {"language": "en", "value": f"Item {number}"}}})
    for number in range(1, 41)
]
ARRAY = "[\n" + ",\n".join(ENTITIES)


@pytest.mark.parametrize(
    "ending",
    keep_first(["", "\n", ",", ",\n", ",\n\n  \n", ',\n{"type":"it', ',\n{"id":"Q1","claims":{"P31":[]'], keep=2),
)
@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("chunk", [100, 1 << 20])
def test_unclosed_json_dump_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, squeeze: object, chunk: int
) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", chunk)
    path = tmp_path / "dump.json"
    path.write_bytes(squeeze((ARRAY + ending).encode()))  # type: ignore[operator]
    with pytest.raises(GraphFileError, match=r"the file is cut off: .*--skip-bad-lines") as caught:
        load([path], tmp_path / "wd")
    assert caught.value.line == (42 if "{" in ending else 41)
    assert not (tmp_path / "wd").exists()
    report = load([path], tmp_path / "wd", options=LoadOptions(skip_bad_lines=True))
    assert report.manifest.counts["labels"] == 40
    assert report.skipped == ("{" in ending)


@pytest.mark.parametrize(
    "text", [ARRAY + "\n]", ARRAY + "\n]\n\n", ARRAY + ",\n]\r\n", "\n" + ARRAY + "\n]\n", ARRAY[2:]]
)
@pytest.mark.parametrize("chunk", [100, 1 << 20])
def test_closed_json_dump_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk: int) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", chunk)
    assert load([written(tmp_path / "dump.json", text)], tmp_path / "wd").manifest.counts["labels"] == 40


def test_damaged_bzip2_part_is_an_error(tmp_path: Path) -> None:
    parts = [bytearray(bz2.compress(GOOD.replace(b"Q1", b"Q%d" % number))) for number in range(400)]
    parts[200][:4] = b"xxxx"
    (tmp_path / "dump.nt.bz2").write_bytes(b"".join(parts))
    with pytest.raises(GraphFileError, match="corrupt or cut-off"):
        load([tmp_path / "dump.nt.bz2"], tmp_path / "wd")


def test_line_numbers_count_over_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", 1000)
    path = tmp_path / "late.nt"
    path.write_bytes(GOOD * 500 + b"prose\n" + GOOD)
    with pytest.raises(GraphFileError) as caught:
        load([path], tmp_path / "wd")
    assert caught.value.line == 501


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("empty.nt", b"", "is empty"),
        ("empty.nt.gz", gzip.compress(b"\n", mtime=0), "is empty"),
        ("cut.nt.gz", gzip.compress(GOOD * 9000, mtime=0)[:-20], "corrupt or cut-off"),
        ("cut.nt.bz2", bz2.compress(GOOD * 9000)[:-20], "corrupt or cut-off"),
        ("graph.ttl", b"@prefix wd: <http://a> .\n", "is Turtle; convert it to N-Triples"),
        ("dump.nt.zst", b"\x28\xb5\x2f\xfd1234", "compressed with zstd; unpack it"),
        ("prose.txt", b"once upon a time\n", "is not a graph: it begins with"),
        ("other.nt", b"<http://a> <http://b> <http://c> .\n", "Keep every triple with --keep-all"),
    ],
)
def test_unusable_sources_are_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GraphFileError, match=problem):
        load([tmp_path / name], tmp_path / "wd")
    assert not (tmp_path / "wd").exists()


def test_cut_off_file_after_others_is_no_bad_line(tmp_path: Path) -> None:
    whole, cut = written(tmp_path / "whole.tsv", "Q1\tP1\tQ2\n"), tmp_path / "cut.nt.gz"
    cut.write_bytes(gzip.compress(GOOD * 9000, mtime=0)[:-20])
    for options in (LoadOptions(), LoadOptions(skip_bad_lines=True)):
        with pytest.raises(GraphFileError, match=r"fetch the file again.*resumes there") as caught:
            load([whole, cut], tmp_path / "wd", options=options)
        assert "--skip-bad-lines" not in str(caught.value)  # does not help


def test_nested_labels_are_a_bad_file(tmp_path: Path) -> None:
    folder = tmp_path / "codex" / "entities" / "en"
    folder.mkdir(parents=True)
    written(tmp_path / "codex" / "train.txt", "Q1\tP31\tQ2\n")
    written(folder / "labels.json", f'{{"Q1": {"[" * 100_000}')
    with pytest.raises(GraphFileError, match=r"labels\.json, line 1: expected .*nested too deeply"):
        load([tmp_path / "codex"], tmp_path / "wd")


def test_missing_and_repeated_sources_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "g.nt", GOOD.decode())
    with pytest.raises(GraphFileError, match="does not exist"):
        load([tmp_path / "nowhere.nt"], tmp_path / "wd")
    with pytest.raises(GraphFileError, match="is given twice"):
        load([path, path], tmp_path / "wd")
    (tmp_path / "folder").mkdir()
    with pytest.raises(GraphFileError, match="contains nothing to load"):
        load([tmp_path / "folder"], tmp_path / "wd")
    with pytest.raises(BadOptionError, match="Nothing to load"):
        load([], tmp_path / "wd")


@pytest.mark.parametrize(
    ("error", "way"),
    [
        (OSError(errno.EROFS, "Read-only file system"), "make its folder writable"),
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (RuntimeError("IO error: No space left on device"), "free some space"),  # of the database
    ],
)
def test_way_out_is_of_the_fault(error: Exception, way: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{way} or give another --store"), store_write_errors(tmp_path):
        raise error
