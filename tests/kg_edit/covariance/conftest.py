"""A covariance of few texts."""

from __future__ import annotations

import pytest

from kg_edit.covariance import measure
from kg_edit.covariance.corpora import SelfCorpus


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 512 tokens, with the sums on disk after each."""
    monkeypatch.setattr(SelfCorpus, "length", 8)
    monkeypatch.setattr(measure, "CHECKPOINT_SECONDS", 0.0)
