"""Letting a model write as its probabilities say, and not as its makers would have it write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import GenerationConfig

from kg_edit.models.language_model import LanguageModel


@contextmanager
def plain_generation(model: LanguageModel) -> Iterator[None]:
    """For the length of the block ``generate`` takes nothing from the model's own settings: penalties, beams, bans.

    What ``generate`` is not told it takes from there, also beside a `GenerationConfig` that it is given.
    """
    own = model.model.generation_config
    model.model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.model.generation_config = own
