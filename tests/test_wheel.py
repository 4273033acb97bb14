"""The wheel, installed into a fresh environment, works with each declared Python that the machine has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.pages import ROOT

pytestmark = pytest.mark.slow
VERSIONS = ("3.11", "3.12", "3.13")
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = ("torch", "transformers")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(*command: str | Path, cwd: Path) -> str:
    """What a command says; fails with all of it where the command does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    words = [str(part) for part in command]
    process = subprocess.run(words, cwd=cwd, env=kept, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def interpreter(version: str) -> Path | None:
    """A Python of this version that runs: this one, one on the path, or one of uv's or pyenv's."""
    named = [sys.executable if version == HERE else None, shutil.which(f"python{version}"), *_managed(version)]
    for path in filter(None, named):
        process = subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True, check=False)
        if not process.returncode:
            return Path(path)
    return None


def _managed(version: str) -> Iterator[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, pyenv.glob(f"versions/{version}.*/bin/python"))
    if uv := shutil.which("uv"):
        process = subprocess.run([uv, "python", "find", version], capture_output=True, text=True, check=False)
        yield process.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="the wheel is built without the network, by the hatchling of the extra dev")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, ROOT, cwd=folder)
    (file,) = folder.glob("kg_edit-*.whl")
    return file


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the sdist, and the wheel that is built from it, as `python -m build` makes them for a release."""
    pytest.importorskip("build", reason="the extra release is not installed: pip install -e '.[release]'")
    folder = tmp_path_factory.mktemp("release")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return {file.suffix: file for file in folder.iterdir()}


def test_release_passes_the_checks_of_the_index(release: dict[str, Path]) -> None:
    pytest.importorskip("twine", reason="the extra release is not installed: pip install -e '.[release]'")
    checked = run(sys.executable, "-m", "twine", "check", "--strict", *release.values(), cwd=ROOT)
    assert checked.count("PASSED") == 2


def test_sdist_has_what_the_tests_read(release: dict[str, Path], wheel: Path) -> None:
    with tarfile.open(release[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "README.md", "CHANGELOG.md", "LICENSE", "results/README.md"} <= names
    assert {"kg_edit/py.typed", "wikidata_cache/py.typed", "tests/test_wheel.py", "pipelines/glame.py"} <= names
    with ZipFile(release[".whl"]) as built, ZipFile(wheel) as direct:
        assert sorted(built.namelist()) == sorted(direct.namelist())
        assert {"kg_edit/py.typed", "wikidata_cache/py.typed"} <= set(built.namelist())


def test_the_versions_are_declared() -> None:
    project, prefix = METADATA["project"], "Programming Language :: Python :: 3."
    declared = tuple(name.rpartition(" ")[2] for name in project["classifiers"] if name.startswith(prefix))
    assert declared == VERSIONS and project["requires-python"] == f">={VERSIONS[0]}"


def test_what_reads_a_gguf_file_is_a_dependency() -> None:
    """The model of the examples is such a file, and transformers loads none without accelerate."""
    named = {re.split(r"[^\w-]", name)[0] for name in METADATA["project"]["dependencies"]}
    assert {"accelerate", "gguf"} <= named


def test_the_wheel_says_what_it_carries_of_others(wheel: Path) -> None:
    """PEP 770; a tool that looks for known vulnerabilities reads it, as no metadata names what is vendored."""
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if ".dist-info/sboms/" in name]
        bill = json.loads(archive.read(name))
    assert bill["bomFormat"] == "CycloneDX" and [part["name"] for part in bill["components"]] == ["cytoscape"]


@pytest.mark.parametrize("version", VERSIONS)
def test_it_works_in_a_fresh_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    if not (executable := interpreter(version)):
        pytest.skip(f"this machine has no Python {version}")
    run(executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    get_dependencies(python, version)
    names = "import sys, kg_edit, wikidata_cache; print(kg_edit.__file__, kg_edit.Edit, kg_edit.read_edits)"
    output = run(python, "-c", f"{names}; assert 'torch' not in sys.modules", cwd=tmp_path)
    assert str(tmp_path) in output
    for tool in ("kg-edit", "wikidata-cache"):
        assert "Usage" in run(python.with_name(tool), "--help", cwd=tmp_path)
    methods = run(python, "-c", "import kg_edit; print(kg_edit.method_names())", cwd=tmp_path)
    assert "glame-plus" in methods  # the list of the command imports the classes, and thus torch
    assert "Philadelphia" in run(python.with_name("wikidata-cache"), "show", "Q1345", cwd=tmp_path)


def get_dependencies(python: Path, version: str) -> None:
    """This environment's own for its Python; for others from the package index, without torch, which no test needs."""
    if version == HERE:
        folder = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=python.parent).strip()
        (Path(folder) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return
    packages = [name for name in METADATA["project"]["dependencies"] if not name.startswith(HEAVY)]
    pip = (str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *packages)
    process = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=540)
    if process.returncode and re.search("Connection|Temporary failure|timed out", process.stderr):
        pytest.skip(f"the package index can't be reached: {process.stderr[-300:]}")
    assert process.returncode == 0, process.stderr
