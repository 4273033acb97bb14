"""Run as a program: an evaluation on a local Ray cluster of two workers, one of them killed under way.

Arguments: the options of the evaluation as JSON, the output folder, and "kill", "leave", or "alone" for the same
evaluation without Ray, whose answers are as long as those of the workers. Prints the number of workers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray

from kg_edit.evaluation.cli.evaluation import EvaluateOptions
from kg_edit.evaluation.cli.ray_run import evaluate_on_ray
from kg_edit.evaluation.config import EvalConfig


def kill_one(out: Path, workers: list[int]) -> None:
    """Kill the first worker as soon as some record is scored."""
    while not any(file.stat().st_size for file in (out / ".shards").glob("*/records.jsonl")):
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)


def main(options: dict[str, Any], out: Path, *, way: str) -> None:
    """Evaluate, and print how many workers it took."""
    options |= {"data": Path(options["data"]), "config": EvalConfig(**options["config"])}
    workers: list[int] = []
    if way == "alone":
        EvaluateOptions(**options).run(out)
        return
    kill = way == "kill"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    killer = threading.Thread(target=kill_one, args=(out, workers), daemon=True)
    if kill:
        killer.start()
    evaluate_on_ray(EvaluateOptions(**options), out, started=workers.append)
    if kill:
        killer.join(timeout=1)
    sys.stdout.write(f"{len(workers)}\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), way=sys.argv[3])
