"""Fixtures for all tests: the real small model, the shared records, tiny random models of every family."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"  # a name that no folder has would be looked for there, for half a minute
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; more threads than cores are many times slower

if TYPE_CHECKING:  # it takes seconds to import, and the process that hands the tests out needs none of it
    from kg_edit.models.language_model import LanguageModel

settings.register_profile("everyday", deadline=None, max_examples=10)  # a slow machine is no failure
settings.register_profile("all", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "150")))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of the user's own in it
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # stores are written hundreds of times: no disk waits


def pytest_configure(config: pytest.Config) -> None:
    """Properties are tried on fewer examples where slow tests are left out."""
    settings.load_profile("everyday" if config.option.markexpr == "not slow" else "all")


@pytest.fixture(scope="session", autouse=True)
def _command_trees_are_built_once() -> Iterator[None]:
    """Typer builds its tree of commands anew for each call, in some 50 ms; the tests call hundreds of times."""
    once = cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", once)
        patch.setattr("typer.testing._get_command", once)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with benchmark records, the Wikidata extract and the oracle."""
    if not SHARED.is_dir():
        pytest.skip(f"the measurement data {SHARED} is not here")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """SmolLM2-135M-Instruct from the installed wheel."""
    from kg_edit.models.language_model import LanguageModel

    return LanguageModel.load("smollm2-135m")
