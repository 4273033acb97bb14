"""Dumps and graph files into a store on disk: streamed, resumable, and swapped in when it is whole.

The unfinished store: a folder beside the target, with a record of how far its loading has come.

Every batch is added to the database before the record says so, and adding a triple twice is adding it once: a
loading that was killed goes on after the last recorded batch and ends in the same store.

The steps from sources to a whole store in the folder of the unfinished one; each can be taken again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from wikidata_cache.atomic import write_atomically
from wikidata_cache.errors import BadOptionError, GraphFileError, LabelIndexError, StoreError
from wikidata_cache.ids import LANGUAGES, release
from wikidata_cache.labels.label_index import LabelCounts
from wikidata_cache.stores.chunks import Batch, Chunk, ChunkReader, added, ahead, batches, open_chunks
from wikidata_cache.stores.engine import Database, count_ids, index_names, writing
from wikidata_cache.stores.inputs import BadLines, Input, detect, find_inputs, sibling_labels
from wikidata_cache.stores.manifest import (
    FORMAT,
    LABELS,
    MANIFEST,
    Counts,
    Manifest,
    SourceFile,
    is_store,
    open_database,
    read_manifest,
    stored_files,
)

logger = logging.getLogger(__name__)

PROGRESS = "progress.json"
NAMES = "names.nt"  # lines with labels and aliases, for the label index
WEIGHTS = "weights.i64"  # pairs of an id's number (negative for properties) and how many statements it is in
_LOCK = "lock"
_UNFINISHED = (f"{LABELS}.*.tmp", f".{PROGRESS}-*", f".{MANIFEST}-*")  # what a kill leaves of a file in the making


@dataclass
class Progress:
    """How far a loading has come; `plan` says of what, and another plan starts over."""

    plan: list[object]
    done: list[SourceFile] = field(default_factory=list)
    offset: int = 0  # bytes of the current source, unzipped
    lines: int = 0
    kept: int = 0
    statements: int = 0
    content_hash: int = 0
    names: int = 0  # bytes of the spools
    weights: int = 0
    skipped: int = 0
    probes: list[str] = field(default_factory=list)

    @property
    def triples(self) -> int:
        """Lines kept of all sources so far."""
        return self.kept + sum(source["kept"] for source in self.done)


class Work:
    """The folder of an unfinished store. Use `open_work`."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress
        _sweep(folder)
        for name, size in ((NAMES, progress.names), (WEIGHTS, progress.weights)):
            with (folder / name).open("ab") as file:
                file.truncate(size)

    def spool(self, name: str, content: bytes) -> int:
        """Add to a spool, for good; returns its new size."""
        with (self.folder / name).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def record(self) -> None:
        """Say that everything up to here has been added."""
        write_atomically(self.folder / PROGRESS, json.dumps(asdict(self.progress)))


@contextmanager
def open_work(target: Path, plan: list[object]) -> Iterator[Work]:
    """The work on `target`: what an interrupted loading with the same plan has left, or a new folder.

    Raises StoreError where another process is at it, or the folder is not ours.
    """
    folder = target.with_name(f"{target.name}.loading")
    if folder.exists() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise StoreError(folder, "is in the way, and no unfinished store; move it, or give another --store")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            if not (folder / _LOCK).exists():  # its last owner has just swapped it in
                raise StoreError(target, "another process has just finished loading it")
            yield Work(folder, _resumed(folder, plan) or _started(folder, plan))
    except Timeout as error:
        raise StoreError(target, "another process is loading it just now; wait for it") from error


def swap_in(folder: Path, target: Path) -> None:
    """Put a finished store in the place of an older one, and only then delete that."""
    aside = _aside(target)
    _sweep(folder)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
    try:
        folder.replace(target)
    except OSError:
        restore(target)
        raise
    for name in (NAMES, WEIGHTS, PROGRESS, _LOCK):
        (target / name).unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete an unfinished store that is of no use; only while it is locked."""
    shutil.rmtree(folder, ignore_errors=True)


def restore(target: Path) -> None:
    """Bring back a store that was put aside for another one that then did not come."""
    if not target.exists() and _aside(target).exists():
        _aside(target).replace(target)


def _sweep(folder: Path) -> None:
    for pattern in _UNFINISHED:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.replaced")


def _resumed(folder: Path, plan: list[object]) -> Progress | None:
    try:
        found = Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if found.plan != json.loads(json.dumps(plan)):
        logger.info("%s was left by a loading of other sources or options; starting over", folder)
        return None
    logger.info("Going on where an earlier loading stopped: %d triples are in", found.triples)
    return found


def _started(folder: Path, plan: list[object]) -> Progress:
    for path in folder.iterdir():
        if path.name != _LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Progress(plan)


_PROBES = 16


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What is kept of the sources, and whether lines that cannot be read are left out or end the loading."""

    keep_all: bool = False
    skip_bad_lines: bool = False
    languages: Sequence[str] = LANGUAGES


