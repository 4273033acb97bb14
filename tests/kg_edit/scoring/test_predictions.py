"""Arg-max tokens in a padded batch equal those of each pair alone, whichever side is padded."""

from __future__ import annotations

import pytest
import torch

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.scoring.likelihood import Pair, predictions, score
from tests.kg_edit.tiny import tiny

# Targets of one and of many tokens, one the beginning of another.
PAIRS = [
    Pair("LeBron James plays for the", "Miami"),
    Pair("LeBron James plays for the", "Miami Heat"),
    Pair("Paris", "London; the capital of France"),
    Pair("Where does the river Thames flow?\nAnswer:", "London"),
]


@torch.no_grad()
def right_padded(model: LanguageModel, pairs: list[Pair]) -> dict[Pair, tuple[tuple[int, ...], float]]:
    """Arg-max tokens and mean NLL from one batch padded on the right."""
    prompts = [encode(model.tokenizer, pair.prompt, target=pair.candidate) for pair in pairs]
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[*prompt.ids, *[0] * (width - len(prompt.ids))] for prompt in prompts])
    mask = torch.tensor([[1] * len(prompt.ids) + [0] * (width - len(prompt.ids)) for prompt in prompts])
    logits = model.model(input_ids=ids, attention_mask=mask).logits.float()
    found = {}
    for row, (pair, prompt) in enumerate(zip(pairs, prompts, strict=True)):
        places = logits[row, prompt.target_start - 1 : len(prompt.ids) - 1]
        nll = torch.nn.functional.cross_entropy(places, torch.tensor(prompt.target_ids))
        found[pair] = (tuple(places.argmax(-1).tolist()), nll.item())
    return found


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mistral"])
def test_left_padding_right_padding_and_the_shared_tree_agree(name: str, bos: bool) -> None:
    model = tiny(name, bos=bos)
    left, tree, right = predictions(model, PAIRS), score(model, PAIRS), right_padded(model, PAIRS)
    assert left == {pair: tokens for pair, (tokens, _) in right.items()}
    for pair, (tokens, nll) in right.items():
        wanted = encode(model.tokenizer, pair.prompt, target=pair.candidate).target_ids
        hits = [token == want for token, want in zip(tokens, wanted, strict=True)]
        assert tree[pair] == pytest.approx((nll, sum(hits) / len(hits), len(hits)), abs=1e-4)


def test_a_start_token_belongs_to_no_target() -> None:
    with_bos, without = tiny("llama", bos=True), tiny("llama")
    for pair in PAIRS:
        long, short = (encode(model.tokenizer, pair.prompt, target=pair.candidate) for model in (with_bos, without))
        assert long.target_ids == short.target_ids
        assert len(long.ids) == len(short.ids) + 1


def test_a_target_that_another_begins_with_has_its_own_tokens() -> None:
    found = predictions(tiny("llama"), PAIRS[:2])
    short, long = (found[pair] for pair in PAIRS[:2])
    assert len(short) < len(long)
    assert long[: len(short)] == short


def test_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predictions(tiny("llama"), PAIRS)
    monkeypatch.setattr("kg_edit.scoring.likelihood._ROWS", 1)
    assert predictions(tiny("llama"), PAIRS) == whole
    assert list(whole) == PAIRS


def test_nothing_asked() -> None:
    assert predictions(tiny("llama"), []) == {}
