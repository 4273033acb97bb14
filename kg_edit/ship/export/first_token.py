"""Find the texts whose subject is their first token, which many models do not read (`kg_edit.models.first_token`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kg_edit.models.loading import files_at_hand, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def are_first_tokens(model: str, texts: Sequence[tuple[str, str]]) -> list[bool]:
    """Return for each (text, subject), where the text begins with the subject, whether that is the first token alone.

    It is not where the tokenizer puts a token in front (BOS). The tokenizer's file is read without torch; where the
    model has none, or transformers may read it in another way, transformers reads it.
    """
    if not texts:
        return []
    tokenizer = _read_tokenizer(model)
    if tokenizer is not None:
        return [_is_first_token(tokenizer, text, subject) for text, subject in texts]

    from kg_edit.models.prompts import encode  # loads torch

    slow_tokenizer = load_tokenizer(model)
    results = []
    for text, subject in texts:
        template = "{}" + text.removeprefix(subject)
        results.append(encode(slow_tokenizer, template, subject=subject).subject_last == 0)
    return results


def _is_first_token(tokenizer: Tokenizer, text: str, subject: str) -> bool:
    """Return whether the last character of the subject, with which the text begins, is in the first token."""
    return bool(tokenizer.encode(text).char_to_token(len(subject) - 1) == 0)


def _read_tokenizer(model: str) -> Tokenizer | None:
    """Return the tokenizer of a model's folder; None if it has no such file, or one that states BOS otherwise."""
    from tokenizers import Tokenizer

    folder = files_at_hand(model)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        states_bos = config.get("add_bos_token")
    except Exception:  # tokenizers raises this very class, for a file that is missing or damaged
        return None
    puts_bos = bool(tokenizer.encode("a").special_tokens_mask[0])
    return tokenizer if states_bos in (None, puts_bos) else None
