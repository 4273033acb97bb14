"""Many patches in one batch, each for its own tokens, equal each alone."""

from __future__ import annotations

import pytest
import torch

from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import score, score_each
from kg_edit.scoring.pairs import Pair
from tests.kg_edit.tiny import families, same_weights, tiny, weights_of

ASKED = [
    [Pair("LeBron James plays for the", "Los Angeles Lakers"), Pair("LeBron James plays for the", "Miami Heat")],
    [Pair("LeBron James plays for the", "Miami Heat"), Pair("Where does the river flow?\nAnswer:", "London")],
    [Pair("LeBron James plays for the", "Miami Heat")],
]


def patches(model: LanguageModel) -> list[Patch | None]:
    """None, a rank-one patch of a layer, and one of two layers and rank two, large enough to matter."""
    draw = torch.Generator().manual_seed(0)

    def factors(layer: int, rank: int) -> dict[str, Factors]:
        size_out, size_in = weight_matrix(model.down_projection(layer)).shape
        left, right = (torch.randn(size, rank, generator=draw) for size in (size_out, size_in))
        return {model.weight_name(layer): Factors(left=left, right=right)}

    changes = [factors(1, 1), factors(1, 2) | factors(2, 1)]
    return [None, *(WeightPatch(factors=change, provenance={}) for change in changes)]


@pytest.mark.parametrize("family", families())
def test_scores_of_many_patches_equal_each_alone(family: str) -> None:
    model = tiny(family)
    weights = weights_of(model)
    variants = patches(model)
    together = score_each(model, ASKED, patches=variants)
    assert same_weights(model, weights)
    for patch, pairs, scores in zip(variants, ASKED, together, strict=True):
        alone = applied_alone(model, patch, pairs)
        for pair in pairs:
            assert scores[pair] == pytest.approx(alone[pair], abs=1e-4)
    heat = Pair("LeBron James plays for the", "Miami Heat")
    assert len({round(scores[heat].nll, 3) for scores in together}) == 3, "the patches must differ in effect"


def test_pair_of_unpatched_entries_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, encode, seen = tiny("llama"), LanguageModel.encode, list[str]()

    def counted(self: LanguageModel, text: str, *, target: str | None = None) -> Prompt:
        seen.append(text)
        return encode(self, text, target=target)

    monkeypatch.setattr(LanguageModel, "encode", counted)
    first, second, third = score_each(model, [ASKED[0]] * 3, patches=[patches(model)[1], None, None])
    assert len(seen) == 2 * len(ASKED[0]), "with the patch, and once without it"
    assert second == third and first != second
    for pair, alone in score(model, ASKED[0]).items():
        assert second[pair] == pytest.approx(alone, abs=1e-4)


def applied_alone(model: LanguageModel, patch: Patch | None, pairs: list[Pair]) -> dict[Pair, tuple[float, float]]:
    if patch is None:
        return score(model, pairs)  # type: ignore[return-value]
    with patch.applied(model):
        return score(model, pairs)  # type: ignore[return-value]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon-alibi"])
def test_texts_of_many_patches_equal_each_alone(family: str) -> None:
    model = tiny(family)
    variants = patches(model)
    prompts = ["LeBron James plays for", "The river Thames flows", "LeBron James plays for"]
    together = continuations(model, prompts, limits=(8, 4, 8), patches=variants)
    alone = []
    for patch, prompt, limit in zip(variants, prompts, (8, 4, 8), strict=True):
        if patch is None:
            alone += continuations(model, [prompt], limits=[limit])
            continue
        with patch.applied(model):
            alone += continuations(model, [prompt], limits=[limit])
    assert list(together) == alone
    assert together[0] != together[2]
