"""Decide whether a text has a name in it: both are normalised and compared word by word, so Rome is not in Romelu."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from kg_edit.writing_systems import is_syllable

_ARTICLES = {"a", "an", "the"}
_ABBREVIATION = 3  # letters of an abbreviation whose capitals count, at most
_SHORT = r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z]{2})"
_END = re.compile(rf"(?:[?!]|{_SHORT}\.)(?=\s|$)|[\u3002\uff01\uff1f]|\n")


def normalised(text: str, *, fold: bool = True) -> tuple[str, ...]:
    """Return the words of ``text`` in lower case (if ``fold``), without accents, punctuation, symbols and articles.

    A full stop is removed (U.S. is US), other punctuation and symbols separate words (Rome's and Rome</b> contain
    Rome), but not a plus (C++ is not C). A text of articles alone is not reduced, so that "A" can be an answer. Scripts
    without spaces, and Korean, are compared character by character.
    """
    plain = without_accents((text.casefold() if fold else text).replace(".", ""))
    plain = "".join(" " if unicodedata.category(c)[0] in "PZCS" and c != "+" else c for c in plain)
    words = "".join(f" {character} " if is_syllable(character) else character for character in plain).split()
    return tuple(word for word in words if word.casefold() not in _ARTICLES) or tuple(words)


def without_accents(text: str) -> str:
    """Return a text without accents, and without the vowel points of Hebrew and Arabic (NFKD, then NFC).

    Other marks tell words apart and stay: those of kana (パリ is Paris, バリ is Bali), vowel signs, tones of Thai.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", "".join(c for c in unicodedata.normalize("NFKD", text) if not _is_accent(c)))


def _is_accent(character: str) -> bool:
    if unicodedata.category(character) != "Mn":
        return False
    kind = unicodedata.combining(character)  # kana's marks have 8, vowel signs 0, 9 or 84 to 132
    selects = unicodedata.name(character, "").startswith("VARIATION SELECTOR")  # the picture of an emoji or a Han sign
    return 10 <= kind <= 36 or kind >= 200 or selects


def _compared(text: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of both; capitals count in an abbreviation."""
    fold = not is_abbreviation(name)
    return normalised(text, fold=fold), normalised(name, fold=fold)


def is_abbreviation(name: str) -> bool:
    """Return whether a name is an abbreviation of two or three letters: IT and the US are not the words it and us."""
    bare = " ".join(word for word in name.split() if word.casefold() not in _ARTICLES)
    return bare.isupper() and 1 < sum(map(str.isalpha, bare)) <= _ABBREVIATION


def begins_with(text: str, name: str) -> bool:
    """Return whether the words of ``text`` begin with those of ``name``."""
    words, name_words = _compared(text, name)
    return bool(name_words) and words[: len(name_words)] == name_words


def mentions(text: str, name: str) -> bool:
    """Return whether the words of ``name`` occur in ``text``, one after the other."""
    words, name_words = _compared(text, name)
    starts = range(len(words) - len(name_words) + 1)
    return bool(name_words) and any(words[start : start + len(name_words)] == name_words for start in starts)


def is_exactly(text: str, name: str) -> bool:
    """Return whether the words of ``text`` are exactly those of ``name``."""
    name_words = normalised(name)
    return bool(name_words) and normalised(text) == name_words


def substring(text: str, name: str) -> bool:
    """Return whether ``name`` is a substring of ``text``, ignoring case: Rome is in Romelu."""
    return bool(name.strip()) and name.strip().casefold() in text.casefold()


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of ``text``, each as `first_sentence` finds it; a blank text has none."""
    while text := text.strip():
        sentence = first_sentence(text)
        yield sentence
        text = text[len(sentence) :]


def first_sentence(text: str) -> str:
    """``text`` up to the first full stop, question or exclamation mark before white space or the end, or to a line
    break.

    A full stop after a capitalised word of at most three letters (St. Louis, Dr. Wade, U.S. dollar) does not count.
    Chinese and Japanese marks need no white space.
    """
    mark = _END.search(text.strip())
    return text.strip()[: mark.end()] if mark else text.strip()


_ASKED = re.compile(r"(?m)^(?:Question|Q):")
_ANSWERED = re.compile(r"\n(?:Answer|A):.*\Z", re.DOTALL)


def bare_question(prompt: str) -> str:
    """Return the question of a prompt ("Question: …", then "Answer:"; or "Q: …", then "A:"); else its last paragraph.

    Examples and facts before it are left out.
    """
    paragraph = prompt.rstrip().rpartition("\n\n")[2]
    questions = list(_ASKED.finditer(paragraph))
    return _ANSWERED.sub("", paragraph[questions[-1].end() :]).strip() if questions else paragraph.strip()
