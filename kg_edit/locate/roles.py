"""A token's role in its prompt, as in the paper's averages."""

from __future__ import annotations

from collections.abc import Iterator

from kg_edit.locate.noise import subject_tokens
from kg_edit.models.prompts import Prompt

BEFORE = "before the subject"  # not corrupted, and not in the paper's figure
FIRST, MIDDLE, LAST = "first subject token", "middle subject tokens", "last subject token"
NEXT, FURTHER, END = "first token after", "further tokens", "last token"
ROLES = (FIRST, MIDDLE, LAST, NEXT, FURTHER, END)


def roles(prompt: Prompt) -> tuple[str, ...]:
    """The role of each token of a prompt without target; each token has one.

    The subject's only token is its last one, and stays that where it ends the prompt; the prompt's last token is that
    also where it comes right after the subject.
    """
    return tuple(_roles(subject_tokens(prompt), len(prompt.ids)))


def _roles(subject: range, length: int) -> Iterator[str]:
    named = {length - 1: END, subject.start: FIRST, subject[-1]: LAST}  # the later name wins
    if subject.stop < length - 1:
        named[subject.stop] = NEXT
    for place in range(length):
        between = MIDDLE if place in subject else BEFORE if place < subject.start else FURTHER
        yield named.get(place, between)
