"""Commands to attack: what each needs, how it is called, and what it must have made in the end.

A `Case` is prepared in a folder of its own. Its `made` is compared as a whole: with that of a run which nobody
disturbed, or where it may be so, with what was there before. KG_EDIT_KILLS says how often all are killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kg_edit.ship.ledger import Ledger
from tests.kg_edit.command_line import EDITS, GRAPH
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from tests.peak_memory import adds_at_most
from tests.wikidata_cache.wikidata_helpers import EDITS as WIKIDATA_EDITS
from tests.wikidata_cache.wikidata_helpers import Server, save_facts
from wikidata_cache import packaged_extract
from wikidata_cache.answers.snapshot import export_snapshot
from wikidata_cache.sources.source import Fact
from wikidata_cache.stores.manifest import read_manifest

KILLS = int(os.environ.get("KG_EDIT_KILLS", "60"))
MEMORY_MB = 500  # that an attack may add to what the process has

_WIKIDATA = "from wikidata_cache.cli import main; main()"
_KG_EDIT = "from kg_edit.cli.app import main; main()"


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Check that a ``with`` block adds at most `MEMORY_MB`; what the process used in earlier tests does not count.

    Where it would take gigabytes, memory runs out for this process, and not for the machine.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError):  # Linux
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30), hard))
    try:
        with adds_at_most(MEMORY_MB):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` is negative for a signal."""

    code: int
    output: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Case:
    """A command in a folder.

    `made` is what it has made, None where there is nothing whole yet. `again`: exit codes of the same command after it
    was through. `atomic`: what is there at any time is nothing, or all of it.
    """

    name: str
    program: str
    arguments: Sequence[str]
    folder: Path
    made: Callable[[], Any]
    again: tuple[int, ...] = (0,)
    atomic: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *, prepare: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        """The command as a process; `prepare` runs in it before Python begins."""
        return subprocess.Popen(
            [sys.executable, "-c", self.program, *self.arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **self.environment},
            preexec_fn=prepare,
        )

    def run(self, *, prepare: Callable[[], None] | None = None) -> Ended:
        """The command from start to end."""
        begun = time.monotonic()
        with self.start(prepare=prepare) as process:
            output = process.communicate(timeout=300)[0]
        return Ended(process.returncode, output, time.monotonic() - begun)


def in_words(ended: Ended) -> bool:
    """Whether a command that failed has output why in words, without a traceback."""
    return ended.code in (2, 130) and "Traceback" not in ended.output and bool(ended.output.strip())


def fetch(folder: Path, server: Server) -> Case:
    """Subgraphs into a cache, from an endpoint that takes its time."""
    rows = [{key: value for key, value in vars(edit).items() if value} for edit in WIKIDATA_EDITS]
    (folder / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["fetch", "edits.jsonl", "--endpoint", server.url, "--cache", "c.sqlite", "--hops", "3"]
    return Case("fetch", _WIKIDATA, arguments, folder, lambda: _facts(folder / "c.sqlite"))


def load(folder: Path) -> Case:
    """A store of the packaged extract, which two names make twice as long."""
    for name in ("a.nt.gz", "b.nt.gz"):
        (folder / name).write_bytes(packaged_extract().read_bytes())

    def made() -> Any:
        if not (folder / "wd" / "manifest.json").exists():
            return None
        return read_manifest(folder / "wd").content_hash

    arguments = ["load", "a.nt.gz", "b.nt.gz", "--store", "wd"]
    return Case("load", _WIKIDATA, arguments, folder, made, again=(0, 2), atomic=True)


def import_(folder: Path) -> Case:
    """A snapshot of ten thousand facts into a cache."""
    facts = (Fact("label", f"Q{number}", [f"number {number}", "en"]) for number in range(1, 10_000))
    export_snapshot(save_facts(folder / "from.sqlite", *facts), folder / "s.jsonl.gz")
    arguments = ["import", "s.jsonl.gz", "--cache", "c.sqlite"]
    return Case("import", _WIKIDATA, arguments, folder, lambda: _facts(folder / "c.sqlite"), atomic=True)


def edit(folder: Path, model: Path) -> Case:
    """Two edits by ROME, and what they changed."""
    (folder / "edits.jsonl").write_text(EDITS)
    arguments = ["edit", "edits.jsonl", "--method", "rome", "--model", str(model), "--out", "out", "--force", *_QUICK]

    def made() -> Any:
        return _hashes(folder / "out", "patch.safetensors", "records.jsonl", "run.json")

    return Case("edit", _KG_EDIT, arguments, folder, made, environment=_cache(folder))


def overwrite(folder: Path, model: Path) -> Case:
    """The same edits in place of another run, of which nothing is left."""
    case = edit(folder, model)
    first = replace(case, arguments=[*case.arguments, "--set", "steps=2"]).run()
    assert first.code == 0, first.output
    other = case.made()

    def made() -> Any:
        result = case.made()
        return None if result == other else result

    return replace(case, name="overwrite", arguments=[*case.arguments, "--overwrite"], made=made)


def sweep(folder: Path, model: Path) -> Case:
    """Two cells of a grid, each a run of its own."""
    (folder / "edits.jsonl").write_text(EDITS)
    settings = "further_steps = 0\ncontext_lengths = [[5, 2]]\ncovariance = {tokens = 500}"
    data = '[data]\ndataset = "edits"\nfile = "edits.jsonl"'
    grid = f'method = "rome"\n{data}\n[settings]\n{settings}\n[grid]\nsteps = [2, 3]\n'
    (folder / "sweep.toml").write_text(grid)

    def made() -> Any:
        if not (folder / "out" / "table.md").exists():
            return None
        files = sorted((folder / "out").glob("*/records.jsonl"))
        return {file.parent.name: sorted(_scored(file)) for file in files}

    arguments = ["sweep", "sweep.toml", "--model", str(model), "--out", "out"]
    return Case("sweep", _KG_EDIT, arguments, folder, made, environment=_cache(folder))


def _scored(path: Path) -> list[tuple[str, str]]:
    """The id and the phase of each record in a file, once each."""
    lines = [line for line in path.read_text().split("\n")[:-1] if line]
    names = [(entry["id"], entry["phase"]) for entry in map(json.loads, lines)]
    assert len(set(names)) == len(names), "a record is there twice"
    return names


def evaluate(folder: Path, model: Path) -> Case:
    """Scores of two edits, one record a line."""
    (folder / "edits.jsonl").write_text(EDITS)
    arguments = ["evaluate", "--dataset", "edits", "--data", "edits.jsonl", "--method", "rome", "--model", str(model)]

    def made() -> Any:
        path = folder / "out" / "records.jsonl"
        if not path.exists():
            return None
        names = _scored(path)
        return sorted(names) if (folder / "out" / "summary.json").exists() else None

    return Case("evaluate", _KG_EDIT, [*arguments, "--out", "out", *_QUICK], folder, made, environment=_cache(folder))


def covariance(folder: Path, model: Path) -> Case:
    """Covariances of two layers."""
    arguments = ["covariance", "--model", str(model), "--layers", "1-2", "--corpus", "self", "--tokens", "9000"]
    arguments += ["--folder", "stored"]

    def made() -> Any:
        files = sorted((folder / "stored").glob("????????????????.safetensors"))
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files] if len(files) == 2 else None

    return Case("covariance", _KG_EDIT, arguments, folder, made)


