"""Opening a finished store, and a look whether it gives out what it holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyoxigraph import Quad, RdfFormat, Store, parse

from wikidata_cache.errors import StoreError
from wikidata_cache.stores.checksums import AGAIN
from wikidata_cache.stores.manifest import ENGINE, Manifest, is_engine, read_manifest, store_of


def open_database(folder: Path, manifest: Manifest) -> Store:
    """The database of a store, read-only, once it has given out some triples that the manifest knows to be there.

    Counting all triples would take seconds for each ten millions; these take less than a millisecond. Raises
    StoreError where one is not given out: some network file systems give out nothing, and say nothing.
    """
    with reading(folder):
        store = Store.read_only(str(folder / ENGINE))
        probes = parse("\n".join(manifest.probes), RdfFormat.N_TRIPLES, lenient=True)
        known = [Quad(triple.subject, triple.predicate, triple.object) for triple in probes]
        lost = sum(quad not in store for quad in known)
    if lost:
        problem = f"{lost} of {len(known)} triples that were looked for are not there"
        raise StoreError(folder, f"{problem}. Copy the folder to a local disk, or load it again with --force")
    return store


def engine_folder(folder: Path) -> Path:
    """The Oxigraph database of a store, or the folder itself where it is one; raises StoreError."""
    store = store_of(folder)
    if store is None and is_engine(folder):
        return folder
    store = store or folder
    open_database(store, read_manifest(store))
    return store / ENGINE


def count_triples(folder: Path) -> int:
    """The triples of an Oxigraph database, each of them read; raises StoreError where one cannot be."""
    with reading(folder):
        return sum(1 for _ in Store.read_only(str(folder)))


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn what the engine complains of while it reads into a StoreError that names the folder."""
    try:
        yield
    except (OSError, RuntimeError, SyntaxError) as error:
        way_out = f"Copy it again from where it came, or {AGAIN.format(folder=folder)}"
        problem = f"its database cannot be read, so it is damaged, or the disk is ({error})"
        raise StoreError(folder, f"{problem}. {way_out}") from error
