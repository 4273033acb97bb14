"""What a model can do besides the edits: general ability, found on a text that has nothing to do with them."""

from __future__ import annotations

from pathlib import Path

from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.perplexity import perplexity

PERPLEXITY = "general.perplexity"


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: it can't be read, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't read the text {path} for general ability: {error}; give a UTF-8 text file") from error
    if not text.strip():
        raise ConfigError(f"the text {path} for general ability is empty; give one of some thousand words")
    return text


def general_scores(model: LanguageModel, text: str) -> dict[str, float | None]:
    """``general.perplexity`` on ``text``.

    Raises:
        ModelError: the model's output is not finite, or the text is too short.
    """
    return {PERPLEXITY: perplexity(model, text)}