@dataclass(frozen=True)
class LoadReport:
    """The new store's manifest; the seconds that the triples and the label index took; bad lines left out."""

    manifest: Manifest
    seconds: float
    label_seconds: float
    skipped: int


def build(work: Work, inputs: Sequence[Input], options: LoadOptions) -> LoadReport:
    """Load, optimise, index, look at the result, and write the manifest last.

    Raises GraphFileError, StoreError or LabelIndexError.
    """
    begun = time.perf_counter()
    triples = _load_all(work, inputs, options)
    loaded = time.perf_counter()
    logger.info("Building the label index")
    labels = index_names(work.folder / LABELS, work.folder / NAMES, work.folder / WEIGHTS)
    manifest = _manifest(work, options, triples, labels)
    open_database(work.folder, manifest)
    write_atomically(work.folder / MANIFEST, manifest.as_json())
    return LoadReport(manifest, loaded - begun, time.perf_counter() - loaded, work.progress.skipped)


def _load_all(work: Work, inputs: Sequence[Input], options: LoadOptions) -> int:
    """Bring all sources into the database; returns its number of triples."""
    with Database(work.folder) as database:
        for source in inputs[len(work.progress.done) :]:
            _load_source(work, database, source, options)
        for source in _labels_beside(work, inputs):
            _load_source(work, database, source, options)
        _check_kept(work, inputs)
        logger.info("Optimising %d triples", work.progress.triples)
        triples = database.optimize()
        if triples != work.progress.triples:
            logger.info("Some triples came more than once; going through all to count each once")
            work.progress.content_hash, work.progress.statements = database.survey()
    return triples


def _load_source(work: Work, database: Database, source: Input, options: LoadOptions) -> None:
    """The rest of one file, batch by batch, and then its place in the record."""
    progress = work.progress
    bad = BadLines(source.path, leave_out=options.skip_bad_lines)
    translate = source.translate(options.languages, keep_all=options.keep_all, bad=bad)
    with open_chunks(source.path) as reader:
        chunks = source.checked(reader.chunks(start=progress.offset, lines=progress.lines), bad)
        read = batches(_whole(chunks) if source.kind == "CoDEx labels" else chunks, translate)
        with closing(ahead(read)) as coming:
            for batch in coming:
                _add(database, batch, source.path)
                _note(work, batch)
        progress.done.append(_source_file(source, reader, work))
    progress.offset = progress.lines = progress.kept = 0
    progress.skipped += bad.count
    work.record()


def _add(database: Database, batch: Batch, path: Path) -> None:
    try:
        database.add(batch.triples)
    except SyntaxError as error:  # what no quick look has found; the engine's line is one of the kept ones
        problem = f"is not N-Triples before line {batch.lines}: {error.msg}"
        raise GraphFileError(path, problem) from error


def _note(work: Work, batch: Batch) -> None:
    progress = work.progress
    progress.names = work.spool(NAMES, batch.names)
    progress.weights = work.spool(WEIGHTS, batch.weights)
    progress.offset, progress.lines = batch.end, batch.lines
    progress.kept += batch.kept
    progress.statements += batch.statements
    progress.content_hash = added(progress.content_hash, batch.content_hash)
    if batch.probe and len(progress.probes) < _PROBES:
        progress.probes.append(batch.probe)
    work.record()


def _source_file(source: Input, reader: ChunkReader, work: Work) -> SourceFile:
    return SourceFile(
        name=source.path.name,
        kind=source.kind,
        bytes=source.path.stat().st_size,
        sha256=reader.sha256,
        lines=work.progress.lines,
        kept=work.progress.kept,
    )


