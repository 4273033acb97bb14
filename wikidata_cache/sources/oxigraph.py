"""Embedded Oxigraph: graph files in memory, or a store on disk opened for reading only."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pyoxigraph import Literal, NamedNode, QuerySolutions, Store

from wikidata_cache.errors import SourceStringError
from wikidata_cache.sources.answer import Row
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.sources.source import Provenance, SparqlSource


class OxigraphSource(SparqlSource):
    """A `Source` over a pyoxigraph store. Make one with `from_files` or `from_folder`."""

    def __init__(self, store: Store, *, name: str, provenance: Provenance) -> None:
        self._store = store
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
        """Open an on-disk Oxigraph store read-only; raises SourceStringError where there is none."""
        try:
            store = Store.read_only(str(folder))
        except OSError as error:
            raise SourceStringError(
                f"oxigraph:{folder} is no Oxigraph store ({error}). Make one with pyoxigraph's "
                f"Store(path).bulk_load(...), or give the graph file itself."
            ) from error
        if next(store.quads_for_pattern(None, None, None, None), None) is None:
            raise SourceStringError(f"oxigraph:{folder} holds no triples. Check the folder, and the file system.")
        changed = (folder / "CURRENT").stat().st_mtime_ns
        return cls(
            store,
            name=f"oxigraph:{folder.name}",
            provenance={"kind": "oxigraph", "folder": folder.name, "changed_ns": changed},
        )

    @property
    def name(self) -> str:
        """The file names, or the store's folder."""
        return self._name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """File names with sha256, or the store's folder with its time of change in nanoseconds."""
        return dict(self._provenance)

    def select(self, query: str) -> list[Row]:
        """The rows of a SELECT query."""
        solutions = self._store.query(query)
        if not isinstance(solutions, QuerySolutions):
            raise TypeError("expected a SELECT query")
        names = [variable.value for variable in solutions.variables]
        return [_row(names, tuple(solution)) for solution in solutions]


def _row(names: Sequence[str], terms: Sequence[object]) -> Row:
    return {n: t.value for n, t in zip(names, terms, strict=True) if isinstance(t, NamedNode | Literal)}
