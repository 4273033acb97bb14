"""Load graph files into an in-memory Oxigraph store: N-Triples and TSV, plain or gzipped.

TSV rows have three columns: `subject property object` as ids (`Q42 P31 Q5`), or `subject label text` for an English
label (`Q42 label Douglas Adams`, also `P31 label instance of`). Blank lines are skipped, and so is a header: a first
line whose first cell is one of `SUBJECT_COLUMNS`, such as "subject", "head" or "from". Files are UTF-8. For bigger
inputs, `stores/load.py` makes a store on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from pyoxigraph import Literal, NamedNode, Quad, RdfFormat, Store

from kg_common.ids import is_entity, is_item, is_property
from kg_common.progress import Bar
from kg_common.rows import SUBJECT_COLUMNS
from wikidata_cache.errors import GraphFileError, PrivateGraphError, WikidataCacheError
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL
from wikidata_cache.stores.inputs import OPENED_WITHOUT_LOAD, is_graph_file, sibling_labels

logger = logging.getLogger(__name__)

_PROGRESS_FROM = 5_000_000  # bytes on disk; smaller files load in well under a second and get no progress bar
_LONGEST_LINE = 1 << 20  # bytes of a TSV row


def load_files(paths: Sequence[Path]) -> tuple[Store, dict[str, str]]:
    """Load files into one store; return the store and {file name: sha256}.

    Files in two folders that have the same name are under their paths instead. If the files have no labels, a labels
    file in the same folder is loaded too; without any label, a warning is logged.
    """
    store = Store()
    names = [path.name for path in paths]
    hashes = {}
    for path in paths:
        unique = path.name
        if names.count(path.name) > 1:
            unique = str(path)
        hashes[unique] = load_file(store, path)
    if not len(store):
        raise GraphFileError(paths[0], "contains no statement; expected lines such as 'Q42<tab>P31<tab>Q5'")
    sibling = None
    if not _has_labels(store):
        sibling = sibling_labels(paths)
    if sibling is not None:
        logger.info("No labels in %s; also loading %s from the same folder", ", ".join(hashes), sibling.name)
        hashes[sibling.name] = load_file(store, sibling)
    if not _has_labels(store):
        logger.warning(
            "%s: no labels in this graph, and statements without labels are left out of every subgraph. "
            "Put labels.nt.gz into the same folder, or give it as another source",
            ", ".join(map(str, paths)),
        )
    return store, hashes


def load_file(store: Store, path: Path) -> str:
    """Add the triples of one file to the store, and return the sha256 of the file's bytes."""
    if not is_graph_file(path):
        raise GraphFileError(path, f"is not a graph file; expected a name ending in {', '.join(OPENED_WITHOUT_LOAD)}")
    with open_graph_file(path) as reader:
        if path.name.lower().endswith((".tsv", ".tsv.gz")):
            store.bulk_extend(_read_tsv_quads(reader, path))
        else:
            try:
                # Wikidata's dumps have a few invalid IRIs and languages; `load` takes them too.
                store.bulk_load(cast(IO[bytes], reader), RdfFormat.N_TRIPLES, lenient=True)
            except SyntaxError as error:
                raise GraphFileError(path, f"is not N-Triples: {error.msg}", line=error.lineno) from error
            except MemoryError as error:  # the parser's buffer ends at 16 MiB
                problem = "has a line of more than 16 MiB, which no dump has; fetch the file again"
                raise GraphFileError(path, problem, line=reader.lines + 1) from error
        if not reader.begun:
            raise GraphFileError(path, "is empty; expected N-Triples or TSV rows")
        return reader.sha256()


@contextmanager
def open_graph_file(path: Path) -> Iterator[CountingReader]:
    """Open a file for reading; an error of the disk or of its compression becomes a GraphFileError that names it."""
    try:
        reader = CountingReader(path)
    except OSError as error:
        raise _explain_unreadable(path, error) from error
    try:
        with reader:
            yield reader
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problem = f"corrupt or cut-off gzip ({error}); fetch the file again"
        raise GraphFileError(path, problem, line=reader.lines + 1) from error
    except OSError as error:
        raise _explain_unreadable(path, error) from error


