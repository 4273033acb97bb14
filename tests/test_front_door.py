"""`import kg_edit` and the help of the commands are cheap: nothing heavy is imported; the names are the real ones."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import kg_edit
import wikidata_cache

HEAVY = ("torch", "transformers", "torch_geometric", "numpy", "networkx", "rdflib", "SPARQLWrapper", "matplotlib")
COMMANDS = {
    "import kg_edit": "",
    "import wikidata_cache": "",
    "from kg_edit.cli.app import app; app(['--help'], standalone_mode=False)": "Commands",
    "from kg_edit.cli.app import app; app(['edit', '--help'], standalone_mode=False)": "--method",
    "from kg_edit.cli.app import app; app(['evaluate', '--help'], standalone_mode=False)": "--dataset",
    "from wikidata_cache.cli import app; app(['--help'], standalone_mode=False)": "Commands",
    "from wikidata_cache.cli import app; app(['fetch', '--help'], standalone_mode=False)": "--policy",
}


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", COMMANDS)
def test_nothing_heavy_is_imported(code: str) -> None:
    said = python("-c", f"import sys; {code}; print('imported', sorted({set(HEAVY)!r} & sys.modules.keys()))")
    assert COMMANDS[code] in said
    assert said.splitlines()[-1] == "imported []"


@pytest.mark.parametrize("package", [kg_edit, wikidata_cache])
def test_every_name_is_the_one_of_its_home(package: object) -> None:
    homes = package._HOMES  # type: ignore[attr-defined]
    assert sorted(homes) == sorted(package.__all__)  # type: ignore[attr-defined]
    for name, home in homes.items():
        assert getattr(package, name) is getattr(import_module(home), name)
    assert set(homes) <= set(dir(package))


@pytest.mark.parametrize("package", [kg_edit, wikidata_cache])
def test_another_name_is_refused(package: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'edits_of'; it has: "):
        package.edits_of  # type: ignore[attr-defined]  # noqa: B018


def test_it_runs_as_a_module() -> None:
    assert python("-m", "kg_edit", "--version") == f"kg-edit {kg_edit.__version__}\n"
