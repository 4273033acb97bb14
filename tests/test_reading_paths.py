"""The reading paths of CONTRIBUTING.md are short, and an edit runs through nothing else.

An edit by each method is made on a tiny model while every function that is called is noted. Of a file counts how many
lines its called functions have.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.patches.base import Patch
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.methods.test_methods import graph
from tests.kg_edit.tiny import tiny

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST = {"glame": 12, "rome": 7}  # files
ROOMS = ("graphs", "locate_then_edit", "methods")  # that hold the methods' mathematics
SHARED = {f"kg_edit/methods/{name}.py" for name in ("base", "config", "value_method")}  # by many methods
DETAIL = 15  # lines of called functions
FILE = re.compile(r"`(kg_edit/\S+\.py)`")


def section(title: str) -> str:
    (text,) = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return str(text)


def path_of(name: str) -> list[str]:
    steps = re.findall(r"^\d+\. .*$", section(f"Understand {name.upper()}"), re.MULTILINE)
    return [FILE.findall(step)[0] for step in steps]


def called_in(work: Callable[[], object]) -> dict[str, int]:
    """{file of kg_edit, relative to the repository: lines of its functions that ``work`` calls}."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    lines: dict[str, set[int]] = defaultdict(set)
    for code in codes:
        file = Path(code.co_filename)
        if file.is_relative_to(ROOT / "kg_edit"):
            lines[file.relative_to(ROOT).as_posix()] |= {line for *_, line in code.co_lines() if line}
    return {file: len(numbers) for file, numbers in lines.items()}


@cache
def called_by(name: str, folder: Path) -> dict[str, int]:
    """What an edit runs through, from the edit to the saved patch, where C is measured on the way."""
    model, chosen = tiny("llama"), find_method(name)

    def work() -> None:
        edit = Edit(
            id="1",
            subject="LeBron James",
            prompt="{} plays for",
            relation="member of sports team",
            target_new="Los Angeles Lakers",
        )
        config = chosen.config_class.preset("default", QUICK[name])
        editor = chosen(model, config, graph=graph() if chosen.needs_graph else None)
        patch = editor.edit([edit])
        path = patch.save(folder / f"{name}.safetensors")
        with Patch.load(path).applied(model):
            pass

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KG_EDIT_CACHE", str(folder / name))
        return called_in(work)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paths")


@pytest.mark.parametrize("name", MOST)
def test_path_is_short_and_every_file_of_it_runs(name: str, folder: Path) -> None:
    path = path_of(name)
    assert 0 < len(path) <= MOST[name] and len(set(path)) == len(path)
    called = called_by(name, folder)
    assert [file for file in path if file not in called] == []


@pytest.mark.parametrize("name", MOST)
def test_no_file_outside_the_path_does_more_than_a_detail(name: str, folder: Path) -> None:
    listed = {*path_of(name), *SHARED, *FILE.findall(section("The fast forward"))}
    others = {
        file: lines
        for file, lines in called_by(name, folder).items()
        if file.split("/")[1] in ROOMS and lines > DETAIL and file not in listed
    }
    assert others == {}, "put these files on the path in CONTRIBUTING.md, or this code into a file of the path"


def test_engine_runs_unless_the_plain_way_is_chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = called_by("glame", folder).keys() | called_by("rome", folder).keys()
    fast = [file for file in FILE.findall(section("The fast forward")) if file.startswith("kg_edit/engine/")]
    assert fast and [file for file in fast if file not in called] == []
    monkeypatch.setenv("KG_EDIT_ENGINE", "plain")
    lines = called_by.__wrapped__("rome", folder / "plain")
    loss_files = [f"kg_edit/engine/{name}.py" for name in ("tail_forward", "passes", "cuda_graphs")]
    assert [file for file in loss_files if lines.get(file, 0) > DETAIL] == []
