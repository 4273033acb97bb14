"""Fixtures for all tests: the real small model, the shared records, tiny random models of every family."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from hypothesis import settings

import kg_edit.registry

os.environ["HF_HUB_OFFLINE"] = "1"  # a name that no folder has would be looked for there, for half a minute
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; more threads than cores are many times slower

if TYPE_CHECKING:  # it takes seconds to import, and the process that hands the tests out needs none of it
    from pyoxigraph import Store

    from kg_edit.models.language_model import LanguageModel

settings.register_profile("everyday", deadline=None, max_examples=10)  # a slow machine is no failure
settings.register_profile("all", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "150")))

# Published benchmark records and numbers of published programs (docs/contributing/data.md)
SHARED = Path(os.environ.get("KG_EDIT_MEASUREMENT_DATA", "measurement-data"))


MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of the user's own in it
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # stores are written hundreds of times: no disk waits


def pytest_configure(config: pytest.Config) -> None:
    """Properties are tried on fewer examples where slow tests are left out, and installed packages are listed once.

    A look at the packages takes 5 ms, and the parameters of the tests alone ask for a method hundreds of times; a look
    for a version takes 1 ms, and every patch asks.
    """
    settings.load_profile("everyday" if config.option.markexpr == "not slow" else "all")
    importlib.metadata.version = cache(importlib.metadata.version)
    kg_edit.registry.entry_points = lambda **chosen: _entry_points((*sys.path,), **chosen)  # type: ignore[attr-defined,assignment]


@cache
def _entry_points(path: tuple[str, ...], **chosen: str) -> EntryPoints:
    """The entry points of the packages installed in ``path``."""
    return entry_points(**chosen)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage among the modules and tests, millions of objects that stay: not now, not later.

    Tests leave little of it, and looking as often as Python does by itself takes a twentieth of their time.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    _let_torch_log_to_the_root()


def _let_torch_log_to_the_root() -> None:
    """Spare pytest 350 handlers a test: it adds its own to each of torch's 57 loggers that keep their lines."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch") and isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.fixture(scope="session", autouse=True)
def _slow_looks_are_done_once() -> Iterator[None]:
    """The tests run hundreds of commands in one process; what each finds anew in 20 to 50 ms is kept.

    These are the tree of commands, the state and the hash of the code, and the packaged graph in memory.
    """
    from kg_edit.evaluation.settings import commit
    from kg_edit.version import folder_sha256
    from wikidata_cache.sources.graph_files import load_files

    trees = cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.main.get_command", trees)
        patch.setattr("typer.testing._get_command", trees)
        patch.setattr("kg_edit.evaluation.settings.commit", cache(commit))
        patch.setattr("kg_edit.version.folder_sha256", cache(folder_sha256))
        patch.setattr("wikidata_cache.sources.oxigraph.load_files", _keep_packaged_graphs(load_files))
        patch.setattr(
            "kg_edit.models.architectures.entry_points", lambda **chosen: _entry_points((*sys.path,), **chosen)
        )
        yield


Load = Callable[[Sequence[Path]], tuple["Store", dict[str, str]]]


def _keep_packaged_graphs(load_files: Load) -> Load:
    """Files of the package stay as they are, and whoever loads them only reads the store."""
    once = cache(load_files)
    packages = Path(kg_edit.registry.__file__).parents[1]

    def load(paths: Sequence[Path]) -> tuple[Store, dict[str, str]]:
        packaged = all(path.is_relative_to(packages) for path in paths)
        return once((*paths,)) if packaged else load_files(paths)

    return load


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with benchmark records, the Wikidata extract and the oracle."""
    if not SHARED.is_dir():
        pytest.skip("needs KG_EDIT_MEASUREMENT_DATA (docs/contributing/data.md)")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """SmolLM2-135M-Instruct from the installed wheel."""
    from kg_edit.models.language_model import LanguageModel

    return LanguageModel.load("smollm2-135m")
