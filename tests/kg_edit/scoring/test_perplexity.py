from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from kg_edit.errors import ModelError
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.perplexity import perplexity
from tests.everyday import keep_first
from tests.kg_edit.tiny import TEXT, tiny

LONG = " ".join(TEXT)


@torch.no_grad()
def plainly(model: LanguageModel, text: str, *, window: int, stride: int) -> float:
    """Each token alone: from the start of the first window that has it."""
    ids = model.tokenizer(text)["input_ids"]
    losses = []
    for position in range(1, len(ids)):
        start = next(start for start in range(0, len(ids), stride) if start < position < start + window)
        logits = model.model(torch.tensor([ids[start:position]])).logits[0, -1].float()
        losses.append(-logits.log_softmax(-1)[ids[position]].item())
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize(("window", "stride"), keep_first([(9, 2), (1000, 500), (16, 15), (16, 8)], unpack=True))
def test_each_token_is_scored_once_in_its_first_window(window: int, stride: int) -> None:
    model = tiny("llama")
    value = perplexity(model, LONG, window=window, stride=stride, tokens=None)
    assert value == pytest.approx(plainly(model, LONG, window=window, stride=stride), rel=1e-4)


def test_beginning_of_a_text_is_read() -> None:
    model = tiny("llama")
    assert perplexity(model, LONG, tokens=20) == perplexity(model, LONG + " more of it", tokens=20)


def test_model_with_few_positions_takes_shorter_windows() -> None:
    model = tiny("gpt2")  # 128
    assert perplexity(model, LONG * 3) == perplexity(model, LONG * 3, window=128)


def test_text_of_one_token() -> None:
    with pytest.raises(ModelError, match="fewer than two tokens"):
        perplexity(tiny("llama"), "a")


@pytest.mark.slow
def test_real_model_on_wikitext(smollm2: LanguageModel, shared: Path) -> None:
    text = (shared / "wikitext2" / "test.txt").read_text(encoding="utf-8")
    value = perplexity(smollm2, text, tokens=700)
    assert 10 < value < 60
    assert value < perplexity(smollm2, " ".join(text.split()[::-1]), tokens=700)
