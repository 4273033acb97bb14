"""The `oxigraph` server of PyPI on loopback over a store, as an engine to compare with."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wikidata_cache.stores.manifest import ENGINE, is_store


@contextmanager
def oxigraph_server(folder: Path) -> Iterator[str]:
    """Serve a store during the block; yields the URL. Skips the test where the program is not installed."""
    program = shutil.which("oxigraph", path=str(Path(sys.executable).parent)) or shutil.which("oxigraph")
    if program is None:
        pytest.skip("the oxigraph server is not installed (pip install oxigraph)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    database = folder / ENGINE if is_store(folder) else folder
    where = ["--location", str(database), "--bind", f"127.0.0.1:{port}"]
    with subprocess.Popen([program, "serve-read-only", *where], stderr=subprocess.DEVNULL) as process:
        try:
            _wait_until_up(port)
            yield f"http://127.0.0.1:{port}/query"
        finally:
            process.terminate()


def _wait_until_up(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise TimeoutError
