"""Files are replaced whole, where they really are."""

from pathlib import Path

from tests.wikidata_cache.wikidata_helpers import SPIKE, Server
from wikidata_cache import WikidataCache
from wikidata_cache.answers.snapshot import export_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.atomic import write_atomically


def test_write_atomically_leaves_symbolic_links(tmp_path: Path, server: Server, cache_path: str) -> None:
    (tmp_path / "big-disk").mkdir()
    for name in ("page.html", "snapshot.jsonl.gz"):
        (tmp_path / name).symlink_to(tmp_path / "big-disk" / name)
    assert write_atomically(tmp_path / "page.html", "text") == tmp_path / "page.html"
    WikidataCache(server.url, cache=cache_path).subgraph(SPIKE)
    export_snapshot(AnswerStore(cache_path), tmp_path / "snapshot.jsonl.gz")
    assert all((tmp_path / name).is_symlink() for name in ("page.html", "snapshot.jsonl.gz"))
    assert sorted(path.name for path in (tmp_path / "big-disk").iterdir()) == ["page.html", "snapshot.jsonl.gz"]
