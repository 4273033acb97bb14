"""What holds for every test here: the tiny models that tests share are as they were made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kg_edit.tiny import CONTENT, MADE


def _refuse_changed(changed: list[tuple[str, bool]], who: str) -> None:
    for key in changed:
        del MADE[key], CONTENT[key]
        pytest.fail(f"{who} changed the shared tiny model {key[0]!r}; let it work on a copy")


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are() -> Iterator[None]:
    """After each test, look at the weights that something was written to; drop the test's gradients."""
    # How often each weight was written to in place, as torch counts it
    before = {key: [tensor._version for tensor, _ in content] for key, content in CONTENT.items()}
    yield
    changed = []
    for key, content in CONTENT.items():
        versions = before.get(key, [-1] * len(content))
        for (tensor, copy), version in zip(content, versions, strict=True):
            tensor.grad = None
            if tensor._version != version and not torch.equal(tensor, copy):
                changed.append(key)
                break
    _refuse_changed(changed, "this test")


@pytest.fixture(scope="module", autouse=True)
def _shared_models_stay_as_they_are_in_a_file() -> Iterator[None]:
    """After each file, look at all: a write through ``.data`` is not counted."""
    yield
    _refuse_changed(
        [key for key, content in CONTENT.items() if not all(torch.equal(tensor, copy) for tensor, copy in content)],
        "a test of this file",
    )
