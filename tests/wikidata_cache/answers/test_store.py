"""The cache file: versions, formats, damage, read-only folders, full disks, forks."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.everyday import keep_first
from wikidata_cache.answers import database
from wikidata_cache.answers.modes import cache_file, effective_mode, pack_files, utc
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.doctor import examine
from wikidata_cache.endpoints.rate_limit import RateLimiter, RateLimitState, WaitBudget
from wikidata_cache.errors import CacheFileError, EndpointError
from wikidata_cache.sources.source import Exchange, Fact

NOON = "2026-11-20T12:00:00.000+00:00"
LATER = "2026-11-20T12:00:01.500+00:00"
ASKED = Exchange("http://e/sparql", "SELECT 1", NOON, 12, 3, "0" * 64, {"server": "x"})
LABEL = Fact("label", "Q1", ["Universe", "en"])


def filled(path: Path) -> AnswerStore:
    store = AnswerStore(path)
    store.save("wikidata", "labels/1", [LABEL, Fact("label", "Q2", None)], ASKED)
    return store


def labels_of(store: AnswerStore, *ids: str, **options: str) -> dict[str, object]:
    return store.look_up("wikidata", "label", ids or ["Q1", "Q2", "Q3"], **options)


def test_store_separates_absent_from_unknown(tmp_path: Path) -> None:
    with filled(tmp_path / "new" / "folder" / "c.sqlite") as store:
        assert labels_of(store) == {"Q1": ["Universe", "en"], "Q2": None}
        assert store.look_up("dbpedia", "label", ["Q1"]) == {}
        assert store.look_up("wikidata", "description", ["Q1"]) == {}


@pytest.mark.parametrize("name", ["a?b#c.sqlite", "100%41.sqlite", "caf\udce9.sqlite"])  # the last is no UTF-8 on disk
def test_store_may_have_any_name(tmp_path: Path, name: str) -> None:
    with filled(tmp_path / name) as store:
        assert labels_of(store, "Q1") == {"Q1": ["Universe", "en"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.locks"]


def test_store_stays_where_it_is_after_a_change_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with filled(Path("c.sqlite")) as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        with store.request_lock():
            store.save("wikidata", "labels/1", [LABEL._replace(id="Q3")], ASKED)
        assert labels_of(store, "Q3") == {"Q3": ["Universe", "en"]}
    assert list(Path.cwd().iterdir()) == []


def test_store_reading_makes_no_file(tmp_path: Path) -> None:
    assert labels_of(AnswerStore(tmp_path / "c.sqlite")) == {}
    assert list(tmp_path.iterdir()) == []


def test_store_adds_and_replays_versions(tmp_path: Path) -> None:
    store = filled(tmp_path / "c.sqlite")
    store.save("wikidata", "labels/1", [LABEL._replace(value=["Cosmos", "en"])], replace(ASKED, fetched_at=LATER))
    store.save("wikidata", "labels/1", [LABEL._replace(value=["Lies", "en"])], replace(ASKED, fetched_at=LATER))
    assert labels_of(store, "Q1") == {"Q1": ["Cosmos", "en"]}  # a version never changes
    assert labels_of(store, "Q1", as_of=NOON) == {"Q1": ["Universe", "en"]}
    assert labels_of(store, "Q1", as_of=utc("2026-11-20T13:00:01+01:00")) == {"Q1": ["Universe", "en"]}
    assert labels_of(store, "Q1", as_of=utc("2026-11-20T11:59:59")) == {}
    assert store.find_origins("wikidata", "label", ["Q1", "Q2"]) == {
        "Q1": ("http://e/sparql", LATER),
        "Q2": ("http://e/sparql", NOON),
    }


@pytest.mark.parametrize("text", ["x" * 5_000, "日本語 " * 200, "half \ud800", "\u2028\x00</script>"])
def test_store_returns_any_text(tmp_path: Path, text: str) -> None:
    store = AnswerStore(tmp_path / "c.sqlite")
    store.save("wikidata", "labels/1", [LABEL._replace(value=[text, "en"])], ASKED)
    store.close()
    assert labels_of(store, "Q1") == {"Q1": [text, "en"]}


@pytest.mark.slow
def test_store_looks_up_many_ids(tmp_path: Path) -> None:
    ids = [f"Q{number}" for number in range(1, 40_001)]
    store = AnswerStore(tmp_path / "c.sqlite")
    store.save("wikidata", "labels/1", [Fact("label", entity, [entity, "mul"]) for entity in ids], ASKED)
    assert labels_of(store, *ids, "Q0")["Q40000"] == ["Q40000", "mul"]
    assert len(labels_of(store, *ids, "Q0")) == 40_000


def test_store_refuses_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("milk, eggs\n" * 1_000)
    with pytest.raises(CacheFileError, match="is not a cache file"):
        labels_of(AnswerStore(path))
    store = AnswerStore(tmp_path / "c.sqlite")
    store.save("wikidata", "labels/1", [Fact("label", f"Q{n}", [f"{n}", "en"]) for n in range(1, 9_000)], ASKED)
    store.close()
    body = store.path.read_bytes()
    store.path.write_bytes(body[:4096] + b"\xff" * (len(body) - 4096))
    with pytest.raises(CacheFileError, match=r"c\.sqlite: is damaged.*snapshot"):
        labels_of(AnswerStore(store.path))
    store.path.write_bytes(body[: len(body) // 2])
    with pytest.raises(CacheFileError, match="is damaged"):
        labels_of(AnswerStore(store.path), *(f"Q{n}" for n in range(1, 9_000)))


def test_store_works_without_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect = database._connect
    monkeypatch.setattr(database, "_connect", lambda path, mode: connect(path, f"{mode}&vfs=unix-dotfile"))
    store = filled(tmp_path / "c.sqlite")
    assert "rollback journal" in caplog.text
    assert store.database.read("PRAGMA journal_mode") == [("delete",)]
    assert labels_of(AnswerStore(store.path)) == labels_of(store) == {"Q1": ["Universe", "en"], "Q2": None}


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


_AS_NOBODY = """
import os, sys
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.errors import CacheFileError
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
store = AnswerStore(sys.argv[1])
sys.stdout.write(f"read {store.look_up('wikidata', 'label', ['Q1'])}\\n")
try:
    with store.request_lock():
        pass
