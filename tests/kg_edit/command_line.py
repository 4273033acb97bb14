"""Running `kg-edit` inside the test's process, on a tiny model and a tiny graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from kg_edit.cli.app import main
from tests.kg_edit.short_answers import write_little
from tests.kg_edit.tiny import tiny

# C from text that the random model writes: real text has few of its tokens, and updates would be refused as too large
SHORT = ("covariance.corpus=self", "covariance.tokens=500", "context_lengths=[[5, 2]]", "further_steps=0")
QUICK = tuple(part for setting in SHORT for part in ("--set", setting))
EDITS = """
{"id": "lebron", "subject": "LeBron James", "prompt": "{} plays for", "target_new": "Los Angeles Lakers",
 "target_true": "Miami Heat", "subject_id": "Q1", "relation_id": "P54", "target_new_id": "Q2",
 "paraphrases": ["LeBron James is in the team of"], "neighborhood": ["Dwyane Wade plays for"],
 "portability": [{"question": "Where is LeBron James' team?", "answer": "Los Angeles"}]}
{"id": "france", "subject": "France", "prompt": "In {}, the capital is", "target_new": "Rome", "target_new_id": "Q4",
 "relation": "capital"}
""".replace("\n ", " ").strip()
GRAPH = """subject\tproperty\tobject
Q2\tP159\tQ3
Q4\tP17\tQ5
Q1\tlabel\tLeBron James
Q2\tlabel\tLos Angeles Lakers
Q3\tlabel\tLos Angeles
Q4\tlabel\tRome
Q5\tlabel\tItaly
Q6\tP17\tQ5
P17\tlabel\tcountry
P54\tlabel\tmember of sports team
P159\tlabel\theadquarters location
"""
GOOD = {"subject": "France", "prompt": "In {}, the capital is", "target_new": "Rome"}
TRIPLET = {"subject": "Q1", "relation": "P54", "object": "Miami Heat", "new_object": "Q2"}
ROME, GLAME = ("--method", "rome"), ("--method", "glame", "--graph", "graph.tsv")


class Result(NamedTuple):
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 layers and its tokenizer, as a folder that transformers loads."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny("llama")
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the covariance of the tiny model is measured once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the commands, with ``edits.jsonl`` and ``graph.tsv`` in it."""
    monkeypatch.setenv("KG_EDIT_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    write_little(monkeypatch)
    (tmp_path / "edits.jsonl").write_text(EDITS)
    (tmp_path / "graph.tsv").write_text(GRAPH)
    return tmp_path


@pytest.fixture
def kg_edit(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`kg-edit` with arguments."""

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr("sys.argv", ["kg-edit", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Result(code, *capsys.readouterr())

    return run


def content(folder: Path) -> dict[str, bytes] | None:
    """Every file under a folder, byte for byte; None where there is no folder."""
    if not folder.exists():
        return None
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows(*values: object) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in values)


def refused(run: Run, *arguments: str | Path, message: str, out: Path) -> None:
    """The command ends with one message, and ``out`` stays as it is."""
    before = content(out)
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err, result.err
    assert "Traceback" not in result.err
    assert content(out) == before


@pytest.fixture
def edit(kg_edit: Run, tiny_folder: Path) -> Run:
    """`kg-edit edit edits.jsonl --out out` on the tiny model, quickly."""

    def run(*options: str | Path, steps: int = 3) -> Result:
        quick = (*QUICK, "--no-locality-check", "--set", f"steps={steps}", "--model", tiny_folder)
        return kg_edit("edit", "edits.jsonl", *quick, "--out", "out", *options)

    return run


def generate(kg_edit: Run, model: Path | str, *options: str | Path) -> Result:
    """Four tokens after a prompt."""
    return kg_edit("generate", "LeBron James plays for", "--tokens", "4", "--model", model, *options)
