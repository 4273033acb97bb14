"""Languages of labels: Wikidata's codes, and chains of them.

A chain is a tuple of codes, the preferred one first: the label of an entity is in the first language that has one.
`language_chain` makes a chain of what a user names, `check_languages` checks one that a program gives.

Sources know nothing of chains. They answer questions about a family of codes, such as zh with its variants zh-hans,
zh-hant and so on. So the answers of one chain can be used for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from wikidata_cache.errors import BadOptionError

Languages = tuple[str, ...]

# "mul" has the names of which Wikidata has deleted the English copy.
DEFAULT_LANGUAGES: Languages = ("en", "mul", "en-gb", "en-ca", "en-us", "simple")
ALL_LANGUAGES = "all"  # what `load` takes in place of codes

_SIMPLIFIED = ("zh-hans", "zh-cn", "zh-sg", "zh-my")
_TRADITIONAL = ("zh-hant", "zh-tw", "zh-hk", "zh-mo")
_EXPECTED = "expected Wikidata's codes, such as zh, ko or pt-br, separated by commas"


def language_chain(text: str) -> Languages:
    """Return the chain of the languages that a user names, such as "zh,ko".

    Each code is followed by the regional and script variants of its language, and the chain ends with
    `DEFAULT_LANGUAGES`, so that an entity without any other label still has one. "en" gives the default chain.

    Raises:
        BadOptionError: a code is not one of Wikidata's.
    """
    chain: list[str] = []
    for part in text.split(","):
        chain += _with_variants(_check_code(part.strip().lower()))
    chain += DEFAULT_LANGUAGES
    return tuple(dict.fromkeys(chain))


def check_languages(languages: Sequence[str]) -> Languages:
    """Return a chain that a program gives, after checking that it is a tuple or list of Wikidata's codes."""
    if isinstance(languages, str) or not languages:
        raise BadOptionError(f"languages={languages!r}: expected codes, such as those of language_chain('zh,ko').")
    return tuple(_check_code(code) for code in languages)


def own_languages(languages: Languages) -> Languages:
    """Return the codes of a chain before its English end: those that are not asked for by default.

    The end is as much of the chain as has its codes in the order of `DEFAULT_LANGUAGES`.
    """
    own = len(languages)
    place = len(DEFAULT_LANGUAGES)
    while own and languages[own - 1] in DEFAULT_LANGUAGES[:place]:
        own -= 1
        place = DEFAULT_LANGUAGES.index(languages[own])
    return languages[:own]


def searched_languages(languages: Languages) -> Languages:
    """Return the codes in which a search for names is made: the first of each family of the chain, else English.

    Wikidata's search takes one language, and looks in its variants and in English too.
    """
    first: dict[str, str] = {}
    for code in own_languages(languages):
        first.setdefault(family_of(code), code)
    return tuple(first.values()) or ("en",)


def families_of(languages: Languages) -> tuple[str, ...]:
    """Return the families of a chain's own codes, sorted: ("ko", "zh") for the chain of "zh-tw,ko"."""
    return tuple(sorted({family_of(code) for code in own_languages(languages)}))


def is_language(code: str) -> bool:
    """Return whether a text is one of Wikidata's codes."""
    return code in _all_codes()


def family_of(code: str) -> str:
    """Return the language of a code without region and script: "zh" for "zh-hant"."""
    return code.partition("-")[0]


@cache
def codes_of(family: str) -> Languages:
    """Return all codes of a family, the plain one first: ("de", "de-at", "de-ch"); () for an unknown one."""
    if family == "zh":
        return ("zh", *_SIMPLIFIED, *_TRADITIONAL)
    return tuple(sorted(code for code in _all_codes() if family_of(code) == family))


def _with_variants(code: str) -> Languages:
    """Return a code and the others of its family, the nearest first."""
    family = family_of(code)
    if family == "en":
        return (code,)  # the default chain has the others
    nearest: Languages = ()
    if code in _TRADITIONAL:
        nearest = _TRADITIONAL
    if code in _SIMPLIFIED:
        nearest = _SIMPLIFIED
    return tuple(dict.fromkeys((code, *nearest, *codes_of(family))))


def _check_code(code: object) -> str:
    if not isinstance(code, str) or code not in _all_codes():
        raise BadOptionError(f"{code!r} is not a language of Wikidata's labels; {_EXPECTED}.")
    return code


@cache
def _all_codes() -> frozenset[str]:
    table = files("wikidata_cache").joinpath("data", "languages.tsv").read_text(encoding="utf-8")
    _, *codes = table.split()  # after the header
    return frozenset(codes)
