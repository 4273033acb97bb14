"""A cache as one file to share: the same bytes for the same cache, and nothing from a file that is not right."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.wikidata_cache.wikidata_helpers import Server, content_hashes, facts
from wikidata_cache import WikidataCache
from wikidata_cache.answers.snapshot import export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.errors import BadOptionError, CacheFileError, SnapshotError
from wikidata_cache.sources.source import Exchange, Fact

EARLY, LATE = "2026-01-01T00:00:00.000+00:00", "2026-06-01T00:00:00.000+00:00"


def keep(store: AnswerStore, time: str, *facts: Fact, graph: str = "wikidata") -> AnswerStore:
    store.save(graph, "labels/1", facts, Exchange("http://e/", f"SELECT {time}", time, 5, 1, "0" * 64, {"server": "é"}))
    return store


def label(entity: str, text: str) -> Fact:
    return Fact("label", entity, [text, "en"])


def small(path: Path) -> AnswerStore:
    store = keep(AnswerStore(path), EARLY, label("Q1", "one"), Fact("out", "Q1", [["P1", "Q2"]]))
    return keep(store, LATE, label("Q1", "uno"), label("Q2", "二"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_snapshot_round_trip_gives_the_same_bytes(server: Server, tmp_path: Path) -> None:
    cache = WikidataCache(server.url, cache=tmp_path / "a.sqlite")
    expected = content_hashes(cache)
    (
        facts(cache.source).mentioned(["Q30"]),
        facts(cache.source).incoming(["Q65"]),
        facts(cache.source).redirects(["Q65"]),
    )
    cache.find("Los Angeles"), cache.query("SELECT ?o { <http://www.wikidata.org/entity/Q65> ?p ?o }")
    first, second = tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl.gz"
    summary = export_snapshot(AnswerStore(tmp_path / "a.sqlite"), first)
    again = AnswerStore(tmp_path / "b.sqlite")
    imported = import_snapshot(again, first)
    assert (imported.facts, imported.queries, imported.new) == (summary.facts, summary.queries, summary.facts)
    export_snapshot(again, second)
    assert first.read_bytes() == second.read_bytes()
    assert import_snapshot(again, first).new == 0
    assert content_hashes(WikidataCache(cache=again.path)) == expected


def test_snapshot_header_and_rows(tmp_path: Path) -> None:
    export_snapshot(small(tmp_path / "c.sqlite"), tmp_path / "s.jsonl.gz")
    text = gzip.decompress((tmp_path / "s.jsonl.gz").read_bytes())
    header, *rows = lines(tmp_path / "s.jsonl.gz")
    assert header == {
        "format": "wikidata-cache snapshot/1",
        "created": LATE,
        "graphs": ["wikidata"],
        "urls": ["http://e/"],
        "licence": "CC0 (Wikidata)",
        "counts": {"facts": 4, "queries": 2},
        "sha256": hashlib.sha256(text.partition(b"\n")[2]).hexdigest(),
    }
    assert [(row.get("kind"), row.get("id"), row["fetched_at"]) for row in rows] == [
        ("label", "Q1", EARLY),
        ("label", "Q1", LATE),
        ("label", "Q2", LATE),
        ("out", "Q1", EARLY),
        (None, None, EARLY),
        (None, None, LATE),
    ]
    assert "二".encode() in text


def test_export_of_a_part(tmp_path: Path) -> None:
    store, out = small(tmp_path / "c.sqlite"), tmp_path / "s.jsonl.gz"
    keep(store, LATE, label("Q1", "mine"), graph="mine")
    with store.database.reading():  # a transaction in which the export reads too
        assert export_snapshot(store, out).facts == 5
    assert export_snapshot(store, out, newest_only=True).facts == 4
    export_snapshot(store, out, newest_only=True, as_of=EARLY)
    assert [row["value"] for row in lines(out)[1:] if row["type"] == "fact"] == [["one", "en"], [["P1", "Q2"]]]
    assert export_snapshot(store, out, graph_name="mine").graphs == {"mine"}
    with pytest.raises(CacheFileError, match="no facts to export"):
        export_snapshot(store, out, graph_name="theirs")
    with pytest.raises(CacheFileError, match="no cache file"):
        export_snapshot(AnswerStore(tmp_path / "absent.sqlite"), out)
    with pytest.raises(BadOptionError, match="there is no folder"):
        export_snapshot(store, tmp_path / "no folder" / "s.jsonl.gz")


def texts(store: AnswerStore) -> dict[str, object]:
    return store.look_up("wikidata", "label", ["Q1", "Q2", "Q3"])


def test_import_resolves_conflicts(tmp_path: Path) -> None:
    export_snapshot(small(tmp_path / "c.sqlite"), tmp_path / "s.jsonl.gz")
    for policy, expected in (("keep", "eins"), ("newer", "uno")):
        mine = keep(AnswerStore(tmp_path / f"{policy}.sqlite"), "2026-03-01T00:00:00.000+00:00", label("Q1", "eins"))
        import_snapshot(mine, tmp_path / "s.jsonl.gz", on_conflict=policy)  # type: ignore[arg-type]
        assert texts(mine) == {"Q1": [expected, "en"], "Q2": ["二", "en"]}
        assert import_snapshot(mine, tmp_path / "s.jsonl.gz", on_conflict=policy).new == 0  # type: ignore[arg-type]
    strict = keep(AnswerStore(tmp_path / "error.sqlite"), EARLY, label("Q1", "eins"))
    with pytest.raises(SnapshotError, match=r"contradicts the cache about Q1 \(kind label\)\. The cache is unchanged"):
        import_snapshot(strict, tmp_path / "s.jsonl.gz", on_conflict="error")
    assert texts(strict) == {"Q1": ["eins", "en"]}
    agreeing = small(tmp_path / "agreeing.sqlite")
    assert import_snapshot(agreeing, tmp_path / "s.jsonl.gz", on_conflict="error").new == 0
    with pytest.raises(BadOptionError, match="on_conflict='merge'"):
        import_snapshot(strict, tmp_path / "s.jsonl.gz", on_conflict="merge")  # type: ignore[arg-type]


def resigned(change: Callable[[dict[str, Any]], object], *, kind: str = "label") -> Callable[[bytes], bytes]:
    """A forger's work: one row changed, and the header made to agree."""

    def forge(body: bytes) -> bytes:
        header, *rows = [json.loads(line) for line in gzip.decompress(body).splitlines()]
        change(next(row for row in rows if row.get("kind", "query") == kind))
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        header["sha256"] = hashlib.sha256(text).hexdigest()
        return gzip.compress(json.dumps(header).encode() + b"\n" + text)

    return forge


