"""The reading paths of CONTRIBUTING.md are short, exist, and are what an edit runs through.

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
MOST = {"glame": 12, "rome": 9}  # files
HEART = ("edits", "models", "value", "graphs", "covariance", "closed_form", "methods", "patches")  # rooms
FEW = 10  # lines of called functions: a file that has no more is a detail
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
    return {file: len(found) for file, found in lines.items()}


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
        editor = chosen(model, chosen.config_class.preset("default", QUICK[name]), graph=graph())
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
def test_a_path_is_short_and_its_files_exist(name: str) -> None:
    path = path_of(name)
    assert 0 < len(path) <= MOST[name]
    assert len(set(path)) == len(path)
    assert [file for file in path if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("name", MOST)
def test_every_file_of_a_path_runs(name: str, folder: Path) -> None:
    called = called_by(name, folder)
    assert [file for file in path_of(name) if file not in called] == []


@pytest.mark.parametrize("name", MOST)
def test_what_runs_is_on_the_path_or_passed_over(name: str, folder: Path) -> None:
    known = {*path_of(name), *FILE.findall(section("Passed over"))}
    missing = {
        file: lines
        for file, lines in called_by(name, folder).items()
        if file.split("/")[1] in HEART and lines > FEW and file not in known
    }
    assert missing == {}, "name these files in CONTRIBUTING.md, on the path or under 'Passed over'"


def test_what_is_passed_over_runs_and_is_on_no_path(folder: Path) -> None:
    passed = FILE.findall(section("Passed over"))
    called = called_by("glame", folder).keys() | called_by("rome", folder).keys()
    assert [file for file in passed if file not in called or file in path_of("glame") + path_of("rome")] == []
