"""Files damaged at random, or made to be odd: each is read, or refused by an error of ours, never anything else.

The bytes of a good file are cut, repeated, exchanged or replaced; what is read from the rest is as valid as ever. The
number of examples is hypothesis' own (tests/conftest.py; HYPOTHESIS_EXAMPLES).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg_edit.edits.files import read_edits
from kg_edit.errors import KgEditError
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import read_changes
from kg_edit.ship.ledger import Ledger
from tests.attacks.commands import bounded_memory
from tests.kg_edit.command_line import EDITS, GRAPH
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from tests.wikidata_cache.wikidata_helpers import save_facts
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.answers.snapshot import export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore, open_pack
from wikidata_cache.answers.validate import fact_problem
from wikidata_cache.edits import read_edits as read_rows
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.sources.schema import value_problem
from wikidata_cache.sources.source import Fact
from wikidata_cache.stores.load import load

pytestmark = pytest.mark.slow

OURS = (KgEditError, WikidataCacheError)
FACTS = [Fact("label", "Q65", ["Los Angeles", "en"]), Fact("out", "Q65", [["P17", "Q30"]]), Fact("degree", "Q5", 501)]

Damage = Callable[[bytes], bytes]


@st.composite
def damage(draw: st.DrawFn) -> Damage:
    """A change of some bytes of a file, wherever they are."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "repeat", "swap"]))
    fraction, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    new = draw(
        st.binary(max_size=20) | st.sampled_from([b"\x00", b'"', b"{", b"[" * 5_000, b"\n", b"\xff\xfe", b"NaN"])
    )

    def damaged(data: bytes) -> bytes:
        at = int(fraction * len(data))
        return {
            "cut": data[:at],
            "flip": data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + length]) + data[at + length :],
            "insert": data[:at] + new + data[at:],
            "repeat": data[:at] + data[at : at + length] * 3 + data[at + length :],
            "swap": data[at:] + data[:at],
        }[kind]

    return damaged


def ends(read: Callable[[], Any]) -> Any:
    """What is read, or None where it is refused by an error of ours; and memory stays within bounds."""
    with bounded_memory():
        try:
            return read()
        except OURS as error:
            assert str(error)
            return None


@cache
def examples(folder: Path) -> dict[str, bytes]:
    """Good files of every kind."""
    export_snapshot(save_facts(folder / "good.sqlite", *FACTS), folder / "good.jsonl.gz")
    with sqlite3.connect(folder / "good.sqlite") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    Ledger.open(folder / "ledger").add(made_up(edits_of(2)).save(folder / "patch.safetensors"))
    return {
        "edits.jsonl": EDITS.encode(),
        "edits.json": json.dumps([json.loads(line) for line in EDITS.splitlines()]).encode(),
        "edits.csv": b'subject,prompt,target_new\n"France","In {}, the capital is","Rome"\nx,"{} ""is""",y\n',
        "graph.tsv": GRAPH.encode(),
        "graph.nt": b"<http://www.wikidata.org/entity/Q1> <http://www.wikidata.org/prop/direct/P1> "
        b"<http://www.wikidata.org/entity/Q2> .\n<http://www.wikidata.org/entity/Q1> "
        b'<http://www.w3.org/2000/01/rdf-schema#label> "One"@en .\n',
        "graph.nt.gz": packaged_extract().read_bytes()[:20_000],
        "patch.safetensors": (folder / "patch.safetensors").read_bytes(),
        "pack.sqlite": (folder / "good.sqlite").read_bytes(),
        "snapshot.jsonl.gz": (folder / "good.jsonl.gz").read_bytes(),
        "ledger.jsonl": (folder / "ledger" / "ledger.jsonl").read_bytes(),
    }


