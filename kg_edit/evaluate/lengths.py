"""Does a prompt fit into the model? Asked before it is run, where the answer would be an index error."""

from __future__ import annotations

from collections.abc import Iterable

from kg_edit.errors import ModelError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt

_SHOWN = 60  # letters of a prompt in a message


def check_lengths(model: LanguageModel, prompts: Iterable[Prompt], *, more: int = 0) -> None:
    """Check that each prompt, with ``more`` tokens to be written after it, fits into the model's positions.

    Raises:
        ModelError: one does not; says which, and how long it is.
    """
    limit = positions(model)
    for prompt in prompts:
        if limit is not None and len(prompt.ids) + more > limit:
            beginning = prompt.text[:_SHOWN] + ("…" if len(prompt.text) > _SHOWN else "")
            after = f", and {more} more are to be written after it" if more else ""
            raise ModelError(
                f"the prompt {beginning!r} has {len(prompt.ids)} tokens{after}; {model.name} has positions for "
                f"{limit}. Shorten the prompt, or use a model with more positions"
            )


def positions(model: LanguageModel) -> int | None:
    """How many positions the model has a table of; None if it computes them for any length (rotary angles, ALiBi)."""
    config = model.model.config
    computed = any(name.endswith("inv_freq") for name, _ in model.model.named_buffers())
    if computed or getattr(config, "alibi", False):
        return None
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None
