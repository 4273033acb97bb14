"""Judge what a model answered: does a text give the target, and is the target more probable than another answer?

The metrics of `kg-edit evaluate`, the report of `kg-edit edit`, `kg-edit diff` and the served page judge by these.
"""

from __future__ import annotations

from collections.abc import Iterable

from kg_edit.scoring.pairs import TokenScores
from kg_edit.text.matching import begins_with, first_sentence, mentions

CUT = "\ufffd"  # a character whose last bytes are in a token after the limit


def tidy_text(text: str) -> str:
    """Return a continuation as it is shown: without a character that is cut, and white space around it."""
    return text.rstrip(CUT).strip()


def generates(text: str, target: str, *, chat: bool) -> bool:
    """Return whether a text begins with the target; in chat form, whether its first sentence mentions it."""
    if chat:
        return says_in_first_sentence(text, target)
    return begins_with(text, target)


def says_in_first_sentence(text: str, target: str) -> bool:
    """Return whether the first sentence of a text mentions the target: a chat model may not begin with it."""
    return mentions(first_sentence(text), target)


def is_likeliest(answer: TokenScores, others: Iterable[TokenScores]) -> bool:
    """Return whether the whole answer is more probable than each other one, by log p summed over tokens.

    An answer that is as probable as another one is not the likeliest.
    """
    return all(answer.total_nll < other.total_nll for other in others)
