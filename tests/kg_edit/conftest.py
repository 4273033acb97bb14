"""What holds for every test here: the tiny models that tests share are as they were made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kg_edit.tiny import CONTENT, MADE, USED

SEEN: dict[tuple[str, bool], list[int]] = {}
"""The versions of each shared model's tensors when they were last compared."""
IN_FILE: set[tuple[str, bool]] = set()
"""The shared models that tests of this file asked for."""
KEPT = ("llama", False)
"""The model that fixtures of a session hold, so that a test may have it without asking."""


def _refuse_changed(models: set[tuple[str, bool]], who: str) -> None:
    for key in models & CONTENT.keys():
        if not all(torch.equal(tensor, copy) for tensor, copy in CONTENT[key]):
            del MADE[key], CONTENT[key]
            pytest.fail(f"{who} changed the shared tiny model {key[0]!r}; let it work on a copy")


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are() -> Iterator[None]:
    """After each test, look at the weights that something was written to; drop the test's gradients."""
    yield
    written = set()
    for key in (USED | {KEPT}) & CONTENT.keys():
        # How often each weight was written to in place, as torch counts it
        versions = [tensor._version for tensor, _ in CONTENT[key]]
        if versions != SEEN.get(key):
            SEEN[key] = versions
            written.add(key)
        for tensor, _ in CONTENT[key]:
            if tensor.grad is not None:
                tensor.grad = None
    IN_FILE.update(USED)
    USED.clear()
    _refuse_changed(written, "this test")


@pytest.fixture(scope="module", autouse=True)
def _shared_models_stay_as_they_are_in_a_file() -> Iterator[None]:
    """After each file, look at all weights of the models in it: a write through ``.data`` is not counted."""
    yield
    models = IN_FILE | {KEPT}
    IN_FILE.clear()
    _refuse_changed(models, "a test of this file")
