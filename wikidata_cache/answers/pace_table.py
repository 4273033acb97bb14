"""How hosts want to be treated, written down in the cache file, so that a Retry-After outlives the process."""

from contextlib import AbstractContextManager
from dataclasses import asdict, fields

from wikidata_cache.answers.database import Database
from wikidata_cache.answers.values import dumps, unpack
from wikidata_cache.endpoints.pace_state import PaceState


class StoredPaceBook:
    """The `PaceBook` of all processes that share a cache file. Its methods raise CacheFileError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, host: str) -> PaceState:
        """What is known of a host; `PaceState()` for one never asked."""
        rows = self._database.read("SELECT state FROM pace WHERE host = ?", (host,))
        if not rows:
            return PaceState()
        known = {field.name for field in fields(PaceState)}
        return PaceState(**{name: value for name, value in unpack(rows[0][0]).items() if name in known})

    def write(self, host: str, state: PaceState) -> None:
        """Remember a host's state."""
        if state == self.read(host):
            return  # as for every request to a host without a known limit
        with self._database.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO pace VALUES (?, ?)", (host, dumps(asdict(state))))

    def turn(self, host: str) -> AbstractContextManager[object]:
        """While it is held, no other process with this cache sends a request to the host."""
        return self._database.alone(f"host {host}")
