"""Output folders that are refused: somebody else's, damaged ones, and paths that are none; nothing in them changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kg_edit.errors import AnotherRunError, OutputError
from kg_edit.storage.run_folder import check_folder, claim, read_settings
from tests.kg_edit.command_line import content
from tests.kg_edit.storage.test_run_folder import SETTINGS
from tests.refusals import Call, check_refused, put, refusals


def claimed_with(text: str) -> Call:
    """The folder has this text in place of a run's settings."""

    def call(folder: Path) -> object:
        put(folder, "patch.safetensors", "an hour's work")
        file = put(folder, "run.json", text)
        try:
            claim(folder, SETTINGS)
        finally:
            assert file.read_text() == text
        return None

    return call


def claimed_by(**other: Any) -> Call:
    """The folder has a run, and another one is started in it."""

    def call(folder: Path) -> object:
        claim(folder, SETTINGS)
        put(folder, "patch.safetensors", "an hour's work")
        before = content(folder)
        try:
            claim(folder, {**SETTINGS, **other})
        finally:
            assert content(folder) == before
        return None

    return call


def beside_a_file(folder: Path) -> object:
    put(folder, "mine.txt", "mine")
    claim(folder, SETTINGS)
    return None


@refusals(
    {
        "other settings": (
            claimed_by(config={"steps": 4, "sizes": (1, 2)}),
            AnotherRunError,
            "(config.steps: 3 in the folder, 4 now)",
        ),
        "other model": (
            claimed_by(model={"name": "n", "fingerprint": "g"}),
            AnotherRunError,
            '(model.name: "m" in the folder, "n" now)',
        ),
        "file of the user": (beside_a_file, OutputError, "is not empty and has no run of kg-edit"),
        **{
            f"settings {text!r}": (claimed_with(text), OutputError, "has no run")
            for text in ("", "{", "[1, 2]", '"text"')
        },
        **{
            f"run of another program: {text[:30]}": (
                lambda folder, text=text: read_settings(put(folder, "run.json", text).parent),
                OutputError,
                word,
            )
            for text, word in (
                ('{"job": "x", "version": "1.0"}', "has a run of format"),
                ('{"job": "x", "version": null}', "has a run of format"),
                ("[" * 100_000, "has no run"),
            )
        },
        "file": (lambda folder: check_folder(put(folder, "file")), OutputError, "is a file; give"),
        "folder below a file": (
            lambda folder: check_folder(put(folder, "file") / "out"),
            OutputError,
            "is a file; give",
        ),
        "name that is too long": (
            lambda folder: check_folder(folder / ("a" * 300) / "below"),
            OutputError,
            "File name too long; give",
        ),
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
