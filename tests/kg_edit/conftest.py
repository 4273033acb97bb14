"""What holds for every test here: the tiny models that tests share are as they were made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kg_edit.models.architectures import content_fingerprint
from tests.kg_edit.tiny import MADE


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are() -> Iterator[None]:
    yield
    for (name, bos), model in list(MADE.items()):
        if content_fingerprint(model.model) != model.fingerprint:
            del MADE[name, bos]
            pytest.fail(f"this test changed the shared tiny model {name!r}; let it work on a copy")
