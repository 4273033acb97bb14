"""Load dumps and graph files into a store on disk, in batches. An interrupted load can be resumed.

`load` builds the store in a separate folder (`unfinished.py`) and moves it into place when it is complete. Each source
is read in chunks, translated to N-Triples and added to the database. Then the database is compacted, the label index
is built, the result is checked, and the manifest is written last. Each step can be repeated.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kg_common.atomic import user_path, write_atomically
from wikidata_cache.errors import BadOptionError, GraphFileError, StoreError
from wikidata_cache.ids import RDFS_LABEL
from wikidata_cache.labels.label_index import LabelIndex
from wikidata_cache.languages import Languages
from wikidata_cache.stores.chunks import Batch, Chunk, ChunkReader, add_hashes, make_batches, open_chunks, read_ahead
from wikidata_cache.stores.engine import Database, index_names, store_write_errors
from wikidata_cache.stores.inputs import BadLines, Input, LoadOptions, detect, find_inputs, sibling_labels
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
from wikidata_cache.stores.unfinished import NAMES, WEIGHTS, Work, open_work, restore_interrupted_swap, swap_in
from wikidata_cache.version import release

logger = logging.getLogger(__name__)

_PROBES = 16  # triples that the manifest lists, so that opening the store can look them up


@dataclass(frozen=True)
class LoadReport:
    """The manifest of the new store, how long the load took, and the number of skipped lines."""

    manifest: Manifest
    seconds: float  # for the triples
    label_seconds: float  # for the rest: the label index, hashes of the store's files, and the check of the probes
    skipped: int


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Everything that decides the content of a store: a load with another plan does not resume, but starts over.

    ``skip_bad_lines`` is not part of it, so a load that stopped at a bad line can resume without that line.
    """

    store_format: str
    package: str  # the release of this package
    keep_all: bool
    values: bool
    languages: Languages | None
    files: list[object]  # as `_describe_file` describes each source
    labels_nearby: list[object]  # the same of the labels file that is loaded if the sources have no labels; or empty

    def as_list(self) -> list[object]:
        """Return the plan as it is written to progress.json."""
        kept = [self.keep_all, self.values, self.languages]
        return [self.store_format, self.package, *kept, self.files, self.labels_nearby]


def load(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    force: bool = False,
    options: LoadOptions | None = None,
) -> LoadReport:
    """Make a store from graph files, Wikidata dumps, folders of these, or CoDEx folders.

    The store is built in the folder `STORE.loading` next to its final place, and moved there when it is complete. An
    interrupted load resumes when it is called again with the same files and options. Memory is bounded, whatever the
    size of the sources; only the labels file of CoDEx is parsed as a whole.

    Args:
        sources: files and folders.
        store: the folder of the new store.
        force: replace an existing store.
        options: what to keep of the sources.

    Returns:
        The manifest of the store, the seconds that it took, and the number of lines that were left out.
    """
    if not sources:
        raise BadOptionError("Nothing to load; name at least one file or folder.")
    options = options or LoadOptions()
    target = user_path(store).resolve()
    inputs = find_inputs(sources, languages=options.languages)
    plan = _make_plan(inputs, options)
    with store_write_errors(target):
        restore_interrupted_swap(target)
        _check_target(target, force=force)
        with open_work(target, plan.as_list()) as work:
            report = _build_or_resume(work, inputs, options)
            swap_in(work.folder, target)
    return report


