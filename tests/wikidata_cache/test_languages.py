"""Chains of languages: what a user names, the variants of each, and English at the end."""

from __future__ import annotations

import pytest

from wikidata_cache.languages import (
    DEFAULT_LANGUAGES,
    language_chain,
    list_codes,
    list_families,
    list_own_languages,
)

TRADITIONAL = ("zh-hant", "zh-tw", "zh-hk", "zh-mo")


@pytest.mark.parametrize(
    ("named", "own"),
    [
        ("en", ()),
        ("ja", ("ja",)),
        ("de", ("de", "de-at", "de-ch")),
        ("zh", ("zh", "zh-hans", "zh-cn", "zh-sg", "zh-my", *TRADITIONAL)),
        ("zh-tw", ("zh-tw", "zh-hant", "zh-hk", "zh-mo", "zh", "zh-hans", "zh-cn", "zh-sg", "zh-my")),
        ("zh-cn,ja", ("zh-cn", "zh-hans", "zh-sg", "zh-my", "zh", *TRADITIONAL, "ja")),
        ("pt-br, ja", ("pt-br", "pt", "ja")),
        ("en-gb", ("en-gb",)),
        ("mul", ("mul",)),
        ("ja,en,fr", ("ja", "en", "fr", "fr-ca")),
        ("KO", ("ko", "ko-kp")),
    ],
)
def test_chain_has_variants_after_each_language_and_english_last(named: str, own: tuple[str, ...]) -> None:
    chain = language_chain(named)
    assert list_own_languages(chain) == own
    assert chain == (*own, *(code for code in DEFAULT_LANGUAGES if code not in own))


def test_families_are_those_of_the_languages_that_are_not_asked_for_by_default() -> None:
    assert list_families(DEFAULT_LANGUAGES) == ()
    assert list_families(language_chain("zh-tw,zh,ko")) == ("ko", "zh")
    assert list_families(("ja",)) == ("ja",)
    assert list_codes("ko") == ("ko", "ko-kp")
