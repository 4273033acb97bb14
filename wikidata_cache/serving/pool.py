"""A pool of processes that run queries (`worker.py`).

The pool starts a process when it is needed, reuses it, and kills it when a query exceeds its time limit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from wikidata_cache.errors import ServeError
from wikidata_cache.serving.worker import Outcome, Task

_START_S = 30.0  # seconds that a process may take to start
_STOPPING = "the server is being stopped"


class WorkerPool:
    """At most `size` processes over a database folder, each with at most `megabytes` of memory; `close` ends them.

    A query may take `seconds`.
    """

    def __init__(self, folder: Path, *, seconds: int, size: int = 4, megabytes: int = 4_000) -> None:
        self._command = [sys.executable, "-m", "wikidata_cache.serving.worker", str(folder)]
        self._command += [str(seconds), str(megabytes)]
        self._seconds = seconds
        self._megabytes = megabytes
        self._slots = threading.Semaphore(size)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._idle.append(self._started())

    def run(self, query: str, accept: Sequence[str], out: Path) -> Outcome:
        """Run a query and write its answer to the file `out`; return the outcome.

        `accept` are the wanted media types, best first. The pool's time limit includes the wait for a free process.
        """
        deadline = time.monotonic() + self._seconds
        if not self._slots.acquire(timeout=self._seconds):
            return {"status": 503, "text": "All processes are busy with other queries; try again later."}
        try:
            worker = None
            with suppress(IndexError):
                worker = self._idle.pop()
            if worker is None or not worker.is_alive():  # the system ends idle processes too where memory is short
                worker = self._started()
            outcome = worker.run({"query": query, "accept": list(accept), "out": str(out)}, deadline)
            if outcome is not None:
                self._idle.append(worker)
                return outcome
            worker.end()
            self._all.discard(worker)
        except ServeError as error:
            return {"status": 500, "text": str(error)}
        finally:
            self._slots.release()
        if self._closed:
            return {"status": 500, "text": _STOPPING}
        if time.monotonic() >= deadline:
            return {"status": 504, "text": f"The query timed out: it was stopped after {self._seconds} s."}
        causes = f"it took more than {self._megabytes} MB of memory, is nested too deeply, or the store is damaged"
        return {"status": 500, "text": f"The query was stopped: {causes}."}

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            for worker in tuple(self._all):  # a copy: `run` discards its process as soon as it has ended
                worker.end()

    def _started(self) -> _Worker:
        with self._lock:  # `close` must not miss a process
            if self._closed:
                raise ServeError(_STOPPING)
            worker = _Worker(self._command)
            self._all.add(worker)
        try:
            worker.wait_until_ready()
        except ServeError:
            self._all.discard(worker)
            raise
        return worker


class _Worker:
    """One process. Only one thread at a time may call `run`."""

    def __init__(self, command: Sequence[str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        # In a session of its own, the process does not get Ctrl-C; the server gets it and ends the process.
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._read_lines, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Wait until the process reports that it is ready."""
        if self._line(time.monotonic() + _START_S) is None:
            self.end()
            self._errors.seek(0)
            words = " ".join(self._errors.read().decode(errors="replace").split()[-60:])
            raise ServeError(f"the process that runs queries did not start: {words or 'it printed nothing'}")

    def run(self, task: Task, deadline: float) -> Outcome | None:
        """Return the outcome of a task; None if the process has ended, or has not answered by the deadline."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        line = self._line(deadline)
        outcome: Outcome | None = None if line is None else json.loads(line)
        return outcome

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self, deadline: float) -> str | None:
        try:
            return self._lines.get(timeout=max(0.0, deadline - time.monotonic())) or None
        except Empty:
            return None

    def _read_lines(self) -> None:
        """Put each line of output into the queue, and "" at its end: a pipe has no read with a time limit."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")
