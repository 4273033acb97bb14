"""What a store on disk says of itself, and whether it is all there.

A store is a folder: `manifest.json`, `oxigraph/` (the triples) and `labels.sqlite` (the label index). The manifest
is written last, so that a folder with a manifest was finished.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypedDict

from wikidata_cache.errors import StoreError
from wikidata_cache.stores.checksums import StoredFile, check, describe

FORMAT = "wikidata-cache store/2"
MANIFEST = "manifest.json"
ENGINE = "oxigraph"
LABELS = "labels.sqlite"
LICENCE = "Wikidata's statements, labels, aliases and descriptions are CC0 1.0; other sources keep their own terms."
HASH_METHOD = "sum modulo 2^128 of the BLAKE2b-128 hashes of the triples as N-Triples lines without line end"

_MAKE = "make one with `wikidata-cache load SOURCE --store FOLDER`"


class SourceFile(TypedDict):
    """A file that was loaded: its size and sha256 as it lay on disk, its lines, and the triples kept of them."""

    name: str
    kind: str
    bytes: int
    sha256: str
    lines: int
    kept: int


class Counts(TypedDict):
    """Triples; item-valued statements, and items and properties in these; entities with a name, labels, aliases."""

    triples: int
    statements: int
    items: int
    properties: int
    named: int
    labels: int
    aliases: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds and where it came from. `created` is UTC, ISO 8601.

    Two stores of the same triples have the same `content_hash`, whatever the order in which they were loaded.
    `files` are sizes, times and sha256 by path, and `probes` some of the triples: with them a store that has lost
    or damaged files, or a file system that gives out nothing, is noticed at once.
    """

    created: str
    package: str
    content_hash: str
    counts: Counts
    sources: list[SourceFile]
    keep_all: bool
    languages: list[str]
    files: dict[str, StoredFile]
    probes: list[str]
    licence: str = LICENCE
    content_hash_method: str = HASH_METHOD

    def as_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def is_store(folder: Path) -> bool:
    """Whether the folder is a store that `load` has finished, of whatever version."""
    return (folder / MANIFEST).is_file()


def is_engine(folder: Path) -> bool:
    """Whether the folder is an Oxigraph database."""
    return (folder / "CURRENT").is_file()


def read_manifest(folder: Path, *, every: bool = False) -> Manifest:
    """The manifest of a store of which no file is missing, cut off or damaged.

    Files with the size and the time of change that they had are trusted; the others are read, or `every` one.
    Raises StoreError where the folder is no store, not finished, of another version, damaged, or has lost something.
    """
    if not is_store(folder):
        raise _no_store(folder)
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = found.pop("format")
        if version != FORMAT:
            raise StoreError(folder, f"has the format {version!r}, and {FORMAT!r} is expected. {_again(found)}")
        files = {name: StoredFile(**said) for name, said in found.pop("files").items()}
        said = {field.name: found[field.name] for field in fields(Manifest) if field.name != "files"}
        manifest = Manifest(files=files, **said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            folder, f"its {MANIFEST} cannot be read ({error}). Load the store again with --force"
        ) from error
    check(folder, manifest.files, every=every)
    return manifest


def store_of(folder: Path) -> Path | None:
    """The store that a folder is, or whose database it is; None for any other folder."""
    if is_store(folder):
        return folder
    return folder.parent if folder.name == ENGINE and is_store(folder.parent) else None


def stored_files(folder: Path) -> dict[str, StoredFile]:
    """All files of a store that never change, by path: not the engine's lock and its diary."""
    engine = [path for path in sorted((folder / ENGINE).iterdir()) if not path.name.startswith("LO")]
    return {path.relative_to(folder).as_posix(): describe(path) for path in (*engine, folder / LABELS)}


def _no_store(folder: Path) -> StoreError:
    if not folder.is_dir():
        return StoreError(folder, f"there is no such folder; {_MAKE}")
    if (folder / "progress.json").is_file() or folder.name.endswith(".loading"):
        return StoreError(
            folder, "is the unfinished work of `wikidata-cache load`; run the same command again to finish it"
        )
    return StoreError(folder, f"is no store, there is no {MANIFEST} in it; {_MAKE}")


def _again(found: dict[str, object]) -> str:
    sources = found.get("sources")
    names = [str(source.get("name")) for source in sources] if isinstance(sources, list) else []
    return f"Load it again with this version: wikidata-cache load {' '.join(names) or 'SOURCE'} --store FOLDER --force"
