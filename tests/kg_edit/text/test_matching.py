from __future__ import annotations

import pytest

from kg_edit.text.matching import begins_with, first_sentence, mentions, normalised, sentences


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The  Beatles", ("beatles",)),
        ("São Tomé", ("sao", "tome")),
        ("the U.S. Army", ("us", "army")),
        ("Anglo-Saxons", ("anglo", "saxons")),
        ("Turin,Italy", ("turin", "italy")),
        ("STRASSE straße", ("strasse", "strasse")),
        ("A", ("a",)),
        ("?!", ()),
        ("上海市", ("上", "海", "市")),
        ("부산이다", ("부", "산", "이", "다")),
        ("दिल्ली का पुल", ("दिल्ली", "का", "पुल")),
        ("שָׁלוֹם", ("שלום",)),
    ],
)
def test_normalised_gives_words(text: str, words: tuple[str, ...]) -> None:
    assert normalised(text) == words


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        (" Rome, the capital", "rome", True),
        ("首都是罗马。", "罗马", True),
        ("罗马帝国的首都", "罗马", False),
        ("罗马尼亚的首都是布加勒斯特", "罗马", False),
        ("罗马尼亚和罗马", "罗马", True),
        ("都柏林", "柏林", False),
        ("是柏林市", "柏林", True),
        ("印度尼西亚", "印度", False),
        ("中国语言", "中国", True),
        ("日本語を話す", "日本", False),
        ("日本の首都", "日本", True),
        ("リスボン", "ボン", False),
        ("Romelu Lukaku", "Rome", False),
        ("in Rome's north", "Rome", True),
        ("Rome<start_of_image>", "Rome", True),
        ("written in C++", "C", False),
        ("written in C++.", "C++", True),
        ("the city of Los Angeles.", "Los Angeles", True),
        ("Los and Angeles", "Los Angeles", False),
        ("Los", "Los Angeles", False),
        ("It is in Sweden", "IT", False),
        ("He told us", "US", False),
        ("He told us", "the U.S.", False),
        ("in the US", "the US", True),
        ("the U.S. dollar", "US", True),
        ("the US dollar", "U.S.", True),
        ("nato agreed", "NATO", True),
        ("anything", "...", False),
        ("中国的首都是上海。", "上海", True),
        ("수도는 부산이다", "부산", True),
        ("수도는 부산이다", "부사", False),
        ("首都は東京です", "京都", False),
        ("首都はパリです", "パリ", True),
        ("首都はパリです", "バリ", False),
    ],
)
def test_mentions_compares_whole_words(text: str, name: str, found: bool) -> None:
    assert mentions(text, name) is found


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("서울입니다.", "서울", True),
        ("서울특별시에 있다", "서울", True),
        ("'서울'이다", "서울", True),
        ("로마.\n파리", "로마", True),
        ("농구선수입니다", "농구 선수", True),
        ("미국 달러", "미국달러", True),
        ("갤럭시 S21은", "갤럭시 S21", True),
        ("갤럭시 S210", "갤럭시 S21", False),
        ("일본어", "일본", False),
        ("인도네시아", "인도", False),
        ("기니비사우", "기니", False),
        ("아시아쫑", "아시아", False),
    ],
)
def test_a_korean_name_ends_where_a_particle_or_a_title_begins(text: str, name: str, found: bool) -> None:
    assert begins_with(text, name) is found
    assert mentions(text, name) is found
    assert mentions(f"수도는 {text}", name) is found


def test_a_korean_name_is_not_found_within_a_word() -> None:
    assert not mentions("확인도 했다", "인도")
    assert not mentions("서울이란 도시", "이란")
    assert mentions("서울과 인도", "인도")


def test_begins_with_compares_the_first_words() -> None:
    assert begins_with(" the Adobe company", "Adobe")
    assert not begins_with("not Adobe", "Adobe")
    assert not begins_with("Adobes", "Adobe")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (" He was born in St. Louis. He died in Rome.", "He was born in St. Louis."),
        ("In the U.S. state of Iowa! Really.", "In the U.S. state of Iowa!"),
        ("It costs 3.5 dollars", "It costs 3.5 dollars"),
        ("他住在巴黎。他死于罗马。", "他住在巴黎。"),
        ("", ""),
    ],
)
def test_first_sentence_ends_at_its_mark(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_sentences_are_split() -> None:
    parts = list(sentences("He was born in St. Louis. He died! Then? "))
    assert parts == ["He was born in St. Louis.", "He died!", "Then?"]
    assert list(sentences(" ")) == []