def rezipped(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda body: gzip.compress(change(gzip.decompress(body)))


@pytest.mark.parametrize(
    ("forge", "found"),
    [
        (lambda body: body[: len(body) // 2], "cut off"),
        (lambda body: body[:-4] + b"\0\0\0\0", "cannot be read to its end"),
        (lambda body: b"", "is not JSON"),
        (lambda body: b"PK\3\4 a zip file", "cannot be read to its end"),
        (rezipped(lambda text: text.replace(b'"one"', b'"two"')), "its rows do not match"),
        (rezipped(lambda text: text[: text.rindex(b"\n", 0, -1) + 1]), "its rows do not match"),
        (rezipped(lambda text: text + text.splitlines(True)[-1]), "line 8: has more rows"),
        (
            rezipped(lambda text: text.replace(b"snapshot/1", b"snapshot/2")),
            "'wikidata-cache snapshot/2'; this release reads",
        ),
        (rezipped(lambda text: text.replace(b'"counts"', b'"cuonts"')), "does not give the numbers"),
        (rezipped(lambda text: b"[" * 100_000), "line 1: is not JSON"),
        (rezipped(lambda text: b"[1]\n"), "line 1: found list; expected an object"),
        (resigned(lambda row: row.update(id="Q1> ?p ?o } #")), "is not an id of the kind label"),
        (resigned(lambda row: row.update(id=7)), "the field id is not a text"),
        (resigned(lambda row: row.update(kind="gossip")), "unknown kind 'gossip'"),
        (resigned(lambda row: row.update(value="one")), "does not have the shape of the kind label"),
        (resigned(lambda row: row.update(value=[["P1", "Q2", "Q3"]]), kind="out"), "does not have the shape"),
        (resigned(lambda row: row.update(value=[["P1", "../../etc"]]), kind="out"), "does not have the shape"),
        (resigned(lambda row: row.update(fetched_at="0001-01-01T00:00:00+05:00")), "is not a time"),
        (resigned(lambda row: row.update(fetched_at="2026-01-01")), "must be written as"),
        (resigned(lambda row: row.update(fetched_at="tomorrow")), r"such as 2026-11-20T12:00:00\+00:00\. The cache"),
        (
            resigned(lambda row: row.update(fetched_at="2999-01-01T00:00:00.000+00:00")),
            "line 2: the time 2999.*impossible",
        ),
        (resigned(lambda row: row.update(fetched_at="2011-12-31T23:59:59.999+00:00")), "Wikidata began in 2012"),
        (
            resigned(lambda row: row.update(fetched_at="2999-01-01T00:00:00.000+00:00"), kind="query"),
            "2999.*impossible",
        ),
        (resigned(lambda row: row.update(graph=" ")), "the graph has no name"),
        (resigned(lambda row: row.update(graph=""), kind="query"), "the graph has no name"),
        (resigned(lambda row: row.update(extra=1)), "found the fields"),
        (resigned(lambda row: row.update(type="code")), "type 'code'"),
        (resigned(lambda row: row.update(rows="3"), kind="query"), "the field rows is of the type str; expected int"),
        (resigned(lambda row: row["headers"].update(x=[1]), kind="query"), "a header is not a text"),
    ],
)
def test_invalid_snapshot_leaves_cache_unchanged(forge: Callable[[bytes], bytes], found: str, tmp_path: Path) -> None:
    export_snapshot(small(tmp_path / "c.sqlite"), tmp_path / "good.jsonl.gz")
    bad = tmp_path / "bad.jsonl.gz"
    bad.write_bytes(forge((tmp_path / "good.jsonl.gz").read_bytes()))
    mine = keep(AnswerStore(tmp_path / "mine.sqlite"), EARLY, label("Q3", "drei"))
    with pytest.raises(SnapshotError, match=found) as caught:
        import_snapshot(mine, bad, on_conflict="newer")
    assert "bad.jsonl.gz" in str(caught.value)
    with pytest.raises(SnapshotError, match=found):
        import_snapshot(AnswerStore(tmp_path / "new" / "new.sqlite"), bad)
    assert not (tmp_path / "new").exists()
    assert texts(mine) == {"Q3": ["drei", "en"]}
    assert mine.database.read("SELECT (SELECT count(*) FROM facts), (SELECT count(*) FROM queries)") == [(1, 1)]
