"""The process that runs queries over a store for `server.py`: it reads tasks one by one, and writes answers to files.

`python -m wikidata_cache.serving.worker FOLDER SECONDS MEGABYTES` prints `{"ready": true}`. Then it reads lines (each a
`Task` as JSON) from its input, and prints one line (an `Outcome`) for each. The process ends if a query does not stop:
by an alarm signal a little after SECONDS, or when the query needs more than MEGABYTES of memory. A query that is nested
too deeply for the engine's parser ends it too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TypedDict

from pyoxigraph import QueryResultsFormat, QueryTriples, RdfFormat, Store

from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.sources.user_queries import forbid_service

_GRACE = 5  # seconds after the limit; normally the server has killed the process before they are over
LARGEST = 1_000_000_000  # bytes of an answer


class Task(TypedDict):
    """A query, the media types accepted for its answer (best first), and the file to write the answer to."""

    query: str
    accept: Sequence[str]
    out: str


class Outcome(TypedDict):
    """The HTTP status; `text` is the media type of the written file (status 200), else the error message."""

    status: int
    text: str


class _TooLargeError(Exception):
    pass


class _Limited:
    """A file that raises _TooLargeError instead of growing beyond LARGEST bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._remaining = LARGEST

    def write(self, data: bytes) -> int:
        self._remaining -= len(data)
        if self._remaining < 0:
            raise _TooLargeError
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def answer(store: Store, task: Task) -> Outcome:
    """Run a query, write its answer to the task's file, and return the outcome."""
    try:
        forbid_service(task["query"], "this server does not allow that")
        with Path(task["out"]).open("wb") as file:
            results = store.query(task["query"])
            is_graph = isinstance(results, QueryTriples)
            format_of = RdfFormat.from_media_type if is_graph else QueryResultsFormat.from_media_type
            # The first accepted format that is possible, else the default.
            usual = "application/n-triples" if is_graph else "application/sparql-results+json"
            chosen = next(filter(format_of, task["accept"]), usual)
            results.serialize(_Limited(file), format_of(chosen))  # type: ignore[arg-type]
            return {"status": 200, "text": chosen}
    except (WikidataCacheError, SyntaxError, ValueError) as error:
        return {"status": 400, "text": f"The query cannot be answered: {error}"}
    except _TooLargeError:
        return {
            "status": 500,
            "text": f"The answer has more than {LARGEST / 1e6:g} MB. Use LIMIT to get less at a time.",
        }
    except (OSError, RuntimeError) as error:
        return {"status": 500, "text": f"The query failed: {error}"}


def main(folder: str, seconds: str, megabytes: str) -> None:
    """Answer the tasks on standard input until it ends."""
    with suppress(ImportError, ValueError, OSError):  # Windows has no `resource`; a lower limit may be set already
        import resource

        size = int(megabytes) << 20
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    store = Store.read_only(folder)
    _print({"ready": True})
    for line in sys.stdin:
        if hasattr(signal, "alarm"):  # not on Windows
            signal.alarm(int(seconds) + _GRACE)
        outcome = answer(store, json.loads(line))
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        _print(outcome)


def _print(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with suppress(BrokenPipeError, KeyboardInterrupt):
        main(*sys.argv[1:])
    os._exit(0)  # skips the flush of the pipes, which nobody reads any more
