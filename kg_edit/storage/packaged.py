"""Files that come with the package, by a short name: benchmarks and graphs for ``--data`` and ``--graph``."""

from __future__ import annotations

from pathlib import Path

from kg_edit.errors import did_you_mean
from wikidata_cache.extract import EXTRACT as EXTRACT
from wikidata_cache.extract import names_extract, packaged_extract

HUB = "hf:"  # prefix of the name of a hub's data set
_DATA = Path(__file__).resolve().parents[1] / "data"
_GRAPH, _BENCHMARK = ".nt.gz", ".json"


def packaged_benchmark(name: str | Path) -> Path | None:
    """Return the packaged benchmark of this name, such as ripples-smollm2-135m; None if there is none."""
    return _file(str(name), _BENCHMARK)


def packaged_graph(name: str) -> Path | None:
    """Return the packaged graph of this name: extract, or a benchmark's graph; None if there is none."""
    return packaged_extract() if names_extract(name) else _file(name, _GRAPH)


def packaged_graphs() -> tuple[str, ...]:
    """Return the names of the packaged graphs."""
    return (EXTRACT, *sorted(file.name.removesuffix(_GRAPH) for file in _DATA.glob(f"*{_GRAPH}")))


def benchmark_hint(name: str | Path) -> str:
    """Return ", did you mean 'x'?" with a packaged benchmark for a path that does not exist; "" if none is near."""
    return "" if packaged_benchmark(name) else _near(str(name), [], _BENCHMARK)


def graph_hint(name: str) -> str:
    """Like `benchmark_hint`, for graphs."""
    return "" if packaged_graph(name) else _near(name, [EXTRACT], _GRAPH)


def _near(name: str, known: list[str], ending: str) -> str:
    """A hint with a similar name, if ``name`` looks like a short name and no file has it."""
    if "/" in name or Path(name).exists():
        return ""
    return did_you_mean(name, [*known, *(file.name.removesuffix(ending) for file in _DATA.glob(f"*{ending}"))])


def _file(name: str, ending: str) -> Path | None:
    file = _DATA / f"{name}{ending}"
    return file if file.parent == _DATA and file.is_file() and not Path(name).exists() else None
