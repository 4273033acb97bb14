"""Families and methods of third parties, through entry points."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, UnsupportedModelError
from kg_edit.evaluation.records import RunFolder
from kg_edit.evaluation.run import evaluate
from kg_edit.methods import EditingMethod, find_method, method_names, plug_ins, registry
from kg_edit.methods.rome.method import Rome
from kg_edit.models import architectures
from kg_edit.models.architectures import ModelSpec, find_spec
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from tests.kg_edit.command_line import Run, cache, edit, kg_edit, place, tiny_folder
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

__all__ = ["cache", "edit", "kg_edit", "place", "tiny_folder"]  # fixtures

BIOGPT = ModelSpec(blocks="biogpt.layers", down_projection="fc2", final_norm="biogpt.layer_norm")


class Mine(Rome):
    """A method of somebody else's."""

    name = "mine"


class Failing(Rome):
    """A method with a mistake in it."""

    name = "failing"

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        raise KeyError("subjects")


class Forgetful(Rome):
    """A method that returns nothing."""

    name = "forgetful"

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        return None  # type: ignore[return-value]


class Misshapen(Rome):
    """A method whose patch is for a larger weight."""

    name = "misshapen"
    make_each = EditingMethod.make_each  # which calls `make`

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        factors = Factors(left=torch.ones(3, 1), right=torch.ones(5, 1))
        return WeightPatch(factors={self.model.weight_name(0): factors})


class FailingAtTheStart(Rome):
    """A method with a mistake in its constructor."""

    name = "failing-at-the-start"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        raise KeyError("subjects")


class FailingCheck(Rome):
    """A method with a mistake in its check of the edits."""

    name = "failing-check"

    def check(self, edits: Sequence[Edit]) -> None:
        raise RuntimeError("no subjects")


class Unfinished(EditingMethod):
    """A method without settings that makes nothing."""

    name, about, paper = "unfinished", "nothing", "none"


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


def test_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = plug_in("mine", "Mine", plug_ins.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", entries.select)
    assert {"glame", "mine", "rome"} < set(method_names())
    assert find_method("mine") is Mine


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a method whose module can't be imported, and one that has another name."""
    info = tmp_path / "kg_edit_broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kg-edit-broken\nVersion: 1\n")
    entries = f"[kg_edit.methods]\nbroken = kg_edit_broken:Broken\nother = {__name__}:Mine\nrome = {__name__}:Mine\n"
    entries += (
        f"forgetful = {__name__}:Forgetful\nfailing = {__name__}:Failing\nfailing-check = {__name__}:FailingCheck\n"
    )
    entries += f"misshapen = {__name__}:Misshapen\n"
    entries += f"failing-at-the-start = {__name__}:FailingAtTheStart\nunfinished = {__name__}:Unfinished\n"
    (info / "entry_points.txt").write_text(entries)
    (tmp_path / "kg_edit_broken.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("broken")
def test_a_plug_in_that_fails_is_one_line_of_the_list_of_methods(kg_edit: Run) -> None:
    listed = kg_edit("methods")
    assert listed.code == 0 and "\nrome " in listed.out
    (line,) = [line for line in listed.err.splitlines() if "method 'broken'" in line]
    assert "the method 'broken' of the package kg-edit-broken can't be imported (ModuleNotFoundError" in line
    assert "kg_edit_broken.py, line 1)" in line
    assert "Traceback" not in listed.err


@pytest.mark.usefixtures("broken")
def test_a_plug_in_s_code_is_known_by_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plug_ins.code_of(Rome) is None
    (tmp_path / "mine.py").write_text("first")
    monkeypatch.setattr(sys.modules["tests"], "__path__", [str(tmp_path)])
    first = plug_ins.code_of(Failing)
    assert first and (first["package"], first["version"]) == ("kg-edit-broken", "1")
    (tmp_path / "mine.py").write_text("second")
    second = plug_ins.code_of(Failing)
    assert second and second["sha256"] != first["sha256"]


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "no_such_module"),
        ("other", "with this name"),
        ("unfinished", "its class Unfinished has no config_class, make"),
    ],
)
def test_a_plug_in_that_fails_is_an_error_when_it_is_chosen(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' of the package kg-edit-broken.*{message}"):
        find_method(name)


@pytest.mark.usefixtures("broken")
def test_an_exception_inside_a_plug_in_is_one_line_that_names_its_package(
    edit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = edit("--method", "failing")
    assert failed.code == 2 and "Traceback" not in failed.err
    assert "the method 'failing' of the package kg-edit-broken failed (KeyError: 'subjects'; " in failed.err
    assert f"{Path(__file__).name}, line " in failed.err and "in the edit 'lebron'" in failed.err
    nothing = (
        "the method 'forgetful' of the package kg-edit-broken failed (TypeError: make returned None; expected a Patch"
    )
    error = edit("--method", "forgetful").err
    assert nothing in error and "base.py" not in error
    wrong = edit("--method", "misshapen").err
    assert "the method 'misshapen' of the package kg-edit-broken failed (PatchMismatchError: " in wrong
    monkeypatch.setenv("KG_EDIT_TRACEBACK", "1")
    assert 'raise KeyError("subjects")' in edit("--method", "failing").err


@pytest.mark.usefixtures("broken")
def test_a_plug_in_s_patch_of_a_wrong_shape_fails_its_record_and_is_no_broken_model(tmp_path: Path) -> None:
    model = tiny("llama")
    record = Edit(subject="LeBron James", prompt="{} plays for the", target_new="Lakers", target_true="Heat")
    run = evaluate(find_method("misshapen").on(model, settings=QUICK["rome"]), model, [record], out=tmp_path / "run")
    assert run.provenance["failed"] == 1
    (entry,) = [entry for entry in RunFolder(tmp_path / "run").entries() if entry.phase == "edit"]
    assert "the package kg-edit-broken failed (PatchMismatchError" in (entry.error or "")


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("name", "why"),
    [("failing-at-the-start", "KeyError: 'subjects'"), ("failing-check", "RuntimeError: no subjects")],
)
def test_an_exception_before_the_first_edit_is_one_line_too(
    name: str, why: str, edit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = edit("--method", name)
    assert failed.code == 2 and "Traceback" not in failed.err
    assert f"kg-edit: a method of the package kg-edit-broken failed ({why}; " in failed.err
    monkeypatch.setenv("KG_EDIT_TRACEBACK", "1")
    assert 'subjects")' in edit("--method", name).err


@pytest.mark.usefixtures("broken")
def test_a_plug_in_named_like_a_packaged_method_is_left_out_and_named(kg_edit: Run) -> None:
    for command in (("methods",), ("methods", "rome")):
        (line,) = [line for line in kg_edit(*command).err.splitlines() if "'rome'" in line]
        assert line.startswith("the method 'rome' of the package kg-edit-broken is not used")
    assert find_method("rome") is Rome