def _check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that exists, unless it is an empty folder, or a store and `force` is set."""
    is_empty_folder = target.is_dir() and not any(target.iterdir())
    if not target.exists() or is_empty_folder:
        return
    if not is_store(target):
        raise StoreError(target, "exists already, and is not a store; give another --store")
    if not force:
        raise StoreError(target, "is already a store; replace it with --force, or give another --store")


def _make_plan(inputs: Sequence[Input], options: LoadOptions) -> LoadPlan:
    """Return the plan of a load of these sources."""
    paths = [source.path for source in inputs]
    labels_nearby = list[object]()
    labels = sibling_labels(paths)
    if labels is not None:
        labels_nearby.append(_describe_file(labels))
    return LoadPlan(
        store_format=FORMAT,
        package=release(),
        keep_all=options.keep_all,
        values=options.values,
        languages=options.languages,
        files=[_describe_file(path) for path in paths],
        labels_nearby=labels_nearby,
    )


def _describe_file(path: Path) -> list[object]:
    """Return the path of a file, its size and the time of its last change."""
    state = path.stat()
    return [str(path.absolute()), state.st_size, state.st_mtime_ns]


def _build_or_resume(work: Work, inputs: Sequence[Input], options: LoadOptions) -> LoadReport:
    """Build the store in the work folder, from where an earlier load stopped; the errors say what is stored."""
    if is_store(work.folder):  # an earlier run was killed between the last step and the move
        return _report_finished(work)
    try:
        return _build(work, inputs, options)
    except GraphFileError as error:
        stored = _keep_or_delete(work)
        raise GraphFileError(error.path, f"{error.problem}. {stored}", line=error.line) from error


def _report_finished(work: Work) -> LoadReport:
    """Return the report of a store that is complete already; delete the store and raise if it is damaged."""
    try:
        manifest = read_manifest(work.folder)
    except StoreError as error:
        shutil.rmtree(work.folder, ignore_errors=True)
        problem = f"the unfinished store was damaged ({error}) and was deleted; run the same command again"
        raise StoreError(work.folder, problem) from error
    return LoadReport(manifest, seconds=0.0, label_seconds=0.0, skipped=work.progress.skipped)


def _keep_or_delete(work: Work) -> str:
    """Keep the work folder if it has triples, so that the load can resume, else delete it; return what was done."""
    if not work.progress.triples:
        shutil.rmtree(work.folder, ignore_errors=True)
        return "Nothing was loaded"
    return (
        f"The {work.progress.triples} triples before it are stored in {work.folder}: the same command resumes "
        f"there, and starts over if a source has changed"
    )


def _build(work: Work, inputs: Sequence[Input], options: LoadOptions) -> LoadReport:
    """Load the triples, build the label index, check that the probe triples are found, and write the manifest last."""
    begun = time.perf_counter()
    triples = _load_all(work, inputs, options)
    loaded = time.perf_counter()
    logger.info("Building the label index")
    label_counts, id_counts = index_names(work.folder / LABELS, work.folder / NAMES, work.folder / WEIGHTS)
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        package=release(),
        content_hash=f"{work.progress.content_hash:032x}",
        counts=Counts(
            triples=triples,
            statements=work.progress.statements,
            items=id_counts.items,
            properties=id_counts.properties,
            named=label_counts.entities,
            labels=label_counts.labels,
            aliases=label_counts.aliases,
        ),
        sources=work.progress.done,
        keep_all=options.keep_all,
        languages=_list_languages(options, work.folder),
        every_language=options.languages is None,
        files=stored_files(work.folder),
        probes=work.progress.probes,
    )
    open_database(work.folder, manifest)  # looks up the probes, and raises StoreError if one is missing
    write_atomically(work.folder / MANIFEST, manifest.as_json())
    return LoadReport(manifest, loaded - begun, time.perf_counter() - loaded, work.progress.skipped)


def _list_languages(options: LoadOptions, folder: Path) -> list[str]:
    """Return the languages whose texts were loaded: the wanted ones, or for all, those of the names in the store."""
    if options.languages:
        return list(options.languages)
    with LabelIndex(folder / LABELS) as index:
        return index.list_languages()


def _load_all(work: Work, inputs: Sequence[Input], options: LoadOptions) -> int:
    """Add the sources that are not done yet to the database, compact it, and return the number of distinct triples."""
    progress = work.progress
    with Database(work.folder) as database:
        for source in inputs[len(progress.done) :]:  # the others were loaded before an interruption
            _load_source(work, database, source, options)
        for source in _find_labels_nearby(work, inputs):
            _load_source(work, database, source, options)
        if not progress.triples:
            names = ", ".join(source.path.name for source in inputs)
            raise GraphFileError(
                inputs[0].path,
                f"nothing in {names} can be used: no Wikidata statement with an item as value, no label in a wanted "
                f"language. Keep every triple with --keep-all, or give another source",
            )
        logger.info("Optimising %d triples", progress.triples)
        triples = database.optimize()
        if triples != progress.triples:
            logger.info("Some triples occur more than once; counting the different ones")
            progress.content_hash, progress.statements = database.recount()
    return triples


def _load_source(work: Work, database: Database, source: Input, options: LoadOptions) -> None:
    """Add the rest of one file, batch by batch, and record it as done."""
    progress = work.progress
    skipped_before = progress.skipped
    bad_lines = BadLines(source.path, leave_out=options.skip_bad_lines)
    with open_chunks(source.path) as reader:
        read = _read_batches(reader, source, work, options, bad_lines)
        with closing(read_ahead(read)) as batches:
            for batch in batches:
                _add_batch(work, database, batch, source.path)
                # The next batch may have been read already: its bad lines do not count yet.
                progress.skipped = skipped_before + bad_lines.count_up_to(batch.lines)
                work.record()  # last: what progress.json counts is in the database and in the spool files
    progress.skipped = skipped_before + bad_lines.count
    progress.finish_source(
        SourceFile(
            name=source.path.name,
            kind=source.kind,
            bytes=source.path.stat().st_size,
            sha256=reader.sha256,  # of the whole file: a resumed load reads the part before `offset` again
            lines=progress.lines,
            kept=progress.kept,
        )
    )
    work.record()


def _read_batches(
    reader: ChunkReader, source: Input, work: Work, options: LoadOptions, bad_lines: BadLines
) -> Iterator[Batch]:
    """Read a file from the last recorded batch on, and return its translated batches; they are read one by one."""
    chunks = reader.read_chunks(start=work.progress.offset, lines=work.progress.lines)
    chunks = source.watch_for_cut_off(chunks, bad_lines)
    if source.kind == "CoDEx labels":
        chunks = _join_chunks(chunks)
    return make_batches(chunks, source.translate(options, bad_lines.report))


def _add_batch(work: Work, database: Database, batch: Batch, path: Path) -> None:
    """Add a batch to the database and to the spool files, and count it in the progress."""
    progress = work.progress
    try:
        database.add(batch.triples)
    except SyntaxError as error:  # missed by the fast test; the engine only counts the lines it gets
        raise GraphFileError(path, f"is not N-Triples before line {batch.lines}: {error.msg}") from error
    progress.names = work.spool(NAMES, batch.names)  # the new size of the file
    progress.weights = work.spool(WEIGHTS, batch.weights)
    progress.offset = batch.end
    progress.lines = batch.lines
    progress.kept += batch.triple_count
    progress.statements += batch.statements
    progress.content_hash = add_hashes(progress.content_hash, batch.content_hash)
    if batch.probe and len(progress.probes) < _PROBES:
        progress.probes.append(batch.probe)


def _join_chunks(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield a file as one chunk: the labels of CoDEx are one JSON object."""
    parts = list(chunks)
    if parts:
        yield Chunk(b"".join(part.lines for part in parts), parts[0].first, parts[-1].end)


def _find_labels_nearby(work: Work, inputs: Sequence[Input]) -> list[Input]:
    """Return the labels file in the folder of sources that have no labels, as `graph_files.py` does; else []."""
    progress = work.progress
    labels_done = len(progress.done) > len(inputs)  # the labels file comes after the sources
    if labels_done:
        return []
    # `finish_source` set the offset to 0 after the last source. If it is greater, an interrupted load was reading the
    # labels file. Then the spooled labels may be those of that file, and do not show that the sources have some.
    labels_begun = progress.offset > 0
    if not labels_begun and _has_labels(work.folder / NAMES):
        return []
    sibling = sibling_labels([source.path for source in inputs])
    if sibling is None:
        logger.warning("No labels in these sources: statements without labels are left out of every subgraph")
        return []
    logger.info("No labels in these sources; also loading %s from the same folder", sibling.name)
    return [detect(sibling, sibling.name)]


def _has_labels(names: Path) -> bool:
    """Return whether the spool file of names has a label; its other texts are descriptions, aliases or times."""
    label = f"> <{RDFS_LABEL}> ".encode()
    with names.open("rb") as file:
        return any(label in line for line in file)
