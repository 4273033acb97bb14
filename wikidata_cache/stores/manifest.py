"""What a store on disk says of itself, and whether it is all there.

A store is a folder: `manifest.json`, `oxigraph/` (the triples) and `labels.sqlite` (the label index). The manifest
is written last, so that a folder with a manifest was finished.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypedDict

from wikidata_cache.errors import StoreError

FORMAT = "wikidata-cache store/1"
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
    `files` are sizes in bytes by path, and `probes` some of the triples: with them a store that has lost files,
    or a file system that gives out nothing, is noticed at once.
    """

    created: str
    package: str
    content_hash: str
    counts: Counts
    sources: list[SourceFile]
    keep_all: bool
    languages: list[str]
    files: dict[str, int]
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


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store of which no file is missing or cut off.

    Raises StoreError where the folder is no store, not finished, of another version, or has lost something.
    """
    if not is_store(folder):
        raise _no_store(folder)
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version = found.pop("format")
        if version != FORMAT:
            raise StoreError(folder, f"has the format {version!r}, and {FORMAT!r} is expected. {_again(found)}")
        manifest = Manifest(**{field.name: found[field.name] for field in fields(Manifest)})
        _check_files(folder, manifest.files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            folder, f"its {MANIFEST} cannot be read ({error}). Load the store again with --force"
        ) from error
    return manifest


def engine_folder(folder: Path) -> Path:
    """The Oxigraph database of a store, or the folder itself where it is one; raises StoreError."""
    if is_engine(folder) and not is_store(folder):
        return folder
    read_manifest(folder)
    return folder / ENGINE


def file_sizes(folder: Path) -> dict[str, int]:
    """The sizes of all files of a store that never change, by path."""
    tables = sorted((folder / ENGINE).glob("*.sst"))
    return {str(path.relative_to(folder)): path.stat().st_size for path in (*tables, folder / LABELS)}


def _check_files(folder: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            said = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise StoreError(
                folder, f"is not whole: {name} {said}. Copy the folder again, or load it again with --force"
            )


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
