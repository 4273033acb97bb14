"""What the attacks share: a slow endpoint, a tiny model's folder, and the outcome of each command undisturbed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attacks.commands import Case, Ended, prepared
from tests.kg_edit.command_line import tiny_folder
from tests.wikidata_cache.wikidata_helpers import Server
from wikidata_cache import packaged_extract
from wikidata_cache.sources.graph_files import load_files

__all__ = ["tiny_folder"]  # a fixture

Undisturbed = Callable[[str], tuple[object, Ended]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("KG_") and name != "KG_EDIT_KILLS":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def slow_server() -> Iterator[Server]:
    """An endpoint over the packaged extract that answers after a while."""
    with Server(load_files([packaged_extract()])[0]) as running:
        running.fault = lambda handler, body: bool(time.sleep(0.05))
        yield running


@pytest.fixture
def case(tmp_path: Path, tiny_folder: Path, slow_server: Server) -> Callable[[str, str], Case]:
    """A case by its name, in a folder by its name."""
    return lambda name, folder: prepared(name, tmp_path / folder, tiny_folder, slow_server)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, slow_server: Server) -> Undisturbed:
    """What a command makes when nothing happens to it, and how it ends; run once for all tests."""
    results: dict[str, tuple[object, Ended]] = {}

    def result_of(name: str) -> tuple[object, Ended]:
        if name not in results:
            command = prepared(name, tmp_path_factory.mktemp("undisturbed") / "run", tiny_folder, slow_server)
            ended = command.run()
            assert ended.code == 0, ended.output
            result = command.made()
            assert result is not None
            results[name] = result, ended
        return results[name]

    return result_of
