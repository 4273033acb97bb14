"""Reports have short answers."""

from __future__ import annotations

import pytest

from tests.kg_edit.short_answers import write_little


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    write_little(monkeypatch)
