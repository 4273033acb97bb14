"""Files that come with the package, by a short name: benchmarks and graphs for ``--data`` and ``--graph``."""

from __future__ import annotations

import os
from pathlib import Path

from kg_edit.errors import GraphError, did_you_mean

EXTRACT = "extract"  # the name of the packaged extract of Wikidata
HUB = "hf:"  # prefix of the name of a hub's data set
_DATA = Path(__file__).resolve().parents[1] / "data"
_GRAPH = ".nt.gz"
_BENCHMARK = ".json"
_GRAPH_FILES = (".nt", ".tsv", ".csv", ".graphml", ".gz")
_GRAPHS = "a file of facts (.csv, .tsv, .graphml), a file or folder of Wikidata's (.nt, .nt.gz, .tsv), a store or a URL"


def packaged_benchmark(name: str | Path) -> Path | None:
    """Return the packaged benchmark of this name, such as ripples-smollm2-135m; None if there is none."""
    return _file(str(name), _BENCHMARK)


def packaged_graph(name: str) -> Path | None:
    """Return the packaged graph of this name: extract, or a benchmark's graph; None if there is none."""
    from wikidata_cache.extract import names_extract, packaged_extract

    if names_extract(name):
        return packaged_extract()
    return _file(name, _GRAPH)


def packaged_graphs() -> tuple[str, ...]:
    """Return the names of the packaged graphs."""
    return (EXTRACT, *sorted(_packaged_names(_GRAPH)))


def benchmark_hint(name: str | Path) -> str:
    """Return ", did you mean 'x'?" with a packaged benchmark for a path that does not exist; "" if none is near."""
    if packaged_benchmark(name):
        return ""
    return _suggest(str(name), _packaged_names(_BENCHMARK))


def check_graph_name(name: str) -> None:
    """Refuse the name of a missing graph, before anything slow is imported. URLs and lists of files are not checked."""
    path = os.path.expanduser(name)  # noqa: PTH111 - unlike Path's, it never raises
    is_url_or_list = ":" in name or "," in name
    is_checked_later = not name.strip() or is_url_or_list
    if is_checked_later or packaged_graph(name) or os.path.exists(path):  # noqa: PTH110
        return
    if name.endswith(_GRAPH_FILES):
        raise GraphError(f"{name}: does not exist; check the path (the current folder is {Path.cwd()})")
    way = _suggest(name, [EXTRACT, *_packaged_names(_GRAPH)])
    if not way:
        way = f"; expected a packaged graph ({', '.join(packaged_graphs())}), {_GRAPHS}"
    raise GraphError(f"graph {name}: there is no such file and no packaged graph of this name{way}")


def _suggest(name: str, known: list[str]) -> str:
    """Return ", did you mean 'x'?" with a similar name, if ``name`` looks like a short name and no file has it."""
    if "/" in name or os.path.exists(name):  # noqa: PTH110 - unlike Path's, it never raises
        return ""
    return did_you_mean(name, known)


def _packaged_names(ending: str) -> list[str]:
    """Return the names of the packaged files with this ending, without it."""
    return [file.name.removesuffix(ending) for file in _DATA.glob(f"*{ending}")]


def _file(name: str, ending: str) -> Path | None:
    """Return the packaged file of this name; None if there is none, or if a path of the user has the same name."""
    file = _DATA / f"{name}{ending}"
    # A name with a slash has another parent: it is a path.
    is_packaged = file.parent == _DATA and os.path.isfile(file)  # noqa: PTH113 - unlike Path's, it never raises
    if not is_packaged or os.path.exists(name):  # noqa: PTH110
        return None
    return file
