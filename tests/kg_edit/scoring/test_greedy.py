"""Greedy decoding with a shared beginning gives what the model writes without it."""

from __future__ import annotations

import pytest
import torch

from kg_edit import scoring
from kg_edit.engine.prefix_cache import Prefix, SharedContexts
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.greedy import _Beginning, _group_alike, greedy
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.kg_edit.locate_then_edit.test_operators import operators
from tests.kg_edit.tiny import families, tiny

SHARED = "LeBron James plays for the Los Angeles Lakers.\n"
PROMPTS = [f"{SHARED}{text}" for text in ("Dwyane", "The Eiffel Tower is located in", "Where does", "Spike Hughes")]


@pytest.mark.parametrize("name", families(("llama", "gpt2", "falcon-alibi")))
def test_greedy_rows_equal_one_by_one(name: str) -> None:
    model = tiny(name)
    rows = list(greedy(model, [model.encode(prompt).ids for prompt in PROMPTS], limits=[5] * 4, top_k=4))
    for prompt, written in zip(PROMPTS, rows, strict=True):
        (alone,) = continuations(model, [prompt], limits=[5])
        text = str(model.tokenizer.decode(list(written.tokens)))
        assert text.startswith(alone)
        assert written.likeliest[:, 0].tolist() == list(written.tokens)
        ids = torch.tensor([[*model.encode(prompt).ids, *written.tokens[:-1]]])
        expected = model.model(ids).logits[0, -1].softmax(-1).topk(4)
        assert written.likeliest[-1].tolist() == expected.indices.tolist()
        torch.testing.assert_close(written.probabilities[-1], expected.values, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", families(("mistral", "falcon-alibi")))
def test_rows_that_join_others_write_what_they_write_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are then padded on the left, also where `mask_decides` is false."""
    monkeypatch.setattr(scoring.greedy, "BATCH_ROWS", 4)
    model = tiny(name)
    rows = [model.encode(text).ids for text in ("A", "Where does", "Spike Hughes plays for", "Rome", "The", "Paris is")]
    limits = [9, 3, 12, 4, 7, 10]
    together = greedy(model, rows, limits=limits)
    for row, limit, written in zip(rows, limits, together, strict=True):
        (alone,) = greedy(model, [row], limits=[limit])
        assert written.tokens == alone.tokens
        torch.testing.assert_close(written.probabilities, alone.probabilities, atol=1e-4, rtol=1e-3)


def test_padding_before_a_tail_does_not_move_a_beginning_out_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 42 tokens fit into the window, but with a beginning of 40 tokens and a tail of 10 they do not."""
    model = tiny("mistral")
    tokens = [2 + number % 390 for number in range(7, 2000, 7)]
    rows = [[*tokens[:40], 5, 6], [*tokens[:40], 8, 9]]
    rows += [[*tokens[60:84], *tokens[100:110]], [*tokens[60:84], *tokens[120:130]]]
    monkeypatch.setattr(model.text_config, "sliding_window", 44)
    for row, written in zip(rows, greedy(model, rows, limits=[2] * 4), strict=True):
        (alone,) = greedy(model, [row], limits=[2])
        torch.testing.assert_close(written.probabilities, alone.probabilities, atol=1e-5, rtol=1e-4)


def test_contexts_of_the_unpatched_model_are_not_for_patched_rows() -> None:
    model = tiny("llama")
    contexts = SharedContexts.of(model, ["{}"])
    with pytest.raises(ValueError, match="unpatched"):
        greedy(model, [[5]], limits=[1], patches=[rank_one(model, 0)], contexts=contexts)


def rank_one(model: LanguageModel, seed: int) -> WeightPatch:
    draw, size = torch.Generator().manual_seed(seed), weight_matrix(model.down_projection(1)).shape
    left, right = (torch.randn(number, 1, generator=draw) for number in size)
    return WeightPatch(factors={model.weight_name(1): Factors(left=left, right=right)}, provenance={})


def test_a_token_of_many_edited_models_has_the_operators_of_one() -> None:
    """Six rows of one edited model, and of six."""
    model, per_token = tiny("llama"), []
    rows = [model.encode(f"{text} and").ids for text in ("Dwyane", "The", "Where", "Spike", "Paris", "LeBron")]
    for count in (1, 6):
        different = [rank_one(model, seed) for seed in range(count)]
        patches = [different[row % count] for row in range(len(rows))]

        def of(tokens: int, patches: list[WeightPatch] = patches) -> int:
            return operators(lambda: greedy(model, rows, limits=[tokens] * len(rows), patches=patches))

        per_token.append((of(8) - of(3)) / 5)
    assert per_token[1] <= per_token[0]


def test_an_accelerators_memory_decides_how_many_rows_write_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how many tokens are scored in a pass; texts and scores are the same."""
    model = tiny("llama")
    rows = [model.encode(f"{text} and").ids for text in ("Dwyane", "The", "Where", "Spike", "Paris", "LeBron") * 20]
    pairs = [Pair(f"The {name} lives in {city}", city) for name in PROMPTS for city in ("London", "Rome", "Paris")]
    runs = []
    for free in (None, 1.0, 1000.0):  # MB
        for module in (scoring.greedy, scoring.likelihood):
            monkeypatch.setattr(module, "pass_megabytes", lambda _, free=free: free)
        passes = list[int]()
        with watch(model.blocks[0], lambda state, _: passes.append(len(state))):  # noqa: B023 - called in this round
            texts = [written.tokens for written in greedy(model, rows, limits=[4] * len(rows))]
            scores = score(model, pairs)
        runs.append((texts, scores, max(passes), len(passes)))
    cpu, little, much = runs
    assert cpu[2:] == little[2:] and much[2] == len(rows) and much[3] < cpu[3]
    assert much[0] == cpu[0]
    for pair, expected in cpu[1].items():
        assert much[1][pair] == pytest.approx(expected, abs=1e-4)


def test_rows_read_together_have_similar_lengths() -> None:
    """Also after two shared beginnings, by which they are sorted first: 1,000 tokens are left, and 2 or 3."""
    prefix = Prefix(mask=torch.ones(2, 40), layers=())
    beginnings = [_Beginning(prefix, 0, 30), _Beginning(prefix, 1, 40), _Beginning(prefix, 1, 40)]
    assert list(_group_alike([range(1030), range(42), range(43)], beginnings, most=32)) == [[0], [1, 2]]
