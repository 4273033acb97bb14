"""What a cache file holds, counted, and whether SQLite finds it whole."""

from dataclasses import dataclass
from pathlib import Path

from wikidata_cache.answers.database import Database
from wikidata_cache.answers.values import unpack
from wikidata_cache.errors import CacheFileError


@dataclass(frozen=True)
class Inventory:
    """`facts` by graph and kind, requests in the log, the oldest and the newest answer (UTC), and what hosts said."""

    facts: dict[tuple[str, str], int]
    requests: int
    span: tuple[str, str] | None
    hosts: dict[str, dict[str, object]]


def take_inventory(path: Path) -> Inventory | None:
    """Look through a cache file, without changing it; None where there is none yet.

    Raises CacheFileError where it is damaged, of another format, or cannot be read.
    """
    if not path.exists():
        return None
    database = Database(path, read_only=True)
    try:
        broken = [row[0] for row in database.read("PRAGMA integrity_check") if row[0] != "ok"]
        if broken:
            raise CacheFileError(path, f"is damaged ({broken[0]})", "Import a snapshot into a new file, or delete it.")
        counted = database.read("SELECT graph, kind, count(*) FROM facts GROUP BY graph, kind ORDER BY graph, kind")
        first, last = (database.read("SELECT min(fetched_at), max(fetched_at) FROM facts") or [(None, None)])[0]
        return Inventory(
            facts={(graph, kind): count for graph, kind, count in counted},
            requests=sum(count for (count,) in database.read("SELECT count(*) FROM queries")),
            span=(first, last) if first else None,
            hosts={host: unpack(state) for host, state in database.read("SELECT host, state FROM pace ORDER BY host")},
        )
    finally:
        database.close()
