"""How time and memory grow: with the model's size, with edits, with tokens of the covariance, with a node's statements.

Each point is measured in a process of its own, with one thread: processor seconds, and the most memory that the process
held. Beside the memory is what `kg-edit plan` estimates, and measured / planned.

- size: one ROME edit of twelve steps with its contexts and its C, on random weights in the shapes of known models, in
  bfloat16 where float32 does not fit into the free memory;
- edits: of a random model of 4 blocks of width 128, three steps each; AlphaEdit in batches of 100;
- tokens: C of one layer of SmolLM2-135M from text;
- degree: the subgraph of one edit from a networkx graph, o* having so many statements.

Draws `growth.svg` and ends with one JSON line. `--full` has the large points (an hour), `--quick` the small ones alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.growth_picture import draw

Row = dict[str, Any]
METHODS = ("memit", "alphaedit", "grace")


class Extent(NamedTuple):
    """The points of each curve."""

    size: Sequence[str]
    edits: Sequence[int]
    tokens: Sequence[int]
    degree: Sequence[int]


QUICK = Extent(("SmolLM2-135M",), (1, 10, 100), (1000, 3000), (10, 100, 1000))
USUAL = Extent(
    ("SmolLM2-135M", "SmolLM2-360M"), (1, 10, 100, 1000), (1000, 3000, 10_000, 30_000), (10, 100, 1000, 10_000, 100_000)
)
FULL = USUAL._replace(size=(*USUAL.size, "Llama-3.2-1B", "GPT-2 XL"), edits=(*USUAL.edits, 10_000))


def points(extent: Extent, curves: Sequence[str]) -> Iterator[Row]:
    """Yield the points to measure, curve by curve."""
    of = {
        "size": [{"model": name} for name in extent.size],
        "edits": [{"method": method, "n": count} for method in METHODS for count in extent.edits],
        "tokens": [{"n": count} for count in extent.tokens],
        "degree": [{"n": count} for count in extent.degree],
    }
    for curve in curves:
        yield from ({"curve": curve, **point} for point in of[curve])


def measured(point: Row) -> Row:
    """Measure a point in a separate process with an empty cache folder; return the point with the measurements.

    Raises:
        RuntimeError: the process failed; the message has its last lines.
    """
    with tempfile.TemporaryDirectory() as cache:
        settings = {"OMP_NUM_THREADS": "1", "KG_EDIT_CACHE": cache, "TQDM_DISABLE": "1"}
        command = [sys.executable, __file__, "--point", json.dumps(point)]
        process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})  # noqa: S603
    if process.returncode:
        raise RuntimeError(f"{point}: {process.stderr[-2000:]}")
    measurements: Row = json.loads(process.stdout.splitlines()[-1])
    return {**point, **measurements}


def table_line(row: Row) -> str:
    """Return a line of the table."""
    name = f"{row['curve']:7}{row.get('model', row.get('method', '')):13}{row.get('n', ''):>13,}"
    if "skipped" in row:
        return f"{row['curve']:7}{row.get('model', ''):13} skipped: {row['skipped']}"
    line = f"{name}  {row['seconds']:9.3f} s  {row['peak_mb']:8.0f} MB  {row['above_mb']:8.1f} MB above"
    if "planned_mb" in row:
        line += f"   planned {row['planned_mb']:8.0f} MB ({row['peak_mb'] / row['planned_mb']:.2f})"
    return line + (f"  {row['dtype']}" if "dtype" in row else "")


def main() -> None:
    """Run the benchmark, print and draw the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default="size,edits,tokens,degree", help="which, with commas")
    parser.add_argument("--out", type=Path, default=Path("growth.svg"), help="the picture")
    parser.add_argument("--steps", action="store_true", help="also print each step's seconds, and the planned memory")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="small points alone")
    extent.add_argument("--full", action="store_true", help="also the large points")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        from tools.growth_points import measure  # imported here, so that the parent process stays small

        print(json.dumps(measure(json.loads(options.point))))
        return
    chosen = QUICK if options.quick else FULL if options.full else USUAL
    rows = []
    for point in points(chosen, options.curves.split(",")):
        rows.append(measured(point))
        print(table_line(rows[-1]), flush=True)
        if options.steps and "steps" in rows[-1]:
            print("   ", {key: rows[-1].get(key) for key in ("steps", "planned_memory")}, flush=True)
    draw([row for row in rows if "skipped" not in row], options.out)
    print(json.dumps({"name": "growth", "points": [short(row) for row in rows], "threads": 1}))


def short(row: Row) -> Row:
    """Return a point for the JSON line: names, and numbers with three digits."""
    names = ("curve", "model", "method", "n", "dtype", "skipped")
    numbers = ("seconds", "peak_mb", "above_mb", "planned_mb")
    rounded = {name: float(f"{row[name]:.3g}") for name in numbers if name in row}
    return {name: row[name] for name in names if name in row} | rounded


if __name__ == "__main__":
    main()
