"""Read and check `manifest.json`, which describes the contents and the sources of a store on disk.

A store is a folder with `manifest.json`, `oxigraph/` (the triples) and `labels.sqlite` (the label index). The manifest
is written last, so a folder with a manifest is complete. It has the size, modification time and sha256 of every file.
When the store is opened, each file whose time differs is hashed and compared. Some triples (`probes`) are looked up
too, because a network file system may return empty data without an error.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TypedDict

from pyoxigraph import Quad, RdfFormat, Store, parse

from kg_common.json_text import parse as parse_json
from kg_common.progress import Bar
from wikidata_cache.errors import StoreError

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20  # bytes
_CHANGING = ("LOCK", "LOG")  # prefixes of engine files that change at every opening
_SLOW_S = 1.0  # seconds; a longer check shows a progress bar and is logged
FORMAT = "wikidata-cache store/1"
MANIFEST = "manifest.json"
ENGINE = "oxigraph"
LABELS = "labels.sqlite"
LICENCE = "Wikidata's statements, labels, aliases and descriptions are CC0 1.0; other sources keep their own terms."
HASH_METHOD = "sum modulo 2^128 of the BLAKE2b-128 hashes of the triples as N-Triples lines without line end"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json."""

    created: str  # UTC time in ISO 8601
    package: str  # the release that loaded the store
    content_hash: str  # the same for stores of the same triples, whatever the order of loading
    counts: Counts
    sources: list[SourceFile]
    keep_all: bool  # whether every triple of N-Triples files was loaded
    languages: list[str]  # of labels, aliases and descriptions
    files: dict[str, StoredFile]  # by path
    probes: list[str]  # some of the triples, as N-Triples
    # Whether texts of every language were loaded; then `languages` are those of the names. Older manifests lack this.
    every_language: bool = False
    licence: str = LICENCE
    content_hash_method: str = HASH_METHOD

    def as_json(self) -> str:
        """Return the text of manifest.json, with the format version."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a finished store: size in bytes, modification time in nanoseconds, sha256 as hex."""

    bytes: int
    mtime_ns: int
    sha256: str


class SourceFile(TypedDict):
    """A file that was loaded: its size and sha256 on disk, its number of lines, and the number of triples kept."""

    name: str
    kind: str
    bytes: int
    sha256: str
    lines: int
    kept: int


class Counts(TypedDict):
    """Counts: triples; item-valued statements, with their items and properties; named entities, labels and aliases."""

    triples: int
    statements: int
    items: int
    properties: int
    named: int
    labels: int
    aliases: int


def read_manifest(folder: Path, *, every: bool = False) -> Manifest:
    """Return the manifest of a store, after checking its files.

    By default, only the files whose modification time differs are hashed and compared; with `every`, all are.
    """
    make = "make one with `wikidata-cache load SOURCE --store FOLDER`"
    if folder.is_file():
        raise StoreError(folder, f"is a file; {make}")
    if not folder.is_dir():
        raise StoreError(folder, f"there is no such folder; {make}")
    if not is_store(folder):
        if (folder / "progress.json").is_file() or folder.name.endswith(".loading"):
            problem = "is an unfinished store of `wikidata-cache load`; run the same command again to finish it"
        else:
            problem = f"is not a store, because it has no {MANIFEST}; {make}"
        raise StoreError(folder, problem)
    try:
        content = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
        version = content.pop("format")
        if version != FORMAT:
            raise _explain_unusable(folder, f"has the format {version!r}; this release reads {FORMAT!r}")
        files = {name: StoredFile(**values) for name, values in content.pop("files").items()}
        manifest = Manifest(files=files, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            folder, f"its {MANIFEST} cannot be read ({error}). Load the store again with --force"
        ) from error
    _check_files(folder, manifest.files, every=every)
    return manifest


def is_store(folder: Path) -> bool:
    """Return whether the folder is a store, of any version, that `load` has finished."""
    return (folder / MANIFEST).is_file()


def is_engine(folder: Path) -> bool:
    """Return whether the folder is an Oxigraph database."""
    return (folder / "CURRENT").is_file()


def store_of(folder: Path) -> Path | None:
    """Return the store: `folder` if it is a store, its parent if it is the database of a store, else None."""
    if is_store(folder):
        return folder
    if folder.name == ENGINE and is_store(folder.parent):
        return folder.parent
    return None


