"""Decide whether a text has a name in it: both are normalised and compared word by word, so Rome is not in Romelu.

A Korean name is looked for as it stands in its word, since particles are joined to it. A Chinese or Japanese name
counts where it is not part of a longer name that is known: 罗马 is not in 罗马尼亚, nor in 罗马帝国.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from kg_edit.languages import packaged_rows
from kg_edit.writing_systems import is_hangul, is_syllable, is_unspaced

_ARTICLES = {"a", "an", "the"}
_ABBREVIATION = 3  # the most letters of an abbreviation whose capitals count
_SEPARATING = "PZCS"  # first letters of Unicode's categories: punctuation, separators, control characters, symbols
_SHORT = r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])(?<!\b[A-Z][a-z]{2})"  # not after a capitalised word of up to three letters
_END = re.compile(rf"(?:[?!]|{_SHORT}\.)(?=\s|$)|[\u3002\uff01\uff0e\uff1f\uff61]|\n")
# What may follow a Korean name within its word: particles and "to be", and titles of persons and of places
_PARTICLES = "|".join(
    (
        "[은는이가을를의에와과로도만나랑께라란야고다였입죠며든요임서]",
        "으로|까지|부터|보다|처럼|밖에|뿐|마저|조차|하고|한테|예요|지만|같|인데|인지|인가",
        "씨|님|시|특별시|광역시|특별자치시|현|주|성",
    )
)
# Endings that turn a Chinese or Japanese name into that of an empire or a language: 罗马 + 帝国, 英 + 语
_ANOTHER_THING = re.compile("帝国|帝國|[语語](?!言)")
_STOP_AFTER_OTHER_SCRIPT = re.compile(r"(?<=[^\W가-힣])\.")  # in U.S. and 1.5, and after Rome


def normalised(text: str, *, fold: bool = True) -> tuple[str, ...]:
    """Return the words of ``text`` in lower case (if ``fold``), without accents, punctuation, symbols and articles.

    A full stop is removed (U.S. is US), other punctuation and symbols separate words (Rome's and Rome</b> contain
    Rome), but not a plus (C++ is not C). A text of articles alone is not reduced, so that "A" can be an answer. Scripts
    without spaces, and Korean, are compared character by character.
    """
    if fold:
        text = text.casefold()
    characters = list[str]()
    for character in without_accents(text.replace(".", "")):
        if unicodedata.category(character)[0] in _SEPARATING and character != "+":
            characters.append(" ")
        elif is_syllable(character):  # a word of its own
            characters.append(f" {character} ")
        else:
            characters.append(character)
    words = "".join(characters).split()
    without_articles = [word for word in words if word.casefold() not in _ARTICLES]
    return tuple(without_articles or words)


def without_accents(text: str) -> str:
    """Return a text without accents, and without the vowel points of Hebrew and Arabic (NFKD, then NFC).

    Other marks tell words apart and stay: those of kana (パリ is Paris, バリ is Bali), vowel signs, tones of Thai.
    """
    if text.isascii():
        return text
    decomposed = unicodedata.normalize("NFKD", text)  # é as e and an accent
    without = "".join(character for character in decomposed if not _is_accent(character))
    return unicodedata.normalize("NFC", without)


def _is_accent(character: str) -> bool:
    """Return whether a character of a decomposed text is an accent, a vowel point or a variation selector."""
    if unicodedata.category(character) != "Mn":
        return False
    # Unicode's combining classes: 10 to 36 are Hebrew and Arabic points, 200 and more accents. Marks that stay have
    # others: kana's 8, vowel signs 0, 9 or 84 to 132.
    combining_class = unicodedata.combining(character)
    if 10 <= combining_class <= 36 or combining_class >= 200:
        return True
    return unicodedata.name(character, "").startswith("VARIATION SELECTOR")  # the picture of an emoji or a Han sign


def _words_of_both(text: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words of a text and of a name as they are compared; capitals count in an abbreviation."""
    fold = not is_abbreviation(name)
    return normalised(text, fold=fold), normalised(name, fold=fold)


def is_abbreviation(name: str) -> bool:
    """Return whether a name is an abbreviation of two or three letters: IT and the US are not the words it and us."""
    bare = " ".join(word for word in name.split() if word.casefold() not in _ARTICLES)
    letters = sum(character.isalpha() for character in bare)
    return bare.isupper() and 1 < letters <= _ABBREVIATION


def begins_with(text: str, name: str) -> bool:
    """Return whether the words of ``text`` begin with those of ``name``."""
    if _has_hangul(name):
        return _korean_pattern(name).match(_korean_text(text)) is not None
    words, name_words = _words_of_both(text, name)
    if not name_words or words[: len(name_words)] != name_words:
        return False
    return stands_alone(0, words, name_words)


