"""Fixtures for all tests: the real small model, the shared records, tiny random models of every family."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side; more threads than cores are many times slower

from kg_edit.models.language_model import LanguageModel

settings.register_profile("any machine", deadline=None)  # a slow machine is no failure
settings.load_profile("any machine")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with benchmark records, the Wikidata extract and the oracle."""
    if not SHARED.is_dir():
        pytest.skip(f"the measurement data {SHARED} is not here")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """SmolLM2-135M-Instruct from the installed wheel."""
    return LanguageModel.load("smollm2-135m")