except CacheFileError as error:
    sys.stdout.write(f"refused: {error}\\n")
"""


@pytest.mark.parametrize("closed", ["folder and file", "file"])
def test_read_only_cache_is_read_and_sends_no_request(open_to_all: Path, closed: str) -> None:
    path = open_to_all / "c.sqlite"
    filled(path).close()
    shutil.rmtree(open_to_all / "c.sqlite.locks")
    path.chmod(0o444)
    open_to_all.chmod(0o555 if "folder" in closed else 0o777)
    process = subprocess.run([sys.executable, "-c", _AS_NOBODY, str(path)], capture_output=True, text=True, check=True)
    assert "read {'Q1': ['Universe', 'en']}" in process.stdout
    assert f"refused: {path}: cannot be" in process.stdout and "--cache FILE" in process.stdout


@pytest.mark.parametrize("closed", ["folder", "file"])
def test_unreadable_cache_is_reported_as_unreadable(open_to_all: Path, closed: str) -> None:
    path = open_to_all / "c.sqlite"
    filled(path).close()
    open_to_all.chmod(0o755 if closed == "file" else 0o700)
    path.chmod(0o644 if closed == "folder" else 0o000)
    asking = _AS_NOBODY.partition("\ntry:")[0]
    process = subprocess.run([sys.executable, "-c", asking, str(path)], capture_output=True, text=True, check=False)
    *_, message = process.stderr.splitlines()
    assert f"CacheFileError: {path}: cannot be read (" in message and "permissions" in message
    assert "writ" not in message.lower()


def test_lock_folder_is_shared(open_to_all: Path) -> None:
    path = open_to_all / "c.sqlite"
    open_to_all.chmod(0o777)
    with filled(path) as store, store.request_lock(), store.rate_limits.lock("e:80"):
        locks = {file.name for file in (open_to_all / "c.sqlite.locks").iterdir()}
        assert locks == {"making.lock", "asking.lock", "host_e_80.lock"}
    assert {file.name for file in open_to_all.iterdir()} == {"c.sqlite", "c.sqlite.locks"}
    assert (open_to_all / "c.sqlite.locks").stat().st_mode & 0o777 == 0o777


_ON_A_FULL_DISK = """
import resource, signal, sys
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.errors import CacheFileError
from wikidata_cache.sources.source import Exchange, Fact
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
store = AnswerStore(sys.argv[1])
for block in range(1, 1000):
    facts = [Fact("label", f"Q{block}{n:04}", [f"{block} {n} " + "x" * 100, "en"]) for n in range(100)]
    exchange = Exchange("http://e/", "SELECT 1", f"2026-11-20T12:00:00.{block:03}+00:00", 1, 100, "0" * 64, {})
    try:
        store.save("wikidata", "labels/1", facts, exchange)
    except CacheFileError as error:
        sys.stdout.write(f"{block} {error}")
        break
"""


def test_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    process = subprocess.run([sys.executable, "-c", _ON_A_FULL_DISK, path], capture_output=True, text=True, check=True)
    block, _, message = process.stdout.partition(" ")
    assert int(block) > 1
    assert "Free some space" in message and "c.sqlite" in message
    store = AnswerStore(path)
    [[count]] = store.database.read("SELECT count(*) FROM facts")
    assert count == 100 * (int(block) - 1)
    assert store.database.read("PRAGMA integrity_check") == [("ok",)]
    store.save("wikidata", "labels/1", [LABEL], ASKED)  # works again once there is space


_KILLED_IN_A_CHANGE = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode = DELETE")
connection.execute("PRAGMA cache_size = 5")  # so that changed pages are in the file before the commit
connection.execute("UPDATE facts SET value = 'new'")
os._exit(0)
"""