def _explain_unreadable(path: Path, error: OSError) -> GraphFileError:
    """Return the error for a file that is missing, or that the system can't read."""
    if isinstance(error, FileNotFoundError):
        return GraphFileError(path, "does not exist; check the path")
    return GraphFileError(path, f"cannot be read ({error.strerror or error})")


def _read_tsv_quads(reader: CountingReader, path: Path) -> Iterator[Quad]:
    """Yield the statements and labels of a TSV file, one a line; blank lines and a header are skipped."""
    nothing_read = True  # neither a statement nor a label so far
    encoding = "utf-8-sig"  # a file may begin with a byte order mark
    for number, row in enumerate(reader, start=1):
        try:
            line = row.decode(encoding).rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise GraphFileError(path, f"is not UTF-8 ({error.reason}); convert it", line=number) from error
        encoding = "utf-8"
        cells = [cell.strip() for cell in line.split("\t")]
        if not line.strip() or (number == 1 and cells[0].lower() in SUBJECT_COLUMNS):
            continue
        quad = _read_quad(cells)
        if quad is None:
            raise _explain_bad_row(path, number, cells, nothing_read=nothing_read)
        yield quad
        nothing_read = False


def _read_quad(cells: Sequence[str]) -> Quad | None:
    """Return the statement or the label of a row; None if it is neither."""
    if len(cells) != 3:
        return None
    subject, relation, value = cells
    if is_entity(subject) and relation == "label" and value:
        return Quad(NamedNode(ENTITY + subject), NamedNode(RDFS_LABEL), Literal(value, language="en"))
    if is_item(subject) and is_property(relation) and is_item(value):
        return Quad(NamedNode(ENTITY + subject), NamedNode(DIRECT + relation), NamedNode(ENTITY + value))
    return None


def _explain_bad_row(path: Path, number: int, cells: Sequence[str], *, nothing_read: bool) -> WikidataCacheError:
    """Return the error for a row that can't be read. Three names in the first row tell that the graph is private."""
    if nothing_read and len(cells) == 3:
        subject, relation, value = cells
        if value and not (is_entity(subject) or is_property(relation)):
            return PrivateGraphError(path)
    expected = "expected three tab-separated cells: Q42 P31 Q5, or Q42 label text"
    return GraphFileError(path, f"found {' | '.join(cells)!r}; {expected}", line=number)


def _has_labels(store: Store) -> bool:
    for _ in store.quads_for_pattern(None, NamedNode(RDFS_LABEL), None, None):
        return True
    return False


class CountingReader:
    """Reads a file, unzips it if its name ends in .gz, and counts the lines.

    It is read either by `read`, as the engine does, or line by line. `lines` is the number of line ends read so far,
    `begun` whether anything was read. A progress bar appears on stderr for files of 5 MB or more. Use it as a context
    manager.
    """

    def __init__(self, path: Path) -> None:
        self.lines = 0
        self.begun = False
        self._path = path
        self._raw: IO[bytes] = path.open("rb")
        self._file: IO[bytes] = self._raw
        if path.name.lower().endswith(".gz"):
            self._file = cast(IO[bytes], gzip.GzipFile(fileobj=self._raw))
        size = path.stat().st_size
        self._bar = Bar(title=path.name, unit="B", total=size, shown=size >= _PROGRESS_FROM, leave=False)

    def __enter__(self) -> CountingReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._raw.close()

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` unzipped bytes, without a byte order mark; all remaining bytes for -1."""
        chunk = self._file.read(size)
        if not self.begun:  # only a file begins with the mark
            chunk = chunk.removeprefix(BOM_UTF8)
        self.lines += chunk.count(b"\n")
        self.begun = self.begun or bool(chunk)
        self._bar.update(self._raw.tell() - self._bar.n)
        return chunk

    def __iter__(self) -> Iterator[bytes]:
        """Yield the unzipped lines with their line ends; the first one may begin with a byte order mark."""
        while line := self._file.readline(_LONGEST_LINE):
            self.lines += 1
            self.begun = True
            if len(line) == _LONGEST_LINE:
                raise GraphFileError(self._path, f"has a line of more than {_LONGEST_LINE} bytes", line=self.lines)
            if not self.lines % 10_000:
                self._bar.update(self._raw.tell() - self._bar.n)
            yield line

    def sha256(self) -> str:
        """Return the sha256 of the file's bytes on disk (before unzipping), as hex."""
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
