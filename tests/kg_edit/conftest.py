"""What holds for every test here: the tiny models that tests share are as they were made."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from torch import Tensor

from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.tiny import MADE


@cache
def _tensors(model: LanguageModel) -> tuple[Tensor, ...]:
    """The weights and buffers of a shared model: walking through its modules after each test costs more than most."""
    return tuple(model.model.state_dict(keep_vars=True).values())


def _versions(model: LanguageModel) -> tuple[int, ...]:
    """How often each weight was written to in place, as torch counts it."""
    return tuple([tensor._version for tensor in _tensors(model)])


def _refuse_changed(models: dict[tuple[str, bool], LanguageModel], who: str) -> None:
    for (name, bos), model in models.items():
        if content_fingerprint(model.model) != model.fingerprint:
            del MADE[name, bos]
            pytest.fail(f"{who} changed the shared tiny model {name!r}; let it work on a copy")


@pytest.fixture(autouse=True)
def _shared_models_stay_as_they_are() -> Iterator[None]:
    """After each test, look at the content of those models that something was written to; drop the test's gradients."""
    before = {key: _versions(model) for key, model in MADE.items()}
    yield
    for model in MADE.values():
        for tensor in _tensors(model):
            tensor.grad = None
    _refuse_changed({key: model for key, model in MADE.items() if before.get(key) != _versions(model)}, "this test")


@pytest.fixture(scope="module", autouse=True)
def _shared_models_stay_as_they_are_in_a_file() -> Iterator[None]:
    """After each file, look at all: a write through ``.data`` is not counted."""
    yield
    _refuse_changed(dict(MADE), "a test of this file")
