"""A SPARQL endpoint on 127.0.0.1 over a store on disk: starts the `oxigraph` server of PyPI, read-only."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wikidata_cache.errors import ServeError
from wikidata_cache.stores.manifest import engine_folder

HOST = "127.0.0.1"
_START_S = 30.0
_POLL_S = 0.02


@contextmanager
def served(folder: Path, *, port: int | None = None, timeout_s: int = 60) -> Iterator[str]:
    """Serve a store made by `load`, or a plain Oxigraph folder, during the block; yields the URL (`…/query`).

    `port` None or 0 takes a free one. Queries are cut off after `timeout_s` seconds. Only this machine can reach it.

    Raises ServeError where the server is not installed, the port is taken, or it does not start; StoreError
    where the folder holds no whole store, or a damaged one.
    """
    binary, location = find_server(), engine_folder(folder)
    chosen = _free_port(port or 0)
    address = f"{HOST}:{chosen}"
    command = [binary, "serve-read-only", "--location", str(location), "--bind", address, "--timeout-s", str(timeout_s)]
    with tempfile.TemporaryFile() as said, _running(command, said) as process:
        _wait_until_up(process, chosen, said)
        yield f"http://{address}/query"


def find_server() -> str:
    """The `oxigraph` program beside this Python, or on the PATH; raises ServeError where there is none."""
    beside = shutil.which("oxigraph", path=str(Path(sys.executable).parent))
    if found := beside or shutil.which("oxigraph"):
        return found
    raise ServeError('the oxigraph server is not installed; install it with: pip install "kg-edit[serve]"')


@contextmanager
def _running(command: list[str], said: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C then reaches this process only, which stops the server.
    process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port(port: int) -> int:
    """The port itself, or a free one for 0; raises ServeError where another server already listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ServeError(f"port {port} of {HOST} cannot be used ({error}); give another --port") from error
        return int(probe.getsockname()[1])


def _wait_until_up(process: subprocess.Popen[bytes], port: int, said: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(_POLL_S)
        else:
            return
    said.seek(0)
    words = " ".join(said.read().decode(errors="replace").split()[-60:])
    raise ServeError(f"the oxigraph server did not start on port {port}: {words or 'it said nothing'}")
