"""The command line, through `main`: help, what models and methods there are, and what a patched model says."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from kg_edit import __version__
from kg_edit.cli import catalogue
from kg_edit.cli.plan import plan
from kg_edit.methods import method_names
from tests.everyday import keep_first
from tests.kg_edit.command_line import (
    ROME,
    Run,
    cache,
    edit,
    generate,
    kg_edit,
    place,
    tiny_folder,
)

__all__ = ["cache", "edit", "kg_edit", "place", "tiny_folder"]  # fixtures

COMMANDS = ["edit", "demo", "generate", "evaluate", "compare", "merge", "locate", "methods", "models", "doctor"]
COMMANDS += ["plan", "serve", "sweep"]


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS)], ids=["none", *COMMANDS])
def test_help_shows_an_example(arguments: tuple[str, ...], kg_edit: Run) -> None:
    result = kg_edit(*arguments, "--help")
    assert result.code == 0
    shown = " ".join(result.out.replace("│", " ").split())
    assert re.search(rf"Examples?: [•-]? ?{' '.join(('kg-edit', *arguments))}", shown)


def test_the_example_of_plan_can_be_run(kg_edit: Run) -> None:
    (example,) = re.findall(r"- `kg-edit (.*)`", plan.__doc__ or "")
    result = kg_edit(*example.split())
    assert result.code == 0, result.err
    assert "8,030,261,248 parameters" in result.out


def test_generate_shows_the_change(kg_edit: Run, edit: Run, tiny_folder: Path) -> None:
    assert edit(*ROME, "--set", "learning_rate=5", "--set", "hold=0.01").code == 0
    plain = generate(kg_edit, tiny_folder)
    patched = generate(kg_edit, tiny_folder, "--patch", "out/patch.safetensors")
    assert plain.code == patched.code == 0
    assert plain.out.startswith("LeBron James plays for")
    assert plain.out != patched.out


@pytest.mark.slow
def test_the_folder_of_an_edit_stands_for_its_patch(kg_edit: Run, edit: Run, place: Path, tiny_folder: Path) -> None:
    assert edit(*ROME).code == 0
    file = generate(kg_edit, tiny_folder, "--patch", "out/patch.safetensors")
    assert generate(kg_edit, tiny_folder, "--patch", "out") == file
    file = kg_edit("patch", "check", "out/patch.safetensors")
    assert kg_edit("patch", "check", "out") == file
    merged = kg_edit("patch", "merge", "out", "--out", "merged")
    assert merged.code == 0 and "2 edits in its weights" in merged.out


def test_generate_from_nothing(kg_edit: Run, tiny_folder: Path) -> None:
    result = kg_edit("generate", "", "--tokens", "3", "--model", tiny_folder)
    assert result.code == 2
    assert "is empty" in result.err


def test_methods_and_models(kg_edit: Run) -> None:
    listed = kg_edit("methods")
    assert listed.code == 0
    lines = {line.split()[0]: line for line in listed.out.splitlines()[1:]}  # a method is one line, however long
    assert list(lines) == list(method_names())
    assert all(word in lines["rome"] for word in ("weights", "sequence", "recomputed", "arXiv 2202.05262"))
    shown = kg_edit("methods", "rome")
    assert all(word in shown.out for word in ("learning_rate", "presets: default, fast, paper"))
    assert "did you mean 'rome'" in kg_edit("methods", "roem").err
    named = kg_edit("models")
    assert named.code == 0
    assert all(word in named.out for word in ("smollm2-135m", "pip install", "gpt2, gpt_neox"))
    assert kg_edit("--version").out == f"kg-edit {__version__}\n"


def test_methods_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe a method is a line, so that it can be searched."""
    shown = io.StringIO()
    console = Console(file=shown, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(catalogue, "stdout", lambda: console)
    catalogue._list()
    lines = shown.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines) and len(lines) > len(method_names())
    words = {word for line in lines for word in line.split()}
    assert words >= {"codebook", "L-infinity", "down-projection", *method_names()}


def test_doctor(kg_edit: Run, tiny_folder: Path) -> None:
    result = kg_edit("doctor", tiny_folder)
    assert result.code == 0
    assert "LlamaForCausalLM" in result.out
    assert "restored: bit for bit" in result.out
    assert kg_edit("doctor", tiny_folder, "--layer", "9").code == 2


@pytest.mark.parametrize(
    ("arguments", "goes_on"),
    [
        (("edit", "edits.jsonl", "--out", "out"), True),
        (("judge", "out", "--data", "edits.jsonl", "--judge", "http://localhost:1/v1"), True),
        (("mend", "train", "--data", "edits.jsonl", "--out", "out"), True),
        (("glame-net", "train", "--graph", "graph.tsv", "--out", "out"), True),
        (("drift", "--data", "old.json", "--stream", "new.json", "--out", "out"), True),
        (("covariance", "--layers", "1"), True),
        (("covariance", "list"), False),
        (("patch", "edit", "ledger", "edits.jsonl"), False),
        (("generate", "edit"), False),
        (("data", "check", "edits.jsonl"), False),
        (("data", "ripples", "--out", "x.json"), True),
        (("--help",), False),
    ],
)
def test_only_what_goes_on_says_so_when_it_is_stopped(
    arguments: tuple[str, ...], goes_on: bool, kg_edit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> None:
        raise SystemExit(130)

    monkeypatch.setattr("kg_edit.cli.app.app", stopped)
    result = kg_edit(*arguments)
    again = "; run the same command again to continue" if goes_on else ""
    assert (result.code, result.err) == (130, f"kg-edit: stopped{again}\n")


@pytest.mark.parametrize("environment", keep_first([{"COLUMNS": "60"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}]))
def test_any_terminal(environment: dict[str, str], edit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = edit(*ROME)
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= int(environment.get("COLUMNS", "200"))
    assert "\x1b" not in result.out + result.err
