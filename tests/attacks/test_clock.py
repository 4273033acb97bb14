"""Clocks that jump: what was written in the future is read, replaced and undone like the rest."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from kg_edit.ledger import Ledger, log
from kg_edit.storage import cached_files
from kg_edit.storage.cached_files import CachedItem, cached_items, clearable
from tests.kg_edit.ledger.ledgers import edits_of, made_up
from tests.wikidata_cache.wikidata_helpers import save_facts
from wikidata_cache import WikidataCache, open_source, packaged_extract
from wikidata_cache.answers import validate
from wikidata_cache.answers.snapshot import export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.sources.source import Fact
from wikidata_cache.stores.load import load

YEAR = 365 * 86_400
FUTURE = 4_000_000_000  # the year 2096


class Ahead(datetime):
    """A clock that is a year ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Ahead:
        return cls.fromtimestamp(datetime.now(UTC).timestamp() + YEAR, tz)


def save(store: AnswerStore, label: str, *, ahead: int = 0) -> None:
    time = (datetime.now(UTC) + timedelta(days=ahead)).isoformat(timespec="seconds")
    save_facts(store.path, Fact("label", "Q65", [label, "en"]), at=time)


def test_answer_from_the_future_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = AnswerStore(tmp_path / "c.sqlite")
    with monkeypatch.context() as wrong:
        wrong.setattr(validate, "datetime", Ahead)
        save(store, "old", ahead=364)
    save(store, "new")
    assert WikidataCache(cache=store.path, mode="offline").labels(["Q65"]) == {"Q65": "new"}
    export_snapshot(store, tmp_path / "s.jsonl.gz")
    other = AnswerStore(tmp_path / "d.sqlite")
    assert import_snapshot(other, tmp_path / "s.jsonl.gz").facts == 1
    assert WikidataCache(cache=other.path, mode="offline").labels(["Q65"]) == {"Q65": "new"}


def test_ledger_keeps_its_order_when_the_clock_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    with monkeypatch.context() as wrong:
        wrong.setattr(log, "datetime", Ahead)
        ledger.add(made_up(edits_of(2)))
    ledger.add(made_up(edits_of(2, start=2)))
    ledger.remove(["e3"])
    again = Ledger.open(tmp_path / "ledger")
    assert [event.number for event in again.events] == [1, 2, 3]
    assert again.events[0].time > again.events[1].time
    assert again.undo().number == 3
    assert [entry.name for entry in Ledger.open(tmp_path / "ledger").active] == ["e0", "e1", "e2", "e3"]


@pytest.mark.slow
def test_store_with_files_of_the_future_is_opened(tmp_path: Path) -> None:
    source = tmp_path / "g.nt.gz"
    source.write_bytes(packaged_extract().read_bytes())
    os.utime(source, (FUTURE, FUTURE))
    load([source], tmp_path / "wd")
    for file in (tmp_path / "wd").rglob("*"):
        os.utime(file, (FUTURE, FUTURE))
    assert open_source(tmp_path / "wd").select("SELECT ?o { ?s ?p ?o } LIMIT 1")


def test_stored_file_of_the_future_is_never_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "models" / "m-0123456789abcdef" / "config.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    os.utime(file, (FUTURE, FUTURE))
    can, left = clearable(cached_items(tmp_path), days=0)
    assert can == [] and left == []
    monkeypatch.setattr(cached_files.time, "time", lambda: FUTURE + 2 * YEAR)
    (item,), _ = clearable(cached_items(tmp_path), days=300)
    assert item.path == file.parent


def test_files_to_clear_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [CachedItem("scores", Path(name), (), 1, used) for name, used in (("a", 0.0), ("b", FUTURE), ("c", 1.0))]
    monkeypatch.setattr(cached_files.time, "time", lambda: FUTURE + 1)
    monkeypatch.setattr(CachedItem, "__eq__", lambda *_: pytest.fail("quadratic in the files of a cache"))
    can, left = clearable(items)
    assert [item.path.name for item in can] == ["a", "c"] and [item.path.name for item in left] == ["b"]
