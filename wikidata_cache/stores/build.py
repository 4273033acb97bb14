"""The steps from sources to a whole store in the folder of the unfinished one; each can be taken again."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from wikidata_cache.atomic import write_atomically
from wikidata_cache.errors import GraphFileError
from wikidata_cache.labels.label_index import LabelCounts
from wikidata_cache.release import release
from wikidata_cache.sources.graph_files import sibling_labels
from wikidata_cache.sources.queries import LANGUAGES
from wikidata_cache.stores.batches import Batch, added, ahead, batches
from wikidata_cache.stores.chunks import Chunk, ChunkReader, open_chunks
from wikidata_cache.stores.engine import Database
from wikidata_cache.stores.index import count_ids, index_names
from wikidata_cache.stores.inputs import BadLines, Input, detect
from wikidata_cache.stores.manifest import LABELS, MANIFEST, Counts, Manifest, SourceFile, stored_files
from wikidata_cache.stores.reading import open_database
from wikidata_cache.stores.work import NAMES, WEIGHTS, Work

logger = logging.getLogger(__name__)

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
