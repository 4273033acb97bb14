"""Packs: cache files of others, read below the user's own and never written."""

from pathlib import Path

from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.errors import CacheFileError

_GZIP = b"\x1f\x8b"


def open_pack(path: str | Path) -> AnswerStore:
    """A cache file for reading only.

    Raises CacheFileError where there is none, where it is a snapshot that is still to be imported, and where
    it is of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CacheFileError(path, "there is no such pack", "Check --pack (packs=...) and KG_PACKS.")
    with path.open("rb") as file:
        start = file.read(2)
    if start == _GZIP or path.name.endswith((".jsonl", ".jsonl.gz")):
        target = path.with_name(path.name.removesuffix(".gz").removesuffix(".jsonl") + ".sqlite")
        way_out = f"Make a cache file of it: wikidata-cache import {path} --cache {target}"
        raise CacheFileError(path, "is a snapshot, no cache file", way_out)
    store = AnswerStore(path, read_only=True)
    store.database.read("SELECT 1")  # its format is checked now, not in the middle of a run
    return store
