"""The pool of processes when it is closed while queries run."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wikidata_cache.serving import pool as module
from wikidata_cache.serving.pool import WorkerPool


class Endless:
    """A process whose query runs until the process is ended."""

    def __init__(self, command: list[str]) -> None:
        self.running, self.ended = threading.Event(), threading.Event()

    def wait_until_ready(self) -> None:
        pass

    def is_alive(self) -> bool:
        return True

    def run(self, task: object, deadline: float) -> None:
        self.running.set()
        self.ended.wait()

    def end(self) -> None:
        self.ended.set()
        time.sleep(0.1)  # in which the thread of the query goes on


def test_close_ends_all_processes_while_their_queries_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[Endless] = []

    def start(command: list[str]) -> Endless:
        workers.append(Endless(command))
        return workers[-1]

    monkeypatch.setattr(module, "_Worker", start)
    pool = WorkerPool(tmp_path, seconds=60, size=3)
    with ThreadPoolExecutor(3) as threads:
        outcomes = [threads.submit(pool.run, "ASK {}", (), tmp_path / "out") for _ in range(3)]
        try:
            while len(workers) < 3 or not all(worker.running.is_set() for worker in workers):
                time.sleep(0.01)
            pool.close()
            assert all(worker.ended.is_set() for worker in workers)
        finally:
            for worker in workers:
                worker.ended.set()
    stopping = {"status": 500, "text": "the server is being stopped"}
    assert [outcome.result() for outcome in outcomes] == [stopping] * 3
