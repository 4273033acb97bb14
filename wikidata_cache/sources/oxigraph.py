"""Embedded Oxigraph (pyoxigraph) as a source: graph files in memory, or a store on disk that is opened read-only."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from pyoxigraph import Literal, NamedNode, QuerySolutions, Store

from kg_common.ids import is_item
from wikidata_cache.errors import SourceStringError, StoreError, UserQueryError
from wikidata_cache.ids import DIRECT, Statement, local_id
from wikidata_cache.languages import Languages, find_family, list_families
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.sources.source import Binding, Provenance, SparqlSource
from wikidata_cache.sources.user_queries import forbid_service
from wikidata_cache.stores.manifest import LABELS, open_database, read_manifest, store_of, store_read_errors


class OxigraphSource(SparqlSource):
    """A `Source` over a pyoxigraph store; make one with `from_files` or `from_store`.

    Args:
        store: the triples.
        name: the name for messages.
        provenance: where the triples come from.
        files: the graph files of a store in memory.
        folder: the store on disk; None for a store in memory.
        label_file: the label index made by `load`, if there is one.
        languages: the languages of the labels in a store made by `load`, if some were named; None where there may be
            any.
        finds_every_language: whether names are found in every language of the label index, also in those that are not
            asked for.
    """

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        provenance: Provenance,
        files: Sequence[Path] = (),
        folder: Path | None = None,
        label_file: Path | None = None,
        languages: Sequence[str] | None = None,
        finds_every_language: bool = False,
    ) -> None:
        self.files = tuple(path.absolute() for path in files)  # the program may change its working folder
        self.label_file = label_file and label_file.absolute()
        self._store = store
        self._folder = folder
        self._name = name
        self._provenance = provenance
        self.finds_every_language = finds_every_language
        self._languages = languages

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> "OxigraphSource":
        """Load N-Triples and TSV files into memory."""
        store, hashes = load_files(paths)
        records = [{"name": name, "sha256": digest} for name, digest in sorted(hashes.items())]
        return cls(store, name=", ".join(hashes), provenance={"kind": "files", "files": records}, files=paths)

    @classmethod
    def from_store(cls, folder: Path) -> "OxigraphSource":
        """Open a store made by `load`, or a plain Oxigraph folder, read-only."""
        loaded = store_of(folder)
        if loaded is not None:
            return cls._from_loaded(loaded)
        try:
            store = Store.read_only(str(folder))
        except OSError as error:
            raise SourceStringError(
                f"oxigraph:{folder} is not an Oxigraph store ({error}). Make one with "
                f"`wikidata-cache load SOURCE --store FOLDER`, or give the graph file itself."
            ) from error
        with store_read_errors(folder):
            first = next(store.quads_for_pattern(None, None, None, None), None)
            changed = (folder / "CURRENT").stat().st_mtime_ns  # RocksDB writes this file when it opens for writing
        if first is None:  # some network file systems return empty data without an error
            raise SourceStringError(
                f"oxigraph:{folder} contains no triples. Check the folder, and the file system that it is on."
            )
        return cls(
            store,
            name=f"oxigraph:{folder.name}",
            provenance={"kind": "oxigraph", "folder": folder.name, "changed_ns": changed},
            folder=folder,
            label_file=_find_label_file(folder),
        )

    @classmethod
    def _from_loaded(cls, folder: Path) -> "OxigraphSource":
        """Open a store made by `load`, after checking its files."""
        manifest = read_manifest(folder)
        name = folder.resolve().name
        # After `load --keep-all` or `load --language all`, texts may be asked for in any language. Names in languages
        # that are not asked for are found only after --keep-all.
        languages: Sequence[str] | None = manifest.languages
        if manifest.keep_all or manifest.every_language:
            languages = None
        return cls(
            open_database(folder, manifest),
            name=name,
            provenance={"kind": "store", "folder": name, "content_hash": manifest.content_hash},
            folder=folder,
            label_file=folder / LABELS,
            languages=languages,
            finds_every_language=manifest.keep_all,
        )

    @property
    def name(self) -> str:
        """The names of the files, or the name of the store's folder."""
        return self._name

    @property
    def size(self) -> int | None:
        """The number of triples in memory; None for a store on disk, which would be read as a whole."""
        if self._folder is not None:
            return None
        return len(self._store)

    def check_languages(self, languages: Languages) -> None:
        """Refuse languages of which a store made by `load` has no label, because they were not loaded."""
        if self._folder is None or self._languages is None:
            return
        loaded = set(map(find_family, self._languages))
        missing = [family for family in list_families(languages) if family not in loaded]
        if missing:
            problem = f"has no labels in {', '.join(missing)}, but in {', '.join(sorted(loaded))}"
            suggestion = f"Load it again with --force --language {','.join(missing)}, or with --language all"
            raise StoreError(self._folder, f"{problem}. {suggestion}")

    def statements(self) -> Iterator[Statement]:
        """Yield all truthy item-valued statements of the graph, in no order."""
        with self._read_errors():
            for subject, predicate, target, _ in self._store.quads_for_pattern(None, None, None, None):
                if not (isinstance(subject, NamedNode) and isinstance(target, NamedNode)):
                    continue
                if not predicate.value.startswith(DIRECT):
                    continue
                statement = Statement(local_id(subject.value), local_id(predicate.value), local_id(target.value))
                if is_item(statement.subject) and is_item(statement.object):
                    yield statement

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return file names with sha256, a store's content hash, or a plain folder's modification time in ns."""
        return dict(self._provenance)

    def select(self, query: str) -> list[Binding]:
        """Return the rows of a SELECT query."""
        forbid_service(query, "queries of a local graph stay on this machine")
        with self._read_errors():
            try:
                solutions = self._store.query(query)
            except SyntaxError as error:
                raise UserQueryError(
                    f"The query is not SPARQL ({error}). Each prefix must be declared with PREFIX."
                ) from error
            if not isinstance(solutions, QuerySolutions):
                raise UserQueryError("The query does not return rows; write a SELECT query.")
            names = [variable.value for variable in solutions.variables]
            rows = list[Binding]()
            for solution in solutions:
                row = {}
                for name, term in zip(names, solution, strict=True):
                    # Blank nodes are left out: their names have no meaning outside the answer.
                    if isinstance(term, NamedNode | Literal):
                        row[name] = term.value
                rows.append(row)
            return rows

    def _read_errors(self) -> AbstractContextManager[None]:
        """Return a context that turns errors of a store on disk into StoreErrors; a store in memory has none."""
        if self._folder is None:
            return nullcontext()
        return store_read_errors(self._folder)


def _find_label_file(folder: Path) -> Path | None:
    """Return the label index in the folder of a database or in its parent, or None."""
    for path in (folder / LABELS, folder.parent / LABELS):
        if path.is_file():
            return path
    return None