def open_database(folder: Path, manifest: Manifest) -> Store:
    """Open the database of a store read-only, and look up the manifest's `probes`, in less than a millisecond."""
    with store_read_errors(folder):
        store = Store.read_only(str(folder / ENGINE))
        probes = parse("\n".join(manifest.probes), RdfFormat.N_TRIPLES, lenient=True)
        quads = [Quad(triple.subject, triple.predicate, triple.object) for triple in probes]
        lost = sum(quad not in store for quad in quads)
    if lost:
        problem = f"{lost} of {len(quads)} test triples cannot be found"
        raise StoreError(folder, f"{problem}. Copy the folder to a local disk, or load it again with --force")
    return store


def count_triples(engine_folder: Path) -> int:
    """Count the triples of an Oxigraph database by reading each."""
    with store_read_errors(engine_folder):
        return sum(1 for _ in Store.read_only(str(engine_folder)))


@contextmanager
def store_read_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the engine and of the file system while reading into a StoreError that names the folder."""
    try:
        yield
    except (OSError, RuntimeError, SyntaxError) as error:
        problem = f"its database cannot be read, so the database or the disk is damaged ({error})"
        raise _explain_unusable(folder, problem) from error


def stored_files(folder: Path) -> dict[str, StoredFile]:
    """Return all files of a store by path, except the engine's LOCK and LOG files, which change."""
    engine = [path for path in sorted((folder / ENGINE).iterdir()) if not path.name.startswith(_CHANGING)]
    paths = [*engine, folder / LABELS]
    stats = {path: path.stat() for path in paths}
    hashes = _hash_files(paths)
    files = {}
    for path in paths:
        files[path.relative_to(folder).as_posix()] = StoredFile(
            bytes=stats[path].st_size, mtime_ns=stats[path].st_mtime_ns, sha256=hashes[path]
        )
    return files


def _check_files(folder: Path, files: Mapping[str, StoredFile], *, every: bool) -> None:
    """Raise StoreError, which names the file, if a file of the folder is missing or has changed.

    The content is read of those files whose time has changed, or with `every` of all.
    """
    doubtful = {}
    for name, expected in files.items():
        stat = _read_stat(folder, name)
        if stat.st_size != expected.bytes:
            problem = f"is incomplete: {name} has {stat.st_size} bytes instead of {expected.bytes}"
            raise _explain_unusable(folder, problem)
        if every or stat.st_mtime_ns != expected.mtime_ns:
            doubtful[name] = expected
    begun = time.monotonic()
    _check_hashes(folder, doubtful)
    seconds = time.monotonic() - begun
    if not every and seconds > _SLOW_S:
        logger.info(
            "%s: %d files whose times have changed were read in %.0f s, and are intact (copies with the same times, as "
            "by cp -a or rsync -a, are not read)",
            folder,
            len(doubtful),
            seconds,
        )


def _read_stat(folder: Path, name: str) -> os.stat_result:
    """Return the size and the times of a file of a store; raise StoreError if it is missing."""
    try:
        return (folder / name).stat()
    except FileNotFoundError as error:
        raise _explain_unusable(folder, f"is incomplete: {name} is missing") from error
    except OSError as error:
        raise _explain_unusable(folder, f"{name} cannot be read ({error.strerror or error})") from error


def _check_hashes(folder: Path, files: Mapping[str, StoredFile]) -> None:
    """Raise StoreError, which names the file, if the content of a file is not what was loaded."""
    try:
        hashes = _hash_files([folder / name for name in files])
    except OSError as error:
        where = error.filename or "a file"
        problem = f"the store or its disk is damaged: {where} cannot be read ({error.strerror or error})"
        raise _explain_unusable(folder, problem) from error
    for name, expected in files.items():
        if hashes[folder / name] != expected.sha256:
            raise _explain_unusable(folder, f"is damaged: the content of {name} is not what was loaded")


def _hash_files(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the sha256 of each file as hex; a progress bar appears after one second."""
    total = sum(path.stat().st_size for path in paths)
    digests = {path: hashlib.sha256() for path in paths}
    with closing(Bar(title="checking", unit="B", total=total, leave=False, delay=_SLOW_S)) as bar:
        for path, digest in digests.items():
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    bar.update(len(block))
    return {path: digest.hexdigest() for path, digest in digests.items()}


def _explain_unusable(folder: Path, problem: str) -> StoreError:
    reload = f"`wikidata-cache load SOURCE --store {quote(str(folder))} --force`"
    return StoreError(folder, f"{problem}. Copy the folder again from its source, or load it again: {reload}")


def work_folder(target: Path) -> Path:
    """Return the folder beside a store in which `wikidata-cache load` works until the store is complete."""
    return target.with_name(f"{target.name}.loading")
