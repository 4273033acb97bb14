"""How long `kg-edit demo` takes from an empty cache, and the second time. Ends with one JSON line."""

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


def seconds(folder: Path) -> tuple[float, float]:
    """Run the demo with its cache and its output in ``folder``; return the seconds, and the processor's seconds."""
    command = [sys.executable, "-m", "kg_edit", "demo", "--out", str(folder / "demo")]
    begin, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "KG_EDIT_CACHE": str(folder / "cache")})  # noqa: S603
    wall, end = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def main() -> None:
    """Run the demo twice, and end with one JSON line."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (first, first_cpu), (second, second_cpu) = seconds(Path(folder)), seconds(Path(folder))
    result = {
        "name": "first_minute",
        "ratio": round(first / second, 1),
        "first_seconds": round(first, 1),
        "first_processor_seconds": round(first_cpu, 1),
        "second_seconds": round(second, 1),
        "second_processor_seconds": round(second_cpu, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
