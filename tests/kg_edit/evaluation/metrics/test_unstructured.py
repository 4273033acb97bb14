from __future__ import annotations

import pytest

from kg_edit.evaluation.metrics.unstructured import bleu, rouge_l, rouge_n

REFERENCE = "The cat sat on the mat. A dog lay on the cat."


@pytest.mark.parametrize(
    ("text", "one", "two", "longest", "characters"),
    [  # the recalls of the package rouge 1.0.1, and nltk's sentence_bleu of two strings
        (REFERENCE, 1, 1, 1, 1),
        ("The cat sat on the mat.", 2 / 3, 0.5, 2 / 3, 0.3842270061816405),
        ("The cat sat. A dog lay on the mat", 1, 0.7, 1, 0.6892772104197877),
        ("mat the on sat cat The", 2 / 3, 0, 1 / 3, 0.2398351787807401),
        ("the the mat. mat. ", 2 / 9, 0.1, 2 / 9, 0.1630572138927857),
        ("The catsat on", 2 / 9, 0, 2 / 9, 0.07261180873427972),
        ("xyz", 0, 0, 0, 0),
        ("", 0, 0, 0, 0),
    ],
)
def test_overlap_is_that_of_the_packages_of_unke(
    text: str, one: float, two: float, longest: float, characters: float
) -> None:
    assert rouge_n(text, REFERENCE, 1) == pytest.approx(one)
    assert rouge_n(text, REFERENCE, 2) == pytest.approx(two)
    assert rouge_l(text, REFERENCE) == pytest.approx(longest)
    assert bleu(text, REFERENCE) == pytest.approx(characters)
