"""Greedy text up to given stops: the same as plain decoding, whatever was read before."""

from __future__ import annotations

import pytest
import torch

from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.mello import greedy_writer
from kg_edit.zoo.mello.greedy_writer import GreedyWriter
from tests.kg_edit.tiny import families, tiny

START = "LeBron James plays for"
LONGER = f"{START} the Lakers. Where does the river"
NEVER = ("longer than any text that is generated here",)


@torch.no_grad()
def plain(model: LanguageModel, text: str, tokens: int) -> str:
    """Arg-max decoding that reads everything anew at each token."""
    ids = list(model.encode(text).ids)
    first = len(ids)
    while len(ids) < first + tokens:
        logits = model.model(torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            ids.pop()
            break
    return str(model.tokenizer.decode(ids[first:], skip_special_tokens=True))


@pytest.mark.parametrize("family", families(everyday=("llama", "falcon-alibi")))
def test_writer_equals_plain_decoding(family: str) -> None:
    model = tiny(family)
    writer = GreedyWriter(model, tokens=4, before="LeBron James ")
    for text in (START, LONGER, "Miami Heat", LONGER):
        assert writer.write([text], stops=NEVER) == [plain(model, text, 4)]


@pytest.mark.parametrize("family", families(everyday=("llama",)))
def test_texts_together_equal_each_alone(family: str) -> None:
    """Rows of unequal length, which end at different places; also where padding is not allowed."""
    model = tiny(family)
    texts = (START, LONGER, "Miami Heat", f"{LONGER}?", "LeBron James", START)
    for before in ("", "LeBron James "):
        writer = GreedyWriter(model, tokens=6, before=before)
        stop = plain(model, LONGER, 6)[2:4]
        alone = [GreedyWriter(model, tokens=6).write([text], stops=(*NEVER, stop))[0] for text in texts]
        assert writer.write(texts, stops=(*NEVER, stop)) == alone
    assert writer.write([], stops=NEVER) == []


@pytest.mark.slow
def test_more_texts_than_a_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    monkeypatch.setattr(greedy_writer, "_TOKENS", 100)
    texts = [f"LeBron James plays for {'the ' * count}" for count in range(20)]
    writer = GreedyWriter(model, tokens=4)
    assert writer.write(texts, stops=NEVER) == [plain(model, text, 4) for text in texts]


def test_writer_stops_before_the_first_stop() -> None:
    model = tiny("llama")
    text = plain(model, START, 12)
    stop = text[4:6]
    assert GreedyWriter(model, tokens=12).write([START], stops=(*NEVER, stop)) == [text[: text.find(stop)]]


def test_model_without_positions_left_writes_nothing() -> None:
    model = tiny("gpt2")
    long = "dog. " * 70
    assert model.max_positions == 128 and len(model.tokenizer(long)["input_ids"]) > 128
    assert GreedyWriter(model, tokens=4).write([long], stops=NEVER) == [""]
    short = "dog. " * 60
    assert model.max_positions - len(model.encode(short).ids) < 30
    assert GreedyWriter(model, tokens=200).write([short], stops=NEVER) != [""]


@pytest.mark.slow
def test_real_model_writes_what_plain_decoding_writes(smollm2: LanguageModel) -> None:
    writer = GreedyWriter(smollm2, tokens=8, before="Question: who wrote it?\n\n")
    for text in ("Question: who wrote it?\n\nThe capital of France is", "The capital of France is"):
        assert writer.write([text], stops=NEVER) == [plain(smollm2, text, 8)]