def patch_add(folder: Path) -> Case:
    """Three patches into a ledger: all or none."""
    for number in range(3):
        made_up(edits_of(2, start=2 * number)).save(folder / f"{number}.safetensors")
    arguments = ["patch", "add", "ledger", *(f"{number}.safetensors" for number in range(3))]
    return Case("patch add", _KG_EDIT, arguments, folder, lambda: _active(folder), again=(2,), atomic=True)


def subtract(folder: Path) -> Case:
    """An anti-expert taken from an expert: a patch file, whole or not there."""
    for number, name in enumerate(("expert", "anti")):
        made_up(edits_of(2, start=2 * number)).save(folder / f"{name}.safetensors")
    arguments = ["patch", "subtract", "expert.safetensors", "anti.safetensors", "--out", "out.safetensors"]
    made = partial(_hashes, folder, "out.safetensors")
    return Case("patch subtract", _KG_EDIT, arguments, folder, made, again=(2,), atomic=True)


def ledger_remove(folder: Path) -> Case:
    """Remove two edits from a ledger of three patches: both or none."""
    ledger = Ledger.open(folder / "ledger")
    for number in range(3):
        ledger.add(made_up(edits_of(2, start=2 * number)))

    def made() -> Any:
        names = _active(folder)
        return None if names is not None and len(names) == 6 else names

    arguments = ["patch", "remove", "ledger", "e0", "e1"]
    return Case("ledger remove", _KG_EDIT, arguments, folder, made, again=(2,), atomic=True)


_SHORT = ("covariance.corpus=self", "covariance.tokens=500", "context_lengths=[[5, 2]]", "further_steps=0")
_QUICK = [part for setting in _SHORT for part in ("--set", setting)]

OFFLINE: dict[str, Callable[[Path, Path], Case]] = {
    "load": lambda folder, model: load(folder),
    "import": lambda folder, model: import_(folder),
    "edit": edit,
    "overwrite": overwrite,
    "evaluate": evaluate,
    "sweep": sweep,
    "covariance": covariance,
    "patch add": lambda folder, model: patch_add(folder),
    "patch subtract": lambda folder, model: subtract(folder),
    "ledger remove": lambda folder, model: ledger_remove(folder),
}
NAMES = ("fetch", *OFFLINE)


def prepared(name: str, folder: Path, model: Path, server: Server) -> Case:
    """The case of this name, in a folder that is made for it."""
    folder.mkdir(parents=True)
    (folder / "graph.tsv").write_text(GRAPH)
    return fetch(folder, server) if name == "fetch" else OFFLINE[name](folder, model)


def _cache(folder: Path) -> dict[str, str]:
    return {"KG_EDIT_CACHE": str(folder.parent / "cache")}


def _facts(path: Path) -> Any:
    """All facts of a cache, once each; None without a file."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        [[tables]] = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'facts'").fetchall()
        rows = connection.execute("SELECT graph, kind, id, value FROM facts").fetchall() if tables else []
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len({row[:3] for row in rows}) == len(rows), "a fact is there twice"
    return hashlib.sha256(repr(sorted(rows)).encode()).hexdigest() if rows else None


def _hashes(folder: Path, *names: str) -> Any:
    paths = {name: folder / name for name in names}
    if not all(path.exists() for path in paths.values()):
        return None
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def _active(folder: Path) -> Any:
    """The names of the active edits; None without a ledger, or with an empty one."""
    if not (folder / "ledger" / "ledger.jsonl").exists():
        return None
    ledger = Ledger.open(folder / "ledger")
    assert ledger.conflicts() is not None  # every active patch can be read
    return [entry.name for entry in ledger.active] or None
