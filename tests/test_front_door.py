"""`import kg_edit` and the help of the commands are cheap: nothing heavy is imported; the names are the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import kg_edit
import wikidata_cache
from kg_edit.cli.app import main
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up

HEAVY = ("torch", "transformers", "torch_geometric", "numpy", "networkx", "rdflib", "SPARQLWrapper", "matplotlib")
COMMANDS = {
    "kg_edit": (["--help"], ["edit", "--help"], ["evaluate", "--help"]),
    "wikidata_cache": (["--help"], ["fetch", "--help"]),
}


def python(*arguments: str) -> str:
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("package", COMMANDS)
def test_nothing_heavy_is_imported(package: str) -> None:
    code = f"import sys; from {package}.cli.app import app\n"
    code += "".join(f"app({command}, standalone_mode=False)\n" for command in COMMANDS[package])
    *pages, imported = python("-c", f"{code}print(sorted({set(HEAVY)!r} & sys.modules.keys()))").splitlines()
    assert sum("Usage:" in line for line in pages) == len(COMMANDS[package])
    assert imported == "[]"


BEFORE_TORCH = {
    "--help": "Usage: kg-edit",
    "methods": "glame",
    "metrics": "efficacy",
    "edit --help": "--method",
    "edit edits.jsonl --stepz 3": "--stepz",
    "methods roem": "did you mean 'rome'",
    "models": "smollm2-135m",
    "metrics --help": "List the metrics",
    "edit none.jsonl --method rome --out out": "none.jsonl: no such file",
    "edit edits.jsonl --method rmoe --out out": "did you mean 'rome'",
    "edit edits.jsonl --method rome --model smollm-135m --out out": "did you mean 'smollm2-135m'",
    "edit edits.jsonl --graph none.nt.gz --out out": "none.nt.gz: does not exist",
    "edit edits.jsonl --graph extrct --out out": "did you mean 'extract'",
    "edit edits.jsonl --method rome --model ./none --out out": "there is no folder ./none",
    "evaluate --data none.json --out out": "none.json: no such file",
    "evaluate --data ripples-smollm2-135 --out out": "did you mean 'ripples-smollm2-135m'",
    "evaluate --data ripples-smollm2-135m --dataset riples --out out": "did you mean 'ripples'",
    "compare none": "none has no run",
    "merge out none": "none has no run",
    "judge none --data none.json --judge http://localhost:1": "none has no run",
    "generate --patch none.safetensors x": "there is no such file",
    "locate none.jsonl": "none.jsonl: no such file",
    "sweep none.toml": "can't read none.toml",
    "data check none.json": "none.json: no such file",
    "mend train --data none.json --out out": "none.json: no such file",
    "plan --method rmoe": "did you mean 'rome'",
    "serve --ledger edits.jsonl": "give a folder for the ledger",
    "covariance --layers 1 --model smollm-135m": "did you mean 'smollm2-135m'",
    "doctor smollm-135m": "did you mean 'smollm2-135m'",
    "patch list none": "there is no ledger at none",
    "patch show none": "there is no ledger at none",
    "patch remove none x": "there is no ledger at none",
    "patch undo none": "there is no ledger at none",
    "patch check none": "there is no ledger, patch or run folder none",
    "patch check ledgr": "did you mean ledger?",
    "patch add none none.safetensors": "there is no such file",
    "patch edit none none.jsonl --method rome": "none.jsonl: no such file",
    "patch show ledger/@9": "ledger has no event 9",
    "patch add ledger/@1 none.safetensors": "is an earlier state of ledger",
    "patch list ledger/@1": "LeBron a0 originates from → Rome",
    "patch list ledger": "e0 and e1 are written under nearly the same key",
}
RUNNER = """
import contextlib, io, json, sys
from kg_edit.cli.app import main
for command in json.loads(sys.stdin.read()):
    sys.argv, said = ["kg-edit", *command.split()], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main()
    found = [name for name in sys.modules if name in ("torch", "transformers") or name.endswith(".method")]
    print(json.dumps([command, found, " ".join(said.getvalue().split())]))
"""


def test_what_is_quick_to_say_waits_for_no_torch(tmp_path: Path) -> None:
    """Lists, and whatever was misspelt: each is said before anything heavy is imported, in one process all of them."""
    (tmp_path / "edits.jsonl").write_text('{"subject": "Ann", "prompt": "{} is in", "target_new": "Rome"}\n')
    twice = made_up(edits_of(1))
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(twice)
    ledger.add(WeightPatch(factors=twice.factors, provenance=made_up(edits_of(1, start=1)).provenance))
    process = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([*BEFORE_TORCH]),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert process.returncode == 0, process.stderr
    for command, imported, output in map(json.loads, process.stdout.splitlines()):
        assert BEFORE_TORCH[command] in output, command
        assert imported == [], command
    assert len(process.stdout.splitlines()) == len(BEFORE_TORCH)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("kg-edit me", {"methods", "metrics", "merge", "mend"}),
        ("kg-edit edit --method rom", {"rome", "rome-kg"}),
        ("kg-edit patch li", {"list"}),
        ("kg-edit edit --graph ex", {"extract"}),
    ],
)
def test_a_shell_completes(
    words: str, offered: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_KG_EDIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setattr("sys.argv", ["kg-edit"])
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")  # as in the console script
    with pytest.raises(SystemExit):
        main()
    assert set(capsys.readouterr().out.split()) == offered


@pytest.mark.parametrize("package", [kg_edit, wikidata_cache])
def test_public_names_are_imported_at_first_use(package: ModuleType) -> None:
    names = package.__all__
    assert all(getattr(package, name) is not None for name in names) and set(names) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"has no attribute 'edits_of'; it has: {', '.join(sorted(names))}"):
        package.edits_of  # noqa: B018


@pytest.mark.slow
def test_it_runs_as_a_module() -> None:
    assert python("-m", "kg_edit", "--version") == f"kg-edit {kg_edit.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_interrupt_during_the_imports_is_one_line(command: str) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"][command.replace("_", "-")].split(":")
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "{command}.cli.console":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from {module} import {function}
{function}()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (process.returncode, process.stdout) == (130, "") and process.stderr.endswith("stopped\n")
    assert process.stderr.count("\n") == 1
