"""Files that come with the package, by a short name: benchmarks and graphs, as ``--data`` and ``--graph`` take them."""

from __future__ import annotations

from pathlib import Path

from wikidata_cache.extract import packaged_extract

_DATA = Path(__file__).resolve().parents[1] / "data"
_GRAPH, _BENCHMARK = ".nt.gz", ".json"


def packaged_benchmark(name: str | Path) -> Path | None:
    """The packaged benchmark of this name, such as ripples-smollm2-135m; None if there is none."""
    return _file(str(name), _BENCHMARK)


def packaged_graph(name: str) -> Path | None:
    """The packaged graph of this name: extract, or that of a benchmark; None if there is none."""
    return packaged_extract() if name == "extract" else _file(name, _GRAPH)


def _file(name: str, ending: str) -> Path | None:
    file = _DATA / f"{name}{ending}"
    return file if file.parent == _DATA and file.is_file() and not Path(name).exists() else None
