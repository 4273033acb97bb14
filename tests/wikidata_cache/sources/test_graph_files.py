import gzip
import hashlib
import logging
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import facts
from wikidata_cache import open_source
from wikidata_cache.errors import GraphFileError
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.stores.load import load

WIKIDATA = b"http://www.wikidata.org/"
LINE = b"<%sentity/Q%%d> <%sprop/direct/P1> <%sentity/Q2> .\n" % (WIKIDATA, WIKIDATA, WIKIDATA)
MANY = b"".join(LINE % number for number in range(1, 20_000))


def test_tsv_header_is_optional(tmp_path: Path) -> None:
    rows = "Q1\tP1\tQ2\r\n\nQ1\tlabel\tOne, and only\nP1\tlabel\tborders\n"
    headers = {"b.tsv": "\ufeffSubject\tproperty\tobject\n", "d.tsv": "head\trelation\ttail\n"}
    for name, header in {"a.tsv": "", **headers}.items():
        (tmp_path / name).write_text(header + rows, encoding="utf-8")
        load([tmp_path / name], tmp_path / name[0])
        for source in (open_source(tmp_path / name), open_source(tmp_path / name[0])):
            assert facts(source).out(["Q1"]) == {"Q1": [("P1", "Q2")]}
            assert facts(source).labels(["Q1", "P1"]) == {"Q1": "One, and only", "P1": "borders"}
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    assert facts(open_source(tmp_path / "c.tsv.gz")).named(["borders"]) == {"borders": ("P1",)}


def test_label_is_found_in_either_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = "S\u00e9oul", "Se\u0301oul"  # which look the same
    (tmp_path / "g.tsv").write_text(f"Q1\tlabel\t{composed}\nQ2\tlabel\tNi\u0303o\n", encoding="utf-8")
    named = facts(open_source(tmp_path / "g.tsv")).named([composed, decomposed, "Ni\u0303o"])
    assert named == {composed: ("Q1",), decomposed: ("Q1",), "Ni\u0303o": ("Q2",)}


def test_last_ending_of_a_name_is_the_format(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv.nt").write_bytes(LINE % 1)
    assert facts(open_source(tmp_path / "rows.tsv.nt")).out(["Q1"]) == {"Q1": [("P1", "Q2")]}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + LINE % 1,
        LINE % 1 + b"<%sentity/Q1> <%sprop/direct/P856> <http://a.example/a b> .\n" % (WIKIDATA, WIKIDATA),
        LINE % 1 + b'<%sentity/Q1> <http://a.example/p> "x"@zh-classical .\n' % WIKIDATA,
    ],
)
def test_lenient_ntriples_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.nt"
    path.write_bytes(content)
    load([path], tmp_path / "wd")
    for source in (path, tmp_path / "wd"):
        assert facts(open_source(source)).out(["Q1"]) == {"Q1": [("P1", "Q2")]}


def test_load_files_returns_file_hashes(tmp_path: Path) -> None:
    path = tmp_path / "g.nt.gz"
    path.write_bytes(gzip.compress(MANY, mtime=0))
    store, hashes = load_files([path])
    assert len(store) == 19_999
    assert hashes == {"g.nt.gz": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_labels_file_in_the_same_folder_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "graph.tsv").write_text("Q1\tP1\tQ2\n")
    (tmp_path / "labels.tsv").write_text("Q1\tlabel\tOne\n")
    with caplog.at_level(logging.INFO, logger="wikidata_cache"):
        source = open_source(tmp_path / "graph.tsv")
    assert facts(source).labels(["Q1"]) == {"Q1": "One"}
    assert "also loading labels.tsv from the same folder" in caplog.text
    (tmp_path / "graph.tsv").write_text("Q1\tP1\tQ2\nQ1\tlabel\tits own\n")
    assert facts(open_source(tmp_path / "graph.tsv")).labels(["Q1"]) == {"Q1": "its own"}


def test_labels_file_of_a_link_target_is_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("data", "work"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "wikidata.nt.gz").write_bytes(gzip.compress(LINE % 1, mtime=0))
    label = b'<%sentity/Q1> <http://www.w3.org/2000/01/rdf-schema#label> "One"@en .\n' % WIKIDATA
    (tmp_path / "data" / "labels.nt.gz").write_bytes(gzip.compress(label, mtime=0))
    link = tmp_path / "work" / "wikidata.nt.gz"
    link.symlink_to(tmp_path / "data" / "wikidata.nt.gz")
    assert facts(open_source(link)).labels(["Q1"]) == {"Q1": "One"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    (tmp_path / "work" / "labels.tsv").write_text("Q1\tlabel\tnearer\n")
    assert facts(open_source(link)).labels(["Q1"]) == {"Q1": "nearer"}


def test_graph_without_labels_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "graph.tsv").write_text("Q1\tP1\tQ2\n")
    load_files([tmp_path / "graph.tsv"])
    [record] = caplog.records
    assert (record.name, record.levelname) == ("wikidata_cache.sources.graph_files", "WARNING")
    assert "graph.tsv: no labels in this graph" in caplog.text
    assert "Put labels.nt.gz into the same folder, or give it as another source" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "problem", "line"),
    [
        ("empty.nt", b"", "is empty", None),
        ("empty.tsv", b"", "is empty", None),
        ("empty.nt.gz", gzip.compress(b"", mtime=0), "is empty", None),
        ("comments.nt", b"# nothing\n", "contains no statement", None),
        ("prose.nt", LINE % 1 + b"this is prose\n", "is not N-Triples", 2),
        ("latin.nt", LINE % 1 + b'<http://a> <http://b> "caf\xe9"@en .\n', "UTF-8", 2),
        ("latin.tsv", b"Q1\tP1\tQ2\nQ1\tlabel\tcaf\xe9\n", "is not UTF-8", 2),
        ("columns.tsv", b"Q1\tP1\tQ2\nQ1\tP1\n", "expected three tab-separated cells", 2),
        ("names.tsv", b"Q1\tcapital of\tFrance\n", "expected three tab-separated cells", 1),
        ("nolabel.tsv", b"Q1\tlabel\t \n", "expected three", 1),
        ("unzipped.nt.gz", MANY, "corrupt or cut-off gzip", 1),
        pytest.param(
            *("bomb.nt.gz", gzip.compress(LINE % 1 + b"a" * 20_000_000, 1), "has a line of more than 16 MiB", 2),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_file_error_names_line(tmp_path: Path, name: str, content: bytes, problem: str, line: int | None) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(GraphFileError, match=problem) as caught:
        open_source(path)
    assert caught.value.path == path
    assert caught.value.line == line
    assert str(path) in str(caught.value)


@pytest.mark.slow
def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    for name, content in {"g.nt.gz": MANY, "g.tsv.gz": b"Q1\tP1\tQ2\n" * 300_000}.items():
        packed = gzip.compress(content, mtime=0)
        (tmp_path / name).write_bytes(packed[: len(packed) // 2])
        with pytest.raises(GraphFileError, match=r"cut-off gzip.*fetch the file again") as caught:
            open_source(tmp_path / name)
        assert caught.value.line is not None
    damaged = bytearray(gzip.compress(MANY, mtime=0))
    damaged[len(damaged) // 2] ^= 0x55
    (tmp_path / "g.nt.gz").write_bytes(damaged)
    with pytest.raises(GraphFileError) as caught:
        open_source(tmp_path / "g.nt.gz")
    assert caught.value.line is not None
