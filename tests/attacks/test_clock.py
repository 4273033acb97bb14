"""Clocks that jump: what was written in the future is read, replaced and undone like the rest."""

from __future__ import annotations

import os
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest

from kg_edit.ship.ledger import Ledger, log
from kg_edit.storage import cached_files
from kg_edit.storage.cached_files import CachedItem, cached_items, divide_unused
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from wikidata_cache import open_source, packaged_extract
from wikidata_cache.stores.load import load

YEAR = 365 * 86_400
FUTURE = 4_000_000_000  # the year 2096


class Ahead(datetime):
    """A clock that is a year ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Ahead:
        return cls.fromtimestamp(datetime.now(UTC).timestamp() + YEAR, tz)


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
    can, kept = divide_unused(cached_items(tmp_path), days=0)
    assert can == [] and kept == []
    monkeypatch.setattr(cached_files.time, "time", lambda: FUTURE + 2 * YEAR)
    (item,), _ = divide_unused(cached_items(tmp_path), days=300)
    assert item.path == file.parent


def test_files_to_clear_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [CachedItem("scores", Path(name), (), 1, used) for name, used in (("a", 0.0), ("b", FUTURE), ("c", 1.0))]
    monkeypatch.setattr(cached_files.time, "time", lambda: FUTURE + 1)
    monkeypatch.setattr(CachedItem, "__eq__", lambda *_: pytest.fail("quadratic in the files of a cache"))
    can, kept = divide_unused(items)
    assert [item.path.name for item in can] == ["a", "c"] and [item.path.name for item in kept] == ["b"]
