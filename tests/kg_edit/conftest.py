"""What holds for every test here: the tiny models that tests share are as they were made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kg_edit.tiny import CONTENT, MADE

SEEN: dict[tuple[str, bool], list[int]] = {}
"""The versions of each shared model's tensors when they were last compared."""


def _refuse_changed(changed: list[tuple[str, bool]], who: str) -> None:
    for key in changed:
        del MADE[key], CONTENT[key]
        pytest.fail(f"{who} changed the shared tiny model {key[0]!r}; let it work on a copy")


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are() -> Iterator[None]:
    """After each test, look at the weights that something was written to; drop the test's gradients."""
    yield
    changed = []
    for key, content in CONTENT.items():
        # How often each weight was written to in place, as torch counts it
        versions = [tensor._version for tensor, _ in content]
        if versions != SEEN.get(key):
            SEEN[key] = versions
            if not all(torch.equal(tensor, copy) for tensor, copy in content):
                changed.append(key)
        for tensor, _ in content:
            if tensor.grad is not None:
                tensor.grad = None
    _refuse_changed(changed, "this test")


@pytest.fixture(scope="module", autouse=True)
def _shared_models_stay_as_they_are_in_a_file() -> Iterator[None]:
    """After each file, look at all: a write through ``.data`` is not counted."""
    yield
    _refuse_changed(
        [key for key, content in CONTENT.items() if not all(torch.equal(tensor, copy) for tensor, copy in content)],
        "a test of this file",
    )
