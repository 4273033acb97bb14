"""Run as a program: kill evaluations at random moments, resume them, and report what differs from one left alone.

The model is loaded once; every evaluation is a process forked from this one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.run import evaluate
from tests.kg_edit.evaluation.conftest import CITIES, record
from tests.kg_edit.evaluation.test_sequences import TEXT, Depends
from tests.kg_edit.tiny import tiny

SCHEDULES = ("single", "batch:2,sequential:4", "batch:4", "sequential:5")


def in_a_process(work: Callable[[], object]) -> int:
    """Fork, and do ``work`` there; the process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def results_of(out: Path) -> dict[str, object]:
    """All that a run left, without times, and without the code's commit, which may change while the tests run."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    summary = json.loads((out / "summary.json").read_text())
    summary["provenance"] = {
        name: value for name, value in summary["provenance"].items() if name not in ("commit", "other_environments")
    }
    # A kill during a write leaves its temporary file, whose name begins with a dot.
    patches = {file.name: file.read_bytes().hex() for file in sorted((out / "patches").glob("[!.]*"))}
    return {
        "records": [
            {name: value for name, value in line.items() if name not in ("seconds", "memory")} for line in lines
        ],
        "general": (out / "general.jsonl").read_text() if (out / "general.jsonl").exists() else None,
        "summary": {name: value for name, value in summary.items() if name not in ("seconds_per_edit", "peak_memory")},
        "patches": patches,
        "curve": (out / "curve.svg").read_text() if (out / "curve.svg").exists() else None,
    }


def main(folder: Path, kills: int) -> None:
    """Kill ``kills`` runs; a line of JSON each."""
    torch.set_num_threads(1)
    model, edits = tiny("llama"), [record(number, city) for number, city in enumerate(CITIES[:6])]

    def run(out: Path, schedule: str) -> None:
        os.environ["KG_EDIT_CACHE"] = str(out.parent / f"cache of {out.name}")
        evaluate(Depends(model), model, edits, out=out, config=EvalConfig(schedule=schedule, general=TEXT))

    expected, seconds = {}, {}
    for schedule in SCHEDULES[:kills]:
        start, out = time.monotonic(), folder / f"whole {schedule}"
        _, status = os.waitpid(in_a_process(lambda out=out, schedule=schedule: run(out, schedule)), 0)
        assert status == 0
        expected[schedule], seconds[schedule] = results_of(out), time.monotonic() - start
    moments, trial = random.Random(0), 0  # noqa: S311 - nothing secret
    while trial < kills:
        schedule = list(expected)[trial % len(expected)]
        out = folder / f"{trial} {time.monotonic_ns()}"
        child = in_a_process(lambda out=out, schedule=schedule: run(out, schedule))
        time.sleep(moments.uniform(0, seconds[schedule]))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            continue  # it had ended before
        file = out / "records.jsonl"
        before = file.read_bytes().count(b"\n") if file.exists() else 0
        _, status = os.waitpid(in_a_process(lambda out=out, schedule=schedule: run(out, schedule)), 0)
        same = status == 0 and results_of(out) == expected[schedule]
        sys.stdout.write(json.dumps({"schedule": schedule, "lines": before, "same": same, "out": str(out)}) + "\n")
        trial += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
