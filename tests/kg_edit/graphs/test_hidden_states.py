"""Label vectors: what the model itself computes, one label at a time."""

from __future__ import annotations

import pytest
import torch

from kg_edit.graphs.encoding import label_vectors
from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel
from tests.everyday import keep_first
from tests.kg_edit.models.test_prompts import sentencepiece_style
from tests.kg_edit.tiny import tiny

LABELS = ["Los Angeles", "place of birth", "Los Angeles", "a", "the city of Philadelphia in Pennsylvania"]


def one_by_one(model: LanguageModel, label: str, layer: int, pooling: str, *, start: bool) -> torch.Tensor:
    """hidden_states[layer + 1] of the model's own output."""
    ids = model.tokenizer(label)["input_ids"]
    before = [model.tokenizer.bos_token_id, *model.tokenizer("\n")["input_ids"]] if start else []
    ids = [*before, *ids]
    with torch.no_grad():
        states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0]
    own = states[len(before) :]
    return {"last": own[-1], "mean": own.mean(0), "both": (own[-1] + own.mean(0)) / 2}[pooling]


@pytest.mark.parametrize("start", keep_first([False, True], keep=1))
@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
def test_label_vectors_equal_the_model_one_label_at_a_time(smollm2: LanguageModel, pooling: str, start: bool) -> None:
    found = label_vectors(smollm2, LABELS, layer=3, pooling=pooling, start_token=start)  # type: ignore[arg-type]
    for label, vector in zip(LABELS, found, strict=True):
        expected = one_by_one(smollm2, label, 3, pooling, start=start)
        torch.testing.assert_close(vector, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.equal(found[0], found[2])


def test_no_block_above_runs_and_equal_labels_run_once() -> None:
    model = tiny("llama")
    rows: list[int] = []
    above: list[int] = []
    with (
        watched(model.block(1), lambda _, output: rows.append(output.shape[0])),
        watched(model.block(2), lambda *_: above.append(1)),
    ):
        label_vectors(model, LABELS, layer=1)
    assert rows == [4]
    assert above == []


@pytest.mark.parametrize("pooling", ["last", "mean", "both"])
def test_special_tokens_do_not_count_as_the_label(pooling: str) -> None:
    """Neither a BOS in front nor an EOS behind is a part of it."""
    model = tiny("llama", bos=True)
    ids = model.tokenizer("Los Angeles")["input_ids"]
    assert ids[0] == model.tokenizer.bos_token_id
    with torch.no_grad():
        states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0, 1:]
    wanted = {"last": states[-1], "mean": states.mean(0), "both": (states[-1] + states.mean(0)) / 2}[pooling]
    (found,) = label_vectors(model, ["Los Angeles"], layer=1, pooling=pooling)  # type: ignore[arg-type]
    torch.testing.assert_close(found, wanted)

    closing = LanguageModel(
        model=model.model, tokenizer=sentencepiece_style(), spec=model.spec, name="closing", fingerprint=""
    )
    ends: list[int] = []
    with watched(closing.block(1), lambda _, output: ends.append(output.shape[1])):
        label_vectors(closing, ["Los Angeles"], layer=1)
    assert ends == [len(sentencepiece_style()("Los Angeles")["input_ids"]) - 1]


def test_start_token_is_not_doubled() -> None:
    """A tokenizer that adds a BOS must not get a second one."""
    model = tiny("llama", bos=True)
    seen: list[int] = []
    with watched(model.block(0), lambda _, output: seen.append(output.shape[1])):
        label_vectors(model, ["Los Angeles"], layer=0, start_token=True)
    assert seen == [len(model.tokenizer("\nLos Angeles")["input_ids"])]


def test_labels_of_one_token_differ_after_a_start_token(smollm2: LanguageModel) -> None:
    """At the start of a text, and right after the start token, this model gives each of them the same state."""
    labels = ["Google", "Japan", "Paris", "France", "English", "actor"]
    alone, after = (label_vectors(smollm2, labels, layer=3, start_token=start) for start in (False, True))

    def likest(vectors: torch.Tensor) -> float:
        directions = torch.nn.functional.normalize(vectors, dim=-1)
        return float((directions @ directions.T - 2 * torch.eye(len(vectors))).max())

    assert likest(alone) > 0.98
    assert likest(after) < 0.9
