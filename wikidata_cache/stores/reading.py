"""Opening a finished store, and a look whether it gives out what it holds."""

from pathlib import Path

from pyoxigraph import Quad, RdfFormat, Store, parse

from wikidata_cache.errors import StoreError
from wikidata_cache.stores.manifest import ENGINE, Manifest


def open_database(folder: Path, manifest: Manifest) -> Store:
    """The database of a store, read-only, once it has given out some triples that the manifest knows to be there.

    Counting all triples would take seconds for each ten millions; these take less than a millisecond. Raises
    StoreError where one is not given out: some network file systems give out nothing, and say nothing.
    """
    try:
        store = Store.read_only(str(folder / ENGINE))
        probes = parse("\n".join(manifest.probes), RdfFormat.N_TRIPLES, lenient=True)
        known = [Quad(triple.subject, triple.predicate, triple.object) for triple in probes]
        lost = sum(quad not in store for quad in known)
    except (OSError, RuntimeError, SyntaxError) as error:
        raise StoreError(folder, f"its database cannot be read ({error}). Load it again with --force") from error
    if lost:
        problem = f"{lost} of {len(known)} triples that were looked for are not there"
        raise StoreError(folder, f"{problem}. Copy the folder to a local disk, or load it again with --force")
    return store
