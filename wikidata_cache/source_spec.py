"""Open the graph that a user names (`SourceSpec`: a string, a path, or several) as a `Source`.

Graph files and folders are read into memory. Stores are opened read-only on disk. URLs are endpoints behind the answer
cache. None means the cache alone. docs/wikidata.md has a table of all forms.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kg_common.atomic import user_path
from wikidata_cache.errors import BadOptionError, GraphFileError, PrivateGraphError, SourceStringError, StoreError
from wikidata_cache.extract import add_labels, names_extract, packaged_extract
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Source
from wikidata_cache.stores.inputs import OPENED_WITHOUT_LOAD, is_graph_file
from wikidata_cache.stores.manifest import is_store, work_folder

if TYPE_CHECKING:
    from wikidata_cache.answers.modes import Mode

SourceSpec = str | Path | Sequence[str | Path]
"""The name of a source of statements: a file, a folder, a store, a URL, or several of these; see `open_source`."""

_FORMS = (
    "extract (packaged), a graph file (FILE.nt.gz, .nt, .tsv, .tsv.gz), a folder of them, several separated by commas, "
    "memory:FILE, a store made by `wikidata-cache load`, oxigraph:FOLDER, or the http(s) URL of a SPARQL endpoint or "
    "Action API (or several)"
)
_REMOTE = ("http://", "https://")


def open_source(
    spec: SourceSpec | None,
    *,
    contact: str | None = None,
    timeout: float = 90.0,
    cache: str | Path | None = None,
    mode: Mode | None = None,
    packs: Sequence[str | Path] = (),
    as_of: str | None = None,
    graph_name: str = "wikidata",
    languages: Languages = DEFAULT_LANGUAGES,
) -> Source:
    """Open a source of statements and labels.

    Args:
        spec: one of

            - "extract", the packaged extract;
            - a graph file, a folder of graph files, or several of these (comma-separated, or a sequence);
            - "memory:FILE", the same as FILE;
            - a store made by `wikidata-cache load`, or "oxigraph:FOLDER" for any database of Oxigraph on disk;
            - the URL of a SPARQL endpoint or of an Action API (…/api.php), or several URLs of endpoints with the same
              graph, the preferred one first;
            - None for the cache alone, offline.
        contact: your e-mail address or URL, which Wikimedia endpoints require.
        timeout: seconds per request.
        cache: the file for the answers of endpoints (default: KG_CACHE, else a file in the user's cache folder).
        mode: when the cache and when the endpoint is used; see `Mode`.
        packs: read-only cache files that are read after `cache` (default: KG_PACKS).
        as_of: read the cache as it was at this time (ISO 8601).
        graph_name: the name of the endpoint's graph in the cache.
        languages: those of the labels that will be asked for. The packaged extract is opened with its labels in other
            languages than English only for these, and a store that was loaded without them is refused.

    Returns:
        The source; files are read and stores are checked, but no request is sent yet.

    Raises:
        SourceStringError: `spec` names nothing that can be opened; PrivateGraphError if it has names instead of ids.
        GraphFileError, StoreError, CacheFileError: a file is missing or damaged.
        MissingContactError: a Wikimedia endpoint without a contact (in mode "cache_first" at the first request).
        BadOptionError: the options do not fit each other.
    """
    parts = []
    if spec is not None:
        parts = _split(spec)
    urls = [part for part in parts if part.startswith(_REMOTE)]
    local = [part for part in parts if part not in urls]
    if local and urls:
        raise SourceStringError(
            f"{urls[0]} is an endpoint and {local[0]} a local graph, which cannot be combined; give one of them."
        )
    if local and as_of is not None:
        raise BadOptionError(
            f"as_of={as_of!r} replays the cache, but {local[0]} is a local graph without versions. Leave out as_of "
            f"(--as-of), or leave out the graph."
        )
    if local:
        return _open_local(local, languages)

    from wikidata_cache.remote import open_remote  # endpoints and their cache are code that a local graph never runs

    return open_remote(
        urls,
        contact=contact,
        timeout=timeout,
        cache=cache,
        mode=mode,
        packs=packs,
        as_of=as_of,
        graph_name=graph_name,
    )


def _split(spec: SourceSpec) -> list[str]:
    """Return the sources that a specification names, each as a path or a URL."""
    entries: Sequence[str | Path]
    if isinstance(spec, str | Path):
        entries = [spec]
    else:
        entries = spec
    parts: list[str] = []
    for entry in entries:
        if isinstance(entry, Path):  # it is never the word "extract", nor a list
            found = [str(entry)]
        else:
            found = _split_text(entry)
        if not found:
            raise SourceStringError(f"An empty source; expected {_FORMS}.")
        parts += found
    if not parts:
        raise SourceStringError(f"An empty source; expected {_FORMS}.")
    return parts


def _split_text(text: str) -> list[str]:
    """Return the sources in a text; none for an empty one.

    The first line that fits counts:

        https://a/sparql?x=1,2, https://b/sparql    URLs; only a comma before the next URL separates them
        a,b.nt                                      the path, if there is such a file or folder
        memory:a.nt, extract                        paths separated by commas; the second one is the packaged extract
    """
    stripped = text.strip()
    if stripped.startswith(_REMOTE):
        return re.split(r"\s*,\s*(?=https?://)", stripped)
    if stripped and os.path.exists(user_path(text)):  # noqa: PTH110  # Path.exists raises for a long list
        return [text]
    parts = []
    for name in text.split(","):
        part = name.strip().removeprefix("memory:").strip()
        if names_extract(part):
            part = str(packaged_extract())
        if part:  # an empty one would be the current folder
            parts.append(part)
    return parts


def _open_local(parts: Sequence[str], languages: Languages) -> OxigraphSource:
    """Open a single store on disk, or read all graph files into memory."""
    stores = [part for part in parts if part.startswith("oxigraph:") or is_store(user_path(part))]
    if stores and len(parts) > 1:
        raise SourceStringError(f"{stores[0]} cannot be combined with other sources; give it alone.")
    if stores:
        store = OxigraphSource.from_store(user_path(stores[0].removeprefix("oxigraph:")))
        store.check_languages(languages)
        return store
    files = []
    for part in parts:
        files += _find_files(part)
    return OxigraphSource.from_files(add_labels(files, languages))


def _find_files(part: str) -> list[Path]:
    """Return the file at a path, or the graph files in the folder there; an error tells what else the path may mean."""
    path = user_path(part)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_graph_file(file))
        if not files:
            raise SourceStringError(
                f"{path} contains no graph file; expected names ending in {', '.join(OPENED_WITHOUT_LOAD)}."
            )
        return files
    if path.name.lower().removesuffix(".gz").endswith((".csv", ".graphml")):
        raise PrivateGraphError(path)
    if path.exists():
        return [path]
    if work_folder(path).is_dir():
        raise StoreError(path, "is not loaded completely; run the same `wikidata-cache load` again: it resumes")
    if is_graph_file(path):
        raise GraphFileError(path, "does not exist; check the path")
    raise SourceStringError(f"{part!r} is not a source; expected {_FORMS}.")
