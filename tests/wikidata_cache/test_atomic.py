"""Files are replaced as a whole, also through a symbolic link."""

import os
import stat
from pathlib import Path

import pytest

from kg_common.atomic import gzipped, replacing, write_atomically
from tests.wikidata_cache.wikidata_helpers import SPIKE, Server
from wikidata_cache import WikidataCache
from wikidata_cache.answers.snapshot import export_snapshot
from wikidata_cache.answers.store import AnswerStore


def test_write_atomically_replaces_the_target_of_a_link(tmp_path: Path, server: Server, cache_path: str) -> None:
    (tmp_path / "big-disk").mkdir()
    for name in ("page.html", "snapshot.jsonl.gz"):
        (tmp_path / name).symlink_to(tmp_path / "big-disk" / name)
    assert write_atomically(tmp_path / "page.html", "text") == tmp_path / "page.html"
    WikidataCache(server.url, cache=cache_path).subgraph(SPIKE)
    export_snapshot(AnswerStore(cache_path), tmp_path / "snapshot.jsonl.gz")
    assert all((tmp_path / name).is_symlink() for name in ("page.html", "snapshot.jsonl.gz"))
    assert sorted(path.name for path in (tmp_path / "big-disk").iterdir()) == ["page.html", "snapshot.jsonl.gz"]
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o644


def test_replacing_leaves_the_old_file_after_an_error(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match=r"No space left.*a\.txt"), replacing(path) as scratch:
        scratch.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_error_names_the_file_that_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError, match=r"source\.txt"), replacing(path) as scratch:
        scratch.write_text((tmp_path / "source.txt").read_text())
    with pytest.raises(OSError, match=r"'[^']*/absent/a\.txt'"), replacing(tmp_path / "absent" / "a.txt"):
        pass


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_replacing_respects_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = write_atomically(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_gzipped_gives_equal_bytes() -> None:
    assert gzipped(b"text") == gzipped(b"text") and gzipped(b"text")[4:8] == bytes(4)  # no time
