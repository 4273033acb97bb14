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

    return packaged_extract() if names_extract(name) else _file(name, _GRAPH)


def packaged_graphs() -> tuple[str, ...]:
    """Return the names of the packaged graphs."""
    return (EXTRACT, *sorted(file.name.removesuffix(_GRAPH) for file in _DATA.glob(f"*{_GRAPH}")))


def benchmark_hint(name: str | Path) -> str:
    """Return ", did you mean 'x'?" with a packaged benchmark for a path that does not exist; "" if none is near."""
    return "" if packaged_benchmark(name) else _near(str(name), [], _BENCHMARK)


def check_graph_name(name: str) -> None:
    """Refuse the name of a missing graph, before anything slow is imported. URLs and lists of files are not checked."""
    path = os.path.expanduser(name)  # noqa: PTH111 - unlike Path's, it never raises
    if not name.strip() or "," in name or ":" in name or packaged_graph(name) or os.path.exists(path):  # noqa: PTH110
        return
    if name.endswith(_GRAPH_FILES):
        raise GraphError(f"{name}: does not exist; check the path (the current folder is {Path.cwd()})")
    expected = f"; expected a packaged graph ({', '.join(packaged_graphs())}), {_GRAPHS}"
    raise GraphError(
        f"graph {name}: there is no such file and no packaged graph of this name"
        f"{_near(name, [EXTRACT], _GRAPH) or expected}"
    )


def _near(name: str, known: list[str], ending: str) -> str:
    """A hint with a similar name, if ``name`` looks like a short name and no file has it."""
    if "/" in name or os.path.exists(name):  # noqa: PTH110 - unlike Path's, it never raises
        return ""
    return did_you_mean(name, [*known, *(file.name.removesuffix(ending) for file in _DATA.glob(f"*{ending}"))])


def _file(name: str, ending: str) -> Path | None:
    file = _DATA / f"{name}{ending}"
    is_packaged = file.parent == _DATA and os.path.isfile(file) and not os.path.exists(name)  # noqa: PTH110, PTH113
    return file if is_packaged else None
