"""Virtuoso, a SPARQL engine that shares no code with the others, on loopback ports."""

import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_INI = """\
[Database]
DatabaseFile = {folder}/virtuoso.db
ErrorLogFile = {folder}/virtuoso.log
LockFile = {folder}/virtuoso.lck
TransactionFile = {folder}/virtuoso.trx
xa_persistent_file = {folder}/virtuoso.pxa
[TempDatabase]
DatabaseFile = {folder}/virtuoso-temp.db
TransactionFile = {folder}/virtuoso-temp.trx
[Parameters]
ServerPort = 127.0.0.1:{sql}
DirsAllowed = {folder}
NumberOfBuffers = 10000
[HTTPServer]
ServerPort = 127.0.0.1:{http}
ServerRoot = {folder}
ServerThreads = 10
[SPARQL]
ResultSetMaxRows = {rows}
MaxQueryExecutionTime = 60
"""


@contextmanager
def virtuoso(files: Sequence[Path], folder: Path, *, rows: int) -> Iterator[str]:
    """The URL of a Virtuoso over N-Triples files that gives out at most `rows` rows; a skip where it is absent."""
    if not (shutil.which("virtuoso-t") and shutil.which("isql-vt")):
        pytest.skip("Virtuoso is not installed (Debian: apt-get install virtuoso-opensource-7)")
    sql, http = _free_ports(2)
    (folder / "virtuoso.ini").write_text(_INI.format(folder=folder, sql=sql, http=http, rows=rows))
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(["virtuoso-t", "+configfile", "virtuoso.ini", "+foreground"], cwd=folder, stderr=log)
        try:
            _wait_until_up(process, http, folder / "log.txt")
            _load(files, folder, sql)
            yield f"http://127.0.0.1:{http}/sparql"
        finally:
            process.kill()  # nothing in it is worth a checkpoint
            process.wait()


def _load(files: Sequence[Path], folder: Path, port: int) -> None:
    lines = []
    for file in files:
        shutil.copy(file, folder / file.name)
        lines.append(f"ld_dir('{folder}', '{file.name}', 'http://example.org/graph');\n")
    (folder / "load.sql").write_text("".join([*lines, "rdf_loader_run();\n"]))
    command = ["isql-vt", f"127.0.0.1:{port}", "dba", "dba", "load.sql"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _wait_until_up(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            try:
                process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"Virtuoso stopped: {log.read_text()[-500:]}")
        else:
            return
    pytest.fail("Virtuoso did not start within 30 s")
