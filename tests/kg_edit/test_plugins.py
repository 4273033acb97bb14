"""Families and methods of other packages, through entry points."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from transformers import AutoConfig

from kg_edit.errors import ConfigError, UnsupportedModelError
from kg_edit.methods import find_method, method_names
from kg_edit.methods.rome.method import Rome
from kg_edit.models import architectures
from kg_edit.models.architectures import ModelSpec, find_spec
from kg_edit.registry import CommandEntry, MethodEntry, plug_in_code
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

BIOGPT = ModelSpec(blocks="biogpt.layers", down_projection="fc2", final_norm="biogpt.layer_norm")
MINE = MethodEntry("mine", "a method of somebody else's", paper="none", target=f"{__name__}:Mine")
TAKEN = MethodEntry("rome", "another ROME", paper="none", target=f"{__name__}:Mine")
NO_METHOD = MethodEntry("no-method", "a function", paper="none", target=f"{__name__}:plug_in")
OTHER_NAME = MethodEntry("other", "a method with another name", paper="none", target=f"{__name__}:Mine")
ABSENT = MethodEntry("absent", "its module can't be imported", paper="none", target="kg_edit_broken:Broken")
HELLO = CommandEntry("hello", "Say hello.", target=f"{__name__}:hello")


class Mine(Rome):
    """A method of somebody else's."""

    entry = MINE


def hello() -> None:
    """Say hello."""
    print("hello")  # noqa: T201 - a command of a test


def plug_in(name: str, value: str, group: str) -> EntryPoints:
    return EntryPoints([EntryPoint(name=name, value=f"{__name__}:{value}", group=group)])


def test_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = plug_in("biogpt", "BIOGPT", architectures.ENTRY_POINTS)
    monkeypatch.setattr(architectures, "entry_points", lambda group: entries.select(group=group))
    assert find_spec(AutoConfig.for_model("biogpt")) == BIOGPT
    assert find_spec(AutoConfig.for_model("gpt2")) == architectures.ARCHITECTURES["gpt2"]


@pytest.mark.parametrize(("name", "value"), [("gpt2", "BIOGPT"), ("biogpt", "Mine")])
def test_a_plug_in_neither_overrides_nor_lies(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = plug_in(name, value, architectures.ENTRY_POINTS)
    monkeypatch.setattr(architectures, "entry_points", lambda group: entries.select(group=group))
    with pytest.raises(UnsupportedModelError, match="uninstall or fix this plug-in"):
        find_spec(AutoConfig.for_model("llama"))


@pytest.fixture(autouse=True)
def plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with good and bad entries."""
    info = tmp_path / "kg_edit_broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kg-edit-broken\nVersion: 1\n")
    names = ("MINE", "TAKEN", "NO_METHOD", "OTHER_NAME", "ABSENT", "BIOGPT")
    methods = "\n".join(f"{name} = {__name__}:{name}" for name in names)
    lost = "lost = kg_edit_broken:ENTRY"
    text = f"[kg_edit.methods]\n{methods}\n{lost}\n[kg_edit.commands]\nhello = {__name__}:HELLO\n"
    (info / "entry_points.txt").write_text(text)
    (tmp_path / "kg_edit_broken.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_method_and_a_command_of_another_package_are_used_like_ours(kg_edit: Run) -> None:
    assert {"glame", "mine", "rome"} < set(method_names())
    assert find_method("mine") is Mine
    assert "a method of somebody else's" in kg_edit("methods").out
    assert "Say hello" in kg_edit("--help").out
    assert kg_edit("hello").out == "hello\n"


@pytest.mark.parametrize(
    ("name", "keyword"), [("absent", "no_such_module"), ("no-method", "EditingMethod"), ("other", "'other'")]
)
def test_a_plug_in_that_is_no_method_is_refused_when_it_is_chosen(name: str, keyword: str) -> None:
    with pytest.raises(ConfigError, match=keyword):
        find_method(name)


def test_an_entry_that_can_not_be_used_is_one_line_that_names_its_package(kg_edit: Run) -> None:
    listed = kg_edit("methods")
    assert listed.code == 0 and "\nrome " in listed.out and "Traceback" not in listed.err
    for keyword in ("'lost'", "'BIOGPT'", "'rome'"):  # no module, no entry, a name that is taken
        (line,) = [line for line in listed.err.splitlines() if keyword in line]
        assert "the package kg-edit-broken" in line
    assert find_method("rome") is Rome


def test_a_plug_in_s_code_is_known_by_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plug_in_code(Rome.entry.target) is None
    (tmp_path / "mine.py").write_text("first")
    monkeypatch.setattr(sys.modules["tests"], "__path__", [str(tmp_path)])
    first = plug_in_code(MINE.target)
    assert first and (first["package"], first["version"]) == ("kg-edit-broken", "1")
    (tmp_path / "mine.py").write_text("second")
    second = plug_in_code(MINE.target)
    assert second and second["sha256"] != first["sha256"]
