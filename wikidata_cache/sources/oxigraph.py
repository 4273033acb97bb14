"""Embedded Oxigraph (pyoxigraph) as a source: graph files in memory, or a store on disk opened for reading only."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from pyoxigraph import Literal, NamedNode, QuerySolutions, Store

from wikidata_cache.errors import SourceStringError, UserQueryError
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.sources.source import Binding, Provenance, SparqlSource
from wikidata_cache.sources.user_queries import forbid_service
from wikidata_cache.stores.manifest import LABELS, open_database, read_manifest, store_of, store_read_errors


class OxigraphSource(SparqlSource):
    """A `Source` over a pyoxigraph store; make one with `from_files` or `from_store`.

    `folder` is the store on disk, None in memory; `label_file` is its label index, where `load` has made one.
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        provenance: Provenance,
        folder: Path | None = None,
        label_file: Path | None = None,
    ) -> None:
        self.label_file = label_file  # the label index that `load` has put beside a store
        self._store = store
        self._folder = folder
        self._name = name
        self._provenance = provenance

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> "OxigraphSource":
        """Load N-Triples and TSV files into memory; raises GraphFileError."""
        store, hashes = load_files(paths)
        files = [{"name": name, "sha256": digest} for name, digest in sorted(hashes.items())]
        return cls(store, name=", ".join(hashes), provenance={"kind": "files", "files": files})

    @classmethod
    def from_store(cls, folder: Path) -> "OxigraphSource":
        """Open a store made by `load`, or a plain Oxigraph folder, for reading only.

        Raises StoreError where a store is not whole, damaged or of another version, SourceStringError where there
        is none.
        """
        folder = folder.expanduser()
        if loaded := store_of(folder):
            return cls._from_loaded(loaded)
        try:
            store = Store.read_only(str(folder))
        except OSError as error:
            raise SourceStringError(
                f"oxigraph:{folder} is no Oxigraph store ({error}). Make one with "
                f"`wikidata-cache load SOURCE --store FOLDER`, or give the graph file itself."
            ) from error
        with store_read_errors(folder):
            some = next(store.quads_for_pattern(None, None, None, None), None)
            changed = (folder / "CURRENT").stat().st_mtime_ns
        if some is None:
            raise SourceStringError(f"oxigraph:{folder} holds no triples. Check the folder, and the file system.")
        return cls(
            store,
            name=f"oxigraph:{folder.name}",
            provenance={"kind": "oxigraph", "folder": folder.name, "changed_ns": changed},
            folder=folder,
            label_file=next((path for path in (folder / LABELS, folder.parent / LABELS) if path.is_file()), None),
        )

    @classmethod
    def _from_loaded(cls, folder: Path) -> "OxigraphSource":
        manifest = read_manifest(folder)
        store, name = open_database(folder, manifest), folder.resolve().name
        provenance: Provenance = {"kind": "store", "folder": name, "content_hash": manifest.content_hash}
        return cls(store, name=name, provenance=provenance, folder=folder, label_file=folder / LABELS)

    @property
    def name(self) -> str:
        """The names of the files, or of the store's folder."""
        return self._name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """File names with sha256, a store's content hash, or a plain folder with its time of change in nanoseconds."""
        return dict(self._provenance)

    def select(self, query: str) -> list[Binding]:
        """The rows of a SELECT query.

        Raises UserQueryError where it is no SELECT query, ServiceForbiddenError for SERVICE: the engine would
        open a connection; and StoreError where the database turns out to be damaged.
        """
        forbid_service(query, "a graph on this machine opens none")
        with store_read_errors(self._folder) if self._folder else nullcontext():
            return self._rows(query)

    def _rows(self, query: str) -> list[Binding]:
        try:
            solutions = self._store.query(query)
        except SyntaxError as error:
            raise UserQueryError(f"The query is not SPARQL ({error}). Each prefix needs a PREFIX.") from error
        if not isinstance(solutions, QuerySolutions):
            raise UserQueryError("The query has no rows to give; write a SELECT query.")
        names = [variable.value for variable in solutions.variables]
        kinds = (NamedNode, Literal)  # no blank nodes: their names mean nothing outside the answer
        return [{n: t.value for n, t in zip(names, row, strict=True) if type(t) in kinds} for row in solutions]
