"""Types of settings that several methods have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt

DEPTH = 0.2


def default_layer(blocks: int) -> int:
    """The layer at 0.2 of the depth, where a method writes that writes into one: 6 of 30, 2 of 12."""
    return round(DEPTH * blocks)


def _ascending(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or min(layers) < 0 or list(layers) != sorted(set(layers)):
        raise ValueError(f"{list(layers)} are no ascending numbers from 0 on; write each layer once, in order")
    return layers


Layers = Annotated[tuple[int, ...], AfterValidator(_ascending)]
"""Blocks, 0-based, each once."""

ContextLengths = tuple[tuple[Annotated[int, Field(ge=2)], NonNegativeInt], ...]
"""(tokens, count) of contexts; the document's start is one of the tokens."""
