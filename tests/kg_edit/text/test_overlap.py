from __future__ import annotations

from math import exp

import pytest

from kg_edit.text.overlap import bleu, rouge_l, rouge_n

REFERENCE = "The cat sat on the mat."  # seven words with the full stop


@pytest.mark.parametrize(
    ("text", "one", "two", "longest"),
    [
        (REFERENCE, 1, 1, 1),
        ("the cat sat", 6 / 10, 4 / 8, 6 / 10),
        ("the the the the", 4 / 11, 0, 4 / 11),  # a word counts as often as the reference has it
        ("mat cat", 4 / 9, 0, 2 / 9),
        ("", 0, 0, 0),
    ],
)
def test_rouge_is_the_f1_of_common_words(text: str, one: float, two: float, longest: float) -> None:
    assert rouge_n(text, REFERENCE, 1) == pytest.approx(one)
    assert rouge_n(text, REFERENCE, 2) == pytest.approx(two)
    assert rouge_l(text, REFERENCE) == pytest.approx(longest)


def test_bleu_has_a_penalty_for_short_texts() -> None:
    assert bleu(REFERENCE, REFERENCE) == pytest.approx(1)
    assert bleu("The cat sat on the", REFERENCE) == pytest.approx(exp(1 - 7 / 5))
    assert bleu("The cat sat on a dog today", REFERENCE) == pytest.approx((4 / 7 * 3 / 6 * 2 / 5 * 1 / 4) ** 0.25)
    assert bleu("the cat sat", REFERENCE) == bleu("", REFERENCE) == 0, "no four words in a row"