def mentions(text: str, name: str) -> bool:
    """Return whether the words of ``name`` occur in ``text``, one after the other."""
    if _has_hangul(name):
        return _korean_pattern(name).search(_korean_text(text)) is not None
    words, name_words = _words_of_both(text, name)
    if not name_words:
        return False
    size = len(name_words)
    for start in range(len(words) - size + 1):
        if words[start : start + size] == name_words and stands_alone(start, words, name_words):
            return True
    return False


def stands_alone(start: int, words: Sequence[str], name_words: Sequence[str]) -> bool:
    """Return whether the name at a place of a text is not a part of a longer Chinese or Japanese name.

    罗马尼亚的首都      罗马 at 0 is part of 罗马尼亚
    都柏林              柏林 at 1 is part of 都柏林
    """
    if not is_unspaced(name_words[-1][-1]):
        return True
    # From here on each word is one character (`normalised`), so that places in a name are places among the words.
    name = "".join(name_words)
    end = start + len(name_words)
    if _ANOTHER_THING.match("".join(words[end : end + 2])):
        return False
    for longer in _find_longer_names(name):
        # Where the longer name would begin. A name that is in it twice is compared at its first place only.
        first = start - longer.index(name)
        if first >= 0 and "".join(words[first : first + len(longer)]) == longer:
            return False
    return True


def _find_longer_names(name: str) -> list[str]:
    """Return the longer names that a Chinese or Japanese name is in; the table is read only after a match."""
    longer = list[str]()
    for _language, shorter, others in packaged_rows("longer_names.tsv"):
        if "".join(normalised(shorter)) == name:
            longer += ["".join(normalised(other)) for other in others.split(";")]
    return longer


def _has_hangul(name: str) -> bool:
    return not name.isascii() and any(is_hangul(character) for character in unicodedata.normalize("NFKC", name))


def _korean_text(text: str) -> str:
    """Return ``text`` in the form in which a Korean name is looked for: without marks before its first word."""
    plain = _STOP_AFTER_OTHER_SCRIPT.sub("", without_accents(text.casefold()))
    return re.sub(r"^[\W_]+", "", plain)


def _korean_pattern(name: str) -> re.Pattern[str]:
    """Return a pattern that finds a Korean name from the beginning of a word on.

    Its parts are written with or without a space (농구 선수, 농구선수). Behind it the word ends, or goes on with a
    particle or a title: 서울은 and 서울특별시 name 서울, but 인도네시아 does not name 인도, nor 일본어 일본.
    """
    parts = [re.escape(part) for part in normalised(name)]  # each Korean syllable is a part of its own
    loosely = r"[\W_]*".join(parts)
    another_letter = r"\w"  # after BTS no digit, and no letter but a particle
    if is_hangul(name.rstrip()[-1]):
        another_letter = "[가-힣]"  # after 서울 a digit or a Latin letter may follow
    end = rf"(?:(?!{another_letter})|(?={_PARTICLES}))"
    return re.compile(rf"(?<!\w){loosely}{end}")


def is_exactly(text: str, name: str) -> bool:
    """Return whether the words of ``text`` are exactly those of ``name``."""
    name_words = normalised(name)
    return bool(name_words) and normalised(text) == name_words


def substring(text: str, name: str) -> bool:
    """Return whether ``name`` is a substring of ``text``, ignoring case: Rome is in Romelu."""
    wanted = name.strip().casefold()
    return bool(wanted) and wanted in text.casefold()


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of ``text``, each as `first_sentence` finds it; a blank text has none."""
    rest = text.strip()
    while rest:
        sentence = first_sentence(rest)
        yield sentence
        rest = rest[len(sentence) :].strip()


def first_sentence(text: str) -> str:
    """Return ``text`` up to its first full stop, question or exclamation mark before white space, or to a line break.

    A full stop after a capitalised word of at most three letters (St. Louis, Dr. Wade, U.S. dollar) does not count, so
    "Yes." does not end a sentence either.
    Chinese and Japanese marks need no white space.
    """
    text = text.strip()
    mark = _END.search(text)
    if mark is None:
        return text
    return text[: mark.end()]


# The marks of all languages with packaged words, and the English short ones
_QUESTION = re.compile(r"(?m)^(?:Question|Q|Frage|Pregunta|質問|질문|问题|问)[:\uff1a]")
_ANSWER = re.compile(r"\n(?:Answer|A|Antwort|Respuesta|答え|답|答案|答)[:\uff1a].*\Z", re.DOTALL)


def bare_question(prompt: str) -> str:
    """Return the question of a prompt ("Question: …", then "Answer:"; or "Q: …", then "A:"); else its last paragraph.

    Examples and facts before it are left out.
    """
    paragraph = prompt.rstrip().rpartition("\n\n")[2]
    marks = list(_QUESTION.finditer(paragraph))
    if not marks:
        return paragraph.strip()
    after_last_mark = paragraph[marks[-1].end() :]
    return _ANSWER.sub("", after_last_mark).strip()
