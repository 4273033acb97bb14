"""Short answers: a random model never stops by itself, and most of the tests' time would go into what it writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerBase

from kg_edit.scoring.requests import Continued

MOST = 8
"""Tokens of an answer, unless a right one needs more."""


def write_little(patch: pytest.MonkeyPatch) -> None:
    """Answers to questions have few tokens until the patch is undone."""
    limit = Continued.limit

    def short(text: Continued, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> int:
        return limit(replace(text, least=min(text.least, MOST)), tokenizer, chat=False)

    patch.setattr(Continued, "limit", short)
