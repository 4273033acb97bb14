"""How long `kg-edit demo` takes from an empty cache, and the second time. Ends with one JSON line.

With --model the demo's three edits are made in that model by ROME instead, which needs no graph.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EDITS = Path(__file__).resolve().parents[1] / "kg_edit" / "data" / "demo.jsonl"


def seconds(folder: Path, command: list[str]) -> tuple[float, float]:
    """Run ``command`` with its cache and its output in ``folder``; return the seconds, and the processor's seconds."""
    command = [sys.executable, "-m", "kg_edit", *command, "--out", str(folder / "out")]
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "KG_EDIT_CACHE": str(folder / "cache")})  # noqa: S603
    wall = time.perf_counter() - start
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def main() -> None:
    """Run it twice, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, hub id or .gguf file")
    model = parser.parse_args().model
    command = ["edit", str(EDITS), "--method", "rome", "--model", model] if model else ["demo"]
    with tempfile.TemporaryDirectory() as folder:
        (first, first_cpu), (second, second_cpu) = (seconds(Path(folder), command) for _ in range(2))
    result = {
        "name": "first_minute",
        "model": model or "smollm2-135m",
        "ratio": round(first / second, 1),
        "first_seconds": round(first, 1),
        "first_processor_seconds": round(first_cpu, 1),
        "second_seconds": round(second, 1),
        "second_processor_seconds": round(second_cpu, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
