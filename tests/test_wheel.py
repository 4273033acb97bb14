"""The wheel, installed into a fresh environment, works with each declared Python that the machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.pages import ROOT

pytestmark = pytest.mark.slow
VERSIONS = ("3.11", "3.12", "3.13")
METADATA = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(*command: str | Path, **environment: str) -> str:
    """What a command says; fails with all of it where the command does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [str(part) for part in command], env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interpreter(version: str) -> str | None:
    """A Python of this version: the one that runs, one on the path, or one that uv has."""
    if version == HERE:
        return sys.executable
    if found := shutil.which(f"python{version}"):
        return found
    if not (uv := shutil.which("uv")):
        return None
    done = subprocess.run([uv, "python", "find", "--offline", version], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the wheel is built without the network, by the hatchling of the extra dev")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, ROOT)
    (made,) = folder.glob("kg_edit-*.whl")
    return made


def test_the_versions_are_declared() -> None:
    assert tuple(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', METADATA)) == VERSIONS
    assert f'requires-python = ">={VERSIONS[0]}"' in METADATA


@pytest.mark.parametrize("version", VERSIONS)
def test_it_works_in_a_fresh_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    if not (found := interpreter(version)):
        pytest.skip(f"this machine has no Python {version}")
    run(found, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    get_dependencies(python, version)
    code = "import kg_edit, wikidata_cache; print(kg_edit.__file__); assert kg_edit.Edit and kg_edit.method_names()"
    assert str(tmp_path) in run(python, "-c", code)
    for tool in ("kg-edit", "wikidata-cache"):
        assert "Usage" in run(python.with_name(tool), "--help")
    assert "glame-plus" in run(python.with_name("kg-edit"), "methods")


def get_dependencies(python: Path, version: str) -> None:
    """The dependencies: this environment's own for its Python, else from the package index."""
    if version == HERE:
        folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        (Path(folder) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return
    wanted = re.search(r"^dependencies = \[(.*?)^\]", METADATA, re.DOTALL | re.MULTILINE)
    assert wanted
    names = re.findall(r'"([^"]+)"', wanted[1])
    pip = (str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *names)
    done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=540)
    if done.returncode and re.search("Connection|Temporary failure|timed out", done.stderr):
        pytest.skip(f"the dependencies can't be had for Python {version}: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
