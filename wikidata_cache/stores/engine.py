"""The database of an unfinished store: adding triples, ordering them for good, going through all of them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pyoxigraph import DefaultGraph, RdfFormat, Store

from wikidata_cache.errors import StoreError
from wikidata_cache.stores.batches import added, content_hash
from wikidata_cache.stores.lines import statement_numbers
from wikidata_cache.stores.manifest import ENGINE

_BLOCK = 16 << 20
_FULL = "free some space or give another --store, and run the same command again: it goes on where it stopped"


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what the disk and the database complain of into a StoreError that names the target."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise StoreError(target, f"cannot be written ({error}); {_FULL}") from error


class Database:
    """An Oxigraph database that is being written. Use as a context manager.

    The engine gives up its lock when its object is gone, and an error on its way up would keep that alive: so
    nothing but this object holds it.
    """

    def __init__(self, folder: Path) -> None:
        _allow_many_files()
        self._store: Store | None = Store(str(folder / ENGINE))

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self._store = None

    @property
    def store(self) -> Store:
        """The open database; not to be kept."""
        if self._store is None:
            raise RuntimeError("the database is closed")
        return self._store

    def add(self, parts: Sequence[bytes]) -> None:
        """Add the triples of all parts, each on a core of its own; SyntaxError where one is no N-Triples."""
        # The engine lets Python go on meanwhile, so the next batch is read in yet another thread.
        with ThreadPoolExecutor(len(parts) or 1) as threads:
            list(threads.map(self._add, parts))
        self.store.flush()

    def _add(self, triples: bytes) -> None:
        self.store.bulk_load(triples, RdfFormat.N_TRIPLES, lenient=True)

    def optimize(self) -> int:
        """Order everything for reading; returns the number of triples."""
        self.store.flush()
        self.store.optimize()
        return len(self.store)

    def survey(self) -> tuple[int, int]:
        """The content hash and the number of statements, from what is stored: slower than loading it."""
        counter = _Counter()
        self.store.dump(counter, RdfFormat.N_TRIPLES, from_graph=DefaultGraph())  # type: ignore[arg-type]
        counter.flush()
        return counter.content_hash, counter.statements


class _Counter:
    """A file that keeps nothing of what is written into it but its hash and its number of statements."""

    def __init__(self) -> None:
        self.content_hash = 0
        self.statements = 0
        self._rest = bytearray()

    def write(self, text: bytes) -> int:
        self._rest += text
        if len(self._rest) > _BLOCK:
            whole, _, rest = bytes(self._rest).rpartition(b"\n")
            self._count(whole.split(b"\n"))
            self._rest = bytearray(rest)
        return len(text)

    def flush(self) -> None:
        if self._rest.endswith(b"\n"):
            self._count(bytes(self._rest[:-1]).split(b"\n"))
            self._rest.clear()

    def _count(self, lines: Sequence[bytes]) -> None:
        self.content_hash = added(self.content_hash, content_hash(lines))
        self.statements += len(statement_numbers(lines))


def _allow_many_files() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
