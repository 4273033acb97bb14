"""Settings, numbers, grids, names and plug-ins made to do harm: each is one message, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kg_edit.errors import ConfigError, KgEditError
from kg_edit.evaluation.cli.sweep_grid import cells_of, read_sweep
from kg_edit.methods import find_method, method_names
from tests.attacks.commands import bounded_memory
from tests.everyday import keep_first
from tests.kg_edit.command_line import Run, cache, content, kg_edit, place, tiny_folder

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

HUGE = "99999999999999999999"
LONG = "x" * 5000
ROME = ("edit", "edits.jsonl", "--method", "rome", "--out", "out")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "tokens to generate": ("generate", "x", "--tokens", HUGE),
    "rate": (*ROME, "--set", "learning_rate=1e308"),
    "inner number": (*ROME, "--set", "covariance.ridge=1e300"),
    "layer": (*ROME, "--layer", HUGE),
    "steps in words": (*ROME, "--set", "steps=0x10"),
    "device for a text": (*ROME, "--set", "covariance.corpus=/dev/zero"),
    "tokens of a covariance": ("covariance", "--layers", "1", "--tokens", HUGE),
    "layers of a covariance": ("covariance", "--layers", "0-99999999", "--tokens", "500"),
    "seed of a covariance": ("covariance", "--layers", "1", "--corpus", "self", "--seed", HUGE),
    "noise samples": ("locate", "edits.jsonl", "--samples", "1000000"),
    "skipped records": ("evaluate", "--dataset", "edits", "--data", "edits.jsonl", "--skip", HUGE),
    "seed of an evaluation": ("evaluate", "--dataset", "edits", "--data", "edits.jsonl", "--seed", HUGE),
    "size of a request": ("serve", "--max-body", "nan"),
    "age": ("cache", "all", "--clear", "--older-than", "inf", "--yes"),
    "long file": ("edit", f"{LONG}.jsonl", "--method", "rome", "--out", "out"),
    "long graph": ("edit", "edits.jsonl", "--method", "glame", "--graph", LONG, "--out", "out"),
    "long graph of names": ("edit", "edits.jsonl", "--method", "glame", "--graph", f"{LONG}.csv", "--out", "out"),
    "long templates": (*ROME, "--templates", LONG),
    "long model": ("generate", "x", "--model", LONG),
    "long folder": ("edit", "edits.jsonl", "--method", "rome", "--out", LONG),
    "long patch": ("generate", "x", "--patch", LONG),
    "long data": ("evaluate", "--data", LONG, "--out", "out"),
    "long ledger": ("patch", "list", LONG),
    "long run": ("compare", LONG, LONG),
    "long merge": ("merge", LONG),
    "long sweep": ("sweep", LONG, "--out", "out"),
    "long corpus": (*ROME, "--set", f"covariance.corpus={LONG}"),
}
WITH_MODEL = ("edit", "generate", "covariance", "locate", "evaluate", "serve")


@pytest.mark.parametrize("name", keep_first(ARGUMENTS, keep=6))
def test_hostile_argument_is_one_message(name: str, kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    arguments, before = ARGUMENTS[name], content(place)
    has_model = "--model" in arguments or arguments[0] not in WITH_MODEL
    with bounded_memory():
        result = kg_edit(*arguments, *(() if has_model else ("--model", tiny_folder)))
    assert result.code in (1, 2), result
    assert result.err.strip() and "Traceback" not in result.err
    assert content(place) == before


SWEEP = 'method = "rome"\n[data]\ndataset = "edits"\nfile = "edits.jsonl"\n'
NAMES = ("steps", "further_steps", "seed", "layer", "kl_weight", "hold")
SWEEPS: dict[str, tuple[bytes, str]] = {
    "10^12 cells": (
        "\n".join([SWEEP, "[grid]", *(f"{name} = {list(range(1, 101))}" for name in NAMES)]).encode(),
        "the grid has 1,000,000,000,000 cells",
    ),
    "nested": (b"a = " + b"[" * 20_000 + b"]" * 20_000, "is not valid TOML"),
    "empty grid": (f"{SWEEP}[grid]\n".encode(), "expected at least 1 of them"),
    "bytes": (bytes(range(256)), "can't read"),
    "UTF-16": (f"{SWEEP}[grid]\nsteps = [2]\n".encode("utf-16"), "can't read"),
    "path as an axis": (f'{SWEEP}[grid]\n"../../x" = [1]\n'.encode(), "unknown setting of rome ''"),
    "text": (f"{SWEEP}[grid]\nsteps = ['a']\n".encode(), "found the text 'a'; expected a whole number"),
    "NaN": (f"{SWEEP}[grid]\nlearning_rate = [nan]\n".encode(), "expected a finite number"),
    "table": (f"{SWEEP}[grid]\nsteps = [{{a = 1}}]\n".encode(), "found an object"),
    "date": (f"{SWEEP}[grid]\nsteps = [2020-01-01]\n".encode(), "expected a whole number"),
    "truth value": (f"{SWEEP}[grid]\nsteps = [true]\n".encode(), "found true; expected a number"),
    "unknown preset": (f"{SWEEP}[grid]\npreset = [1]\n".encode(), "unknown preset '1'"),
    "one wrong value": (f"{SWEEP}[grid]\nsteps = [2, 0]\n".encode(), "in the cell {'steps': 0}"),
    "no metric": (
        f"metrics = []\n{SWEEP}[grid]\nsteps = [2]\n".encode(),
        "key metrics: found a list; expected at least",
    ),
    "huge seed": (f"seed = {HUGE}\n{SWEEP}[grid]\nsteps = [2]\n".encode(), "key seed: found the number"),
}


@pytest.mark.parametrize("name", keep_first(SWEEPS, keep=2))
def test_hostile_sweep_is_refused(name: str, tmp_path: Path) -> None:
    data, message = SWEEPS[name]
    (tmp_path / "sweep.toml").write_bytes(data)
    with bounded_memory(), pytest.raises(KgEditError) as caught:
        cells_of(read_sweep(tmp_path / "sweep.toml"))
    assert message in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


ENTRY = """from kg_edit.registry import MethodEntry
MINE = MethodEntry('mine', 'x', paper='x', target='hostile_plugin:Mine')
"""
PLUGINS: dict[str, tuple[str, str]] = {  # code beside the entry, message
    "another class": ("class Mine:\n    name = 'mine'\n", "expected the subclass of EditingMethod"),
    "function": ("def Mine(): pass\n", "expected the subclass of EditingMethod"),
    "no class": ("x = 1", "can't be imported (AttributeError"),
}
UNREADABLE: dict[str, tuple[str, str]] = {  # code, entry point
    "exits": ("import sys; sys.exit(3)", "mine = hostile_plugin:MINE"),
    "raises no Exception": ("class Odd(BaseException): pass\nraise Odd('a\\nb')", "mine = hostile_plugin:MINE"),
    "no syntax": ("def (", "mine = hostile_plugin:MINE"),
    "entry point without sense": (ENTRY, "mine = ::::"),
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Install a package with this code and these entry points."""

    def install(package: str, code: str, entries: str) -> None:
        info = tmp_path / f"{package}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[kg_edit.methods]\n{entries}\n")
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(__import__("sys").modules, package, raising=False)
        monkeypatch.syspath_prepend(tmp_path)

    return install


@pytest.mark.parametrize("name", keep_first(PLUGINS, keep=1))
def test_hostile_plugin_is_named(name: str, installed: Callable[[str, str, str], None]) -> None:
    code, message = PLUGINS[name]
    installed("hostile_plugin", ENTRY + code, "mine = hostile_plugin:MINE")
    with pytest.raises(ConfigError) as caught:
        find_method("mine")
    assert message in str(caught.value) and "hostile_plugin:Mine" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", keep_first(UNREADABLE, keep=2))
def test_hostile_entry_is_left_out_and_named(
    name: str, installed: Callable[[str, str, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    installed("hostile_plugin", *UNREADABLE[name])
    assert "mine" not in method_names()
    assert "the package hostile_plugin is not used" in caplog.text