def _whole(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    parts = list(chunks)
    if parts:
        yield Chunk(b"".join(part.lines for part in parts), parts[0].first, parts[-1].end)


def _labels_beside(work: Work, inputs: Sequence[Input]) -> list[Input]:
    """A labels file beside sources that hold no label, as when graph files are opened directly."""
    if len(work.progress.done) > len(inputs) or (work.progress.names and not work.progress.offset):
        return []
    sibling = sibling_labels([source.path for source in inputs])
    if sibling is None:
        logger.warning("No labels in these sources: statements without labels stay out of every subgraph")
        return []
    logger.info("No labels in these sources; loading %s beside them", sibling.name)
    return [detect(sibling)]


def _check_kept(work: Work, inputs: Sequence[Input]) -> None:
    if not work.progress.triples:
        names = ", ".join(source.path.name for source in inputs)
        raise GraphFileError(
            inputs[0].path,
            f"nothing of {names} is kept: no item-valued Wikidata statement, no label in a language wanted. "
            f"Keep every triple with --keep-all, or give another source",
        )


def _manifest(work: Work, options: LoadOptions, triples: int, labels: LabelCounts) -> Manifest:
    progress = work.progress
    ids = count_ids(work.folder / WEIGHTS)
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        package=release(),
        content_hash=f"{progress.content_hash:032x}",
        counts=Counts(
            triples=triples,
            statements=progress.statements,
            items=ids.items,
            properties=ids.properties,
            named=labels.entities,
            labels=labels.labels,
            aliases=labels.aliases,
        ),
        sources=progress.done,
        keep_all=options.keep_all,
        languages=list(options.languages),
        files=stored_files(work.folder),
        probes=progress.probes,
    )


__all__ = ["LoadOptions", "LoadReport", "load"]


def load(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    force: bool = False,
    options: LoadOptions | None = None,
) -> LoadReport:
    """Make a store of the sources: graph files, Wikidata dumps, folders of them, or CoDEx folders.

    The store is built in a folder beside it (`STORE.loading`), and takes the place of an older one (only with
    `force`) when it is whole. A loading that was interrupted goes on where it stopped when it is called again
    with the same files and options. Memory stays bounded whatever the size.

    Raises GraphFileError for a source that cannot be read, naming file and line; StoreError where a store is
    in the way, another process is loading it, or it cannot be written; BadOptionError without any source.
    """
    if not sources:
        raise BadOptionError("Nothing to load; name at least one file or folder.")
    options = options or LoadOptions()
    target = Path(store).expanduser().resolve()
    inputs = find_inputs(Path(source) for source in sources)
    with writing(target):
        restore(target)
        _check_target(target, force=force)
        with open_work(target, _plan(inputs, options)) as work:
            report = _finish(work, inputs, options)
            swap_in(work.folder, target)
    return report


def _finish(work: Work, inputs: Sequence[Input], options: LoadOptions) -> LoadReport:
    if is_store(work.folder):  # a kill came between the last step and the swap
        return LoadReport(_finished(work.folder), 0.0, 0.0, work.progress.skipped)
    try:
        return build(work, inputs, options)
    except GraphFileError as error:
        raise GraphFileError(error.path, f"{error.problem}. {_left(work)}", line=error.line) from error
    except LabelIndexError as error:
        raise OSError(str(error)) from error


def _finished(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except StoreError as error:
        discard(folder)
        raise StoreError(folder, f"had been damaged ({error}) and was deleted; run the same command again") from error


def _left(work: Work) -> str:
    """What is left of a loading that could not go on, in words; without a triple, nothing is."""
    if not work.progress.triples:
        discard(work.folder)
        return "Nothing was loaded"
    return (
        f"The {work.progress.triples} triples before it are kept in {work.folder}: the same command goes on from there "
        f"(with --skip-bad-lines past what cannot be read), and starts over once a source has changed"
    )


def _check_target(target: Path, *, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not is_store(target):
        raise StoreError(target, "is there already, and is no store; give another --store")
    if not force:
        raise StoreError(target, "is a store already; replace it with --force, or give another --store")


def _plan(inputs: Sequence[Input], options: LoadOptions) -> list[object]:
    files = [[str(i.path.absolute()), i.path.stat().st_size, i.path.stat().st_mtime_ns, i.kind] for i in inputs]
    return [FORMAT, release(), options.keep_all, list(options.languages), files]