def test_reader_sees_nothing_of_a_change_that_a_kill_cut(tmp_path: Path) -> None:
    """Where the file system has no shared memory, a journal restores the file: a reader must not pass over it."""
    path = tmp_path / "c.sqlite"
    facts = [Fact("label", f"Q{number}", [f"{number} " + "x" * 100, "en"]) for number in range(1, 301)]
    with AnswerStore(path) as store:
        store.save("wikidata", "labels/1", facts, ASKED)
    subprocess.run([sys.executable, "-c", _KILLED_IN_A_CHANGE, path], check=True)
    assert path.with_name("c.sqlite-journal").exists()
    assert AnswerStore(path).database.read("SELECT count(*) FROM facts WHERE value = 'new'") == [(0,)]
    assert not path.with_name("c.sqlite-journal").exists() and labels_of(AnswerStore(path), "Q300")


def _read_and_write(store: AnswerStore, number: int) -> None:
    assert labels_of(store, "Q1")
    store.save("wikidata", "labels/1", [Fact("label", f"Q{100 + number}", None)], ASKED)


@pytest.mark.parametrize("method", keep_first(["fork", "spawn"]))
def test_open_store_works_in_child_processes(tmp_path: Path, method: str) -> None:
    store = filled(tmp_path / "c.sqlite")
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_read_and_write, args=(store, number)) for number in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert len(labels_of(store, "Q1", "Q100", "Q101", "Q102")) == 4
    assert store.database.read("PRAGMA integrity_check") == [("ok",)]


def _close_and_count(store: AnswerStore) -> None:
    store.close()
    assert len(store.database._inherited) == 1


def test_a_forked_child_that_closes_an_unused_store_keeps_the_parents_connection(tmp_path: Path) -> None:
    """If Python closed it in the child, the parent's file could be changed."""
    store = filled(tmp_path / "c.sqlite")
    child = multiprocessing.get_context("fork").Process(target=_close_and_count, args=(store,))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_rate_limit_outlives_the_process(tmp_path: Path) -> None:
    store = filled(tmp_path / "c.sqlite")
    assert store.rate_limits.read("e:80") == RateLimitState()
    with pytest.raises(EndpointError), RateLimiter(store.rate_limits).take_turn("http://e:80/sparql", WaitBudget(1.0)):
        raise EndpointError("http://e:80/sparql", "throttled", "HTTP 429", "Wait.", status=429, retry_after=3600.0)
    store.close()
    again = RateLimiter(AnswerStore(store.path).rate_limits)
    assert 3590 < again.seconds_until_allowed("http://e:80/other") <= 3600
    assert again.seconds_until_allowed("http://f:80/") == 0
    with (
        pytest.raises(EndpointError, match="no request is allowed before"),
        again.take_turn("http://e:80/", WaitBudget(10.0)),
    ):
        pytest.fail("asked all the same")


@pytest.mark.parametrize(
    "state",
    keep_first(
        [
            *("[1]", {"rate": "x"}, "null", "{}", '{"unknown": 1}'),
            *({"not_before": "soon"}, {"held_at": None}, {"at": 1e400}),
        ],
        keep=2,
    ),
)
def test_rate_limit_that_is_no_state_is_refused(tmp_path: Path, state: str | dict[str, object]) -> None:
    store = filled(tmp_path / "c.sqlite")
    text = state if isinstance(state, str) else json.dumps(vars(RateLimitState()) | state)
    with store.database.writing() as connection:
        connection.execute("INSERT INTO pace VALUES ('e:80', ?)", (text,))
    with pytest.raises(CacheFileError, match="is damaged: the rate limit of a host cannot be read"):
        RateLimiter(store.rate_limits).seconds_until_allowed("http://e:80/sparql")
    store.close()
    assert [finding.what for finding in examine(cache=store.path) if not finding.ok] == [f"cache {store.path}"]


def test_cache_and_pack_files_from_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_file().parts[-2:] == ("wikidata-cache", "cache.sqlite")
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "k.sqlite"))
    assert cache_file() == tmp_path / "k.sqlite"
    assert cache_file("other.sqlite") == Path("other.sqlite")
    monkeypatch.setenv("KG_PACKS", os.pathsep.join(["a.sqlite", "b.sqlite"]))
    assert pack_files() == [Path("a.sqlite"), Path("b.sqlite")]
    assert pack_files(["c.sqlite"]) == [Path("c.sqlite")]


def test_effective_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert effective_mode(None, endpoint=True) == "cache_first"
    assert effective_mode(None, endpoint=False) == "offline"
    assert effective_mode("refresh", endpoint=True) == "refresh"
    assert effective_mode(None, endpoint=True, as_of=NOON) == "offline"
    monkeypatch.setenv("KG_OFFLINE", "1")
    assert effective_mode("refresh", endpoint=True) == "offline"
