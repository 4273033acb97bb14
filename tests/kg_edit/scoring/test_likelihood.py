"""Scores from the shared tree equal those of each pair alone."""

from __future__ import annotations

import pytest
import torch

from kg_edit.errors import ModelError, PromptError
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from kg_edit.scoring.likelihood import predictions, score
from kg_edit.scoring.pairs import Pair, TokenScores
from tests.kg_edit.tiny import families, tiny

PAIRS = [
    Pair("LeBron James plays for the", "Los Angeles Lakers"),
    Pair("LeBron James plays for the", "Miami Heat"),
    Pair("LeBron James plays for", "Miami"),
    Pair("Where does the river Thames flow?\nAnswer:", "London; the capital"),
    Pair("Answer:", "London"),
    Pair("LeBron James plays for the", "Miami Heat"),
]


@torch.no_grad()
def alone(model: LanguageModel, pair: Pair) -> TokenScores:
    """One pair, one plain forward pass."""
    prompt = encode(model.tokenizer, pair.prompt, target=pair.candidate)
    logits = model.model(torch.tensor([prompt.ids])).logits[0, prompt.target_start - 1 : -1].float()
    target = torch.tensor(prompt.target_ids)
    nll = torch.nn.functional.cross_entropy(logits, target)
    accuracy = (logits.argmax(-1) == target).float().mean().item()
    return TokenScores(nll=nll.item(), accuracy=accuracy, tokens=len(target))


def check_equal(model: LanguageModel, pairs: list[Pair]) -> None:
    scores = score(model, pairs)
    assert scores.keys() == set(pairs)
    for pair in scores:
        assert scores[pair] == pytest.approx(alone(model, pair), abs=1e-4), pair


@pytest.mark.parametrize("name", families())
def test_tree_equals_one_by_one_in_every_family(name: str) -> None:
    check_equal(tiny(name), PAIRS)


def test_start_token_comes_once_before_each_prompt() -> None:
    check_equal(tiny("llama", bos=True), PAIRS)


def test_trees_of_several_passes_equal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg_edit.scoring.likelihood._NODES", 12)
    check_equal(tiny("gpt2"), PAIRS)


def test_long_prompts_share_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text before every question (demonstrations, a dialogue) is read once, not once for each question."""
    for limit in ("_NODES", "_WIDTH"):
        monkeypatch.setattr(f"kg_edit.scoring.likelihood.{limit}", 12)
    model, before = tiny("llama"), "LeBron James plays for the " * 3
    read = list[int]()
    pairs = [Pair(before + name, "Miami") for name in ("Bosh", "Wade", "Love", "Shaq")]
    with model.model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    ):
        scores = score(model, pairs)
    assert sum(read) < 2 * len(encode(model.tokenizer, before).ids)
    assert scores[pairs[3]] == pytest.approx(alone(model, pairs[3]), abs=1e-4)


def test_score_restores_the_model() -> None:
    model = tiny("llama")
    state = torch.get_rng_state()
    score(model, PAIRS)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.model.get_output_embeddings()._forward_pre_hooks


def test_output_that_is_not_finite_is_an_error() -> None:
    model = tiny("llama")
    weight = weight_matrix(model.down_projection(1))
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.inf)
        with pytest.raises(ModelError, match="not finite"):
            score(model, PAIRS)
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "mpt", "opt"])
def test_pair_longer_than_the_models_positions_is_named(name: str) -> None:
    model = tiny(name)
    room = 128 - len(model.tokenizer(" Miami")["input_ids"])
    score(model, [Pair("a" * room, "Miami")])
    with pytest.raises(ModelError, match=rf"prompt 'aaa.*…' has 129 tokens; tiny-{name} has positions for 128. Short"):
        score(model, [Pair("a" * (room + 1), "Miami")])


# Targets of one and of many tokens, one the beginning of another.
OVERLAPPING = [
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
    by_pair = {}
    for row, (pair, prompt) in enumerate(zip(pairs, prompts, strict=True)):
        target_logits = logits[row, prompt.target_start - 1 : len(prompt.ids) - 1]
        nll = torch.nn.functional.cross_entropy(target_logits, torch.tensor(prompt.target_ids))
        by_pair[pair] = (tuple(target_logits.argmax(-1).tolist()), nll.item())
    return by_pair


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mistral"])
def test_left_padding_right_padding_and_the_shared_tree_agree(name: str, bos: bool) -> None:
    model = tiny(name, bos=bos)
    left, tree, right = predictions(model, OVERLAPPING), score(model, OVERLAPPING), right_padded(model, OVERLAPPING)
    assert left == {pair: tokens for pair, (tokens, _) in right.items()}
    for pair, (tokens, nll) in right.items():
        expected = encode(model.tokenizer, pair.prompt, target=pair.candidate).target_ids
        hits = [token == target for token, target in zip(tokens, expected, strict=True)]
        assert tree[pair] == pytest.approx((nll, sum(hits) / len(hits), len(hits)), abs=1e-4)


def test_rows_of_a_pass_have_as_many_tokens_as_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPT's attention can't read trees: its pairs are rows of their own, in passes by length."""
    model, sizes = tiny("mpt"), list[torch.Size]()
    together, limit = predictions(model, OVERLAPPING), 40
    monkeypatch.setattr("kg_edit.scoring.likelihood._NODES", limit)
    with model.model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
    ):
        scores = score(model, OVERLAPPING)
        assert predictions(model, OVERLAPPING) == together
    assert len(sizes) > 2 and all(rows * width <= limit or rows == 1 for rows, width in sizes)
    assert list(together) == list(scores) == OVERLAPPING
    for pair in OVERLAPPING:
        assert scores[pair] == pytest.approx(alone(model, pair), abs=1e-4)


def test_an_empty_prompt_is_refused() -> None:
    """Nothing predicts the target's first token; a BOS in front does."""
    for scored in (score, predictions):
        with pytest.raises(PromptError, match="the prompt '' before 'Miami' has no token; give a text before"):
            scored(tiny("gpt2"), [Pair("", "Miami")])
    check_equal(tiny("llama", bos=True), [Pair("", "Miami")])


def test_no_pairs_give_no_scores() -> None:
    assert score(tiny("llama"), []) == predictions(tiny("llama"), []) == {}
