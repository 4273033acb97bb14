"""One string (or several paths) to one source."""

from collections.abc import Sequence
from pathlib import Path

from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import GraphFileError, SourceStringError
from wikidata_cache.sources.graph_files import SUFFIXES, is_graph_file
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Source

SourceSpec = str | Path | Sequence[str | Path]

_FORMS = (
    "a graph file (FILE.nt.gz, .nt, .tsv, .tsv.gz), a folder of them, several separated by commas, "
    "memory:FILE, oxigraph:FOLDER, or the http(s) URL of a SPARQL endpoint"
)


def open_source(spec: SourceSpec, *, contact: str | None = None, timeout: float = 90.0) -> Source:
    """Open a source of statements and labels.

    `spec` is a graph file, a folder of graph files, several of these (comma-separated, or a sequence),
    "memory:FILE" (the same as FILE), "oxigraph:FOLDER" for an on-disk store, or a SPARQL endpoint's URL.
    `contact` (an e-mail address or URL of yours) and `timeout` (seconds a request) are for endpoints.

    Raises SourceStringError, GraphFileError, OfflineError or MissingContactError.
    """
    parts = _parts(spec)
    remote = [part for part in parts if part.startswith(("http://", "https://", "oxigraph:"))]
    if remote and len(parts) > 1:
        raise SourceStringError(f"{remote[0]} cannot be joined with other sources; give it alone.")
    if remote and remote[0].startswith("oxigraph:"):
        return OxigraphSource.from_store(Path(remote[0].removeprefix("oxigraph:")))
    if remote:
        return EndpointSource(remote[0], contact=contact, timeout=timeout)
    return OxigraphSource.from_files([file for part in parts for file in _files(part)])


def _parts(spec: SourceSpec) -> list[str]:
    if isinstance(spec, Path):
        return [str(spec)]
    if not isinstance(spec, str):
        parts = [part for item in spec for part in _parts(item)]
    elif spec.startswith(("http://", "https://")) or Path(spec).exists():
        parts = [spec]  # a comma here belongs to the name
    else:
        parts = [part.strip().removeprefix("memory:") for part in spec.split(",") if part.strip()]
    if not parts:
        raise SourceStringError(f"An empty source; expected {_FORMS}.")
    return parts


def _files(part: str) -> list[Path]:
    path = Path(part).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if is_graph_file(file))
        if not files:
            raise SourceStringError(f"{path} holds no graph file; expected names ending in {', '.join(SUFFIXES)}.")
        return files
    if not path.exists() and not is_graph_file(path):
        raise SourceStringError(f"{part!r} is no source; expected {_FORMS}.")
    if not path.exists():
        raise GraphFileError(path, "does not exist; check the path")
    return [path]