def read(path: Path) -> None:
    """Read a file as the commands do, and check what comes of it."""
    if path.name.startswith("edits"):
        edit_file = ends(lambda: read_edits(path))
        for edit in edit_file.edits if edit_file else ():
            assert edit.subject.strip() and "{}" in edit.prompt
        ends(lambda: read_rows(str(path)))
    elif path.name.startswith("graph"):
        ends(lambda: len(load_files([path])[0]))
        ends(lambda: load([path], path.with_name("store")).manifest.counts)
    elif path.name.startswith("patch"):
        patch = ends(lambda: Patch.load(path))
        assert patch is None or patch.check_finite() is None
        ends(lambda: read_changes(path))
    elif path.name.startswith("pack"):
        ends(lambda: _read_pack(path))
    elif path.name.startswith("snapshot"):
        _import(path)
    else:
        _open_ledger(path)


def _read_pack(path: Path) -> None:
    open_pack(path).close()
    cache = WikidataCache(cache=path.with_name("own.sqlite"), packs=[path], mode="offline")
    for kind, entity, _ in FACTS:
        values = cache.source._look_up(kind, [entity])  # type: ignore[attr-defined]
        assert all(value_problem(kind, name, value) is None for name, value in values.items())


def _import(path: Path) -> None:
    store = AnswerStore(path.with_name("into.sqlite"))
    if ends(lambda: import_snapshot(store, path)) is None:
        assert not store.path.exists() or store.database.read("SELECT count(*) FROM facts") == [(0,)]
    else:
        export_snapshot(store, path.with_name("again.jsonl.gz"))
        assert import_snapshot(AnswerStore(path.with_name("other.sqlite")), path.with_name("again.jsonl.gz")).facts


def _open_ledger(path: Path) -> None:
    folder = path.with_name("ledger")
    folder.mkdir()
    (folder / "ledger.jsonl").write_bytes(path.read_bytes())
    ends(lambda: [entry.name for entry in Ledger.open(folder).edits])
    ends(lambda: Ledger.open(folder).patch.summary)


KINDS = ("edits.jsonl", "edits.json", "edits.csv", "graph.tsv", "graph.nt", "graph.nt.gz", "patch.safetensors")
KINDS += ("pack.sqlite", "snapshot.jsonl.gz", "ledger.jsonl")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return examples(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("name", KINDS)
@given(changes=st.lists(damage(), max_size=3))
def test_damaged_files_are_refused(
    name: str, good: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, changes: list[Damage]
) -> None:
    data = good[name]
    for change in changes:
        data = change(data)
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(data)
    read(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["Q5", "P31", "en"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(kind=st.text(max_size=8) | st.sampled_from(["out", "label", "claims", "ends", "query"]), value=JSON, name=JSON)
def test_imported_facts_are_stored_unchanged(
    tmp_path_factory: pytest.TempPathFactory, kind: str, value: Any, name: Any
) -> None:
    """One schema: what `save` takes, an export has and an import takes; what it refuses, an import refuses."""
    folder = tmp_path_factory.mktemp("schema")
    entity = name if isinstance(name, str) else "Q1"
    stored = ends(lambda: save_facts(folder / "a.sqlite", Fact(kind, entity, value)))  # type: ignore[arg-type]
    row = {"graph": "wikidata", "kind": kind, "id": entity, "url": "http://e/", "value": value}
    problem = fact_problem(row | {"type": "fact", "fetched_at": "2026-01-20T12:00:00.000+00:00"})
    assert bool(stored) == (problem is None)
    if stored:
        export_snapshot(stored, folder / "s.jsonl.gz")
        assert import_snapshot(AnswerStore(folder / "b.sqlite"), folder / "s.jsonl.gz").new == 1


@given(
    rows=st.lists(JSON | st.dictionaries(st.sampled_from(["subject", "prompt", "target_new", "id"]), JSON), max_size=5)
)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("rows") / "edits.json"
    path.write_text(json.dumps(rows))
    ends(lambda: read_edits(path))
    ends(lambda: read_rows(str(path)))
