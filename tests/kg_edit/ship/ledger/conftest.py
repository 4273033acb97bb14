"""Every test of ledgers has a cache of its own package's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ledger_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where covariances of tiny models are measured once."""
    return tmp_path_factory.mktemp("ledger-cache")


@pytest.fixture(autouse=True)
def _cache(ledger_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(ledger_cache))
