"""What `load` cannot read: bad lines, cut and damaged files, and the errors that it raises."""

import bz2
import gzip
import json
from pathlib import Path

import pytest

from tests.everyday import keep_first
from tests.wikidata_cache.wikidata_helpers import written
from wikidata_cache.errors import GraphFileError
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
    "comment.tsv": (b"# a comment before the content\nQ1\tP31\tQ2\n# a later one\n", 3, "found '# a later one'"),
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
@pytest.mark.parametrize("squeeze", keep_first([gzip.compress, bytes, bz2.compress]))
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
@pytest.mark.parametrize("chunk", keep_first([100, 1 << 20]))
def test_closed_json_dump_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, chunk: int) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", chunk)
    assert load([written(tmp_path / "dump.json", text)], tmp_path / "wd").manifest.counts["labels"] == 40


def test_line_numbers_count_over_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", 1000)
    path = tmp_path / "late.nt"
    path.write_bytes(GOOD * 500 + b"prose\n" + GOOD)
    with pytest.raises(GraphFileError) as caught:
        load([path], tmp_path / "wd")
    assert caught.value.line == 501


def test_cut_off_file_after_others_is_no_bad_line(tmp_path: Path) -> None:
    whole, cut = written(tmp_path / "whole.tsv", "Q1\tP1\tQ2\n"), tmp_path / "cut.nt.gz"
    cut.write_bytes(gzip.compress(GOOD * 9000, mtime=0)[:-20])
    for options in (LoadOptions(), LoadOptions(skip_bad_lines=True)):
        with pytest.raises(GraphFileError, match=r"fetch the file again.*resumes there") as caught:
            load([whole, cut], tmp_path / "wd", options=options)
        assert "--skip-bad-lines" not in str(caught.value)  # does not help
