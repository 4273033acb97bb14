"""Tell which characters are written without spaces between words: Chinese, Japanese, Thai and related scripts.

`whole` finds a name in any text, `join` puts a target after its prompt. `GLUE` marks a target that follows its prompt
without a space in other scripts too.
"""

from __future__ import annotations

import re
from bisect import bisect_right

GLUE = "\u2060"  # Unicode's word joiner, as the first character of the target

_UNSPACED = (  # first and last code point
    (0x0E00, 0x0EFF),  # Thai and Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # marks among Han characters, such as 々
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),  # small kana of Ainu
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility forms
    (0xFF66, 0xFF9D),  # half-width kana
    (0x20000, 0x3FFFD),  # Han, the other extensions
)
# Chinese and Japanese punctuation, which has its own space behind it
_WIDE_MARKS = "\u3001\u3002\u300d\u300f\u30fb\uff01\uff0c\uff1a\uff1b\uff1f\u00b7"
_STARTS = [first for first, _ in _UNSPACED]
_HANGUL = (0xAC00, 0xD7A3)
_SYLLABLES = "".join(f"{chr(first)}-{chr(last)}" for first, last in (*_UNSPACED, _HANGUL))
_SPACED = rf"[^\W{_SYLLABLES}]"  # a letter or digit of a script with spaces


def is_unspaced(character: str) -> bool:
    """Return whether a word that ends in ``character`` is written without a space before the next word."""
    index = bisect_right(_STARTS, ord(character)) - 1
    return index >= 0 and ord(character) <= _UNSPACED[index][1]


def is_syllable(character: str) -> bool:
    """Return whether ``character`` counts as a word of its own when texts are compared.

    True for unspaced scripts, and for Korean, whose particles are joined to the word.
    """
    return is_unspaced(character) or is_hangul(character)


def is_hangul(character: str) -> bool:
    """Return whether ``character`` is a Korean syllable."""
    first, last = _HANGUL
    return first <= ord(character) <= last


def join(text: str, target: str) -> str:
    """Join ``text`` and ``target`` by a space, unless white space is there already or both scripts use no spaces.

    "Rome is in" + "Italy"     Rome is in Italy
    "罗马位于" + "意大利"        罗马位于意大利
    "首都是、" + "罗马"          首都是、罗马; a Chinese or Japanese mark of punctuation needs no space either
    "x" + GLUE + "y"           xy
    """
    if target.startswith(GLUE):
        return text + target.removeprefix(GLUE)
    if text[-1:].isspace() or target[:1].isspace():
        return text + target
    if runs_on(text, target):
        return text + target
    return f"{text} {target}"


def runs_on(text: str, target: str) -> bool:
    """Return whether ``target`` follows ``text`` without a space because of its script."""
    if not (text and target and is_unspaced(target[0])):
        return False
    return is_unspaced(text[-1]) or text[-1] in _WIDE_MARKS


def whole(name: str, text: str) -> str:
    """Return a pattern that finds ``name`` in ``text`` as whole words: Rome not in Romelu, 中国 in 中国的."""
    # The simpler class where it will do: _SPACED takes 3 ms to compile.
    letter = _SPACED if any(is_syllable(character) for character in text) else r"\w"
    pattern = re.escape(name)
    # No letter stands beside the name, unless the name ends in a syllable, which is a word of its own.
    if not (name and is_syllable(name[0])):
        pattern = rf"(?<!{letter}){pattern}"
    if not (name and is_syllable(name[-1])):
        pattern = rf"{pattern}(?!{letter})"
    return pattern
