"""`edit.py` runs every method by its name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from kg_edit.methods import method_names, registry
from kg_edit.methods.rome.method import Rome
from kg_edit.patches.base import Patch
from tests.pipelines.scripts import RANK_ONE, Script, settings_of


class Mine(Rome):
    """A method of somebody else's."""

    name = "mine"


def test_a_plug_in_by_its_name(
    script: Script, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = EntryPoints([EntryPoint(name="mine", value=f"{__name__}:Mine", group=registry.ENTRY_POINTS)])
    monkeypatch.setattr(registry, "entry_points", plugins.select)
    options = ("--model", tiny_folder, "--out", "out", *settings_of(RANK_ONE))
    assert script("edit", "edits.jsonl", "--method", "mine", *options) == 0
    assert Patch.load(tmp_path / "out" / "patch.safetensors").provenance["methods"][0]["name"] == "mine"


def test_a_method_with_a_graph_by_its_name(script: Script, tmp_path: Path, tiny_folder: Path) -> None:
    options = ("--model", tiny_folder, "--graph", "graph.tsv", "--out", "out", *settings_of(RANK_ONE))
    assert script("edit", "edits.jsonl", "--method", "glame-mlp", *options) == 0
    assert (tmp_path / "out" / "subgraph-lebron.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "rome", "--set", "stps=2"), "did you mean 'steps'"),
        (("--method", "romee"), "did you mean 'rome'"),
    ],
)
def test_a_mistake_is_named(
    arguments: tuple[str, ...], message: str, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("edit", "edits.jsonl", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_the_help_names_every_method(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("edit", "--help") == 0
    said = capsys.readouterr().out
    assert "python pipelines/edit.py edits.jsonl --method" in said
    joined = " ".join(said.split()).replace("- ", "-")
    assert all(f"{name}," in joined or f", {name}" in joined for name in method_names())
