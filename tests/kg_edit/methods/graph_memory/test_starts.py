"""Questions of one form have the same examples before them, which the model reads once."""

from __future__ import annotations

import pytest
import torch

from kg_edit.engine.prefix_cache import Prefix
from kg_edit.engine.prefix_store import PrefixStore
from kg_edit.methods.graph_memory.patch import WalkedPrompts
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import ask, continuations
from tests.kg_edit.methods.graph_memory.toy import SONY, memory
from tests.kg_edit.tiny import tiny

TOYOTA = SONY.model_copy(update={"id": "toyota", "subject": "Toyota", "target_new": "Oslo"})
QUESTIONS = ["Question: In which country is Sony?\nAnswer:", "Question: In which country is Toyota?\nAnswer:"]
OTHER = "Question: What is the currency of the country of Sony?\nAnswer:"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each beginning that is stored."""
    lengths = list[int]()
    keep = PrefixStore.keep

    def note(store: PrefixStore, model: LanguageModel, start: tuple[int, ...], read: Prefix) -> None:
        lengths.append(len(start))
        keep(store, model, start, read)

    monkeypatch.setattr(PrefixStore, "keep", note)
    return lengths


def test_examples_are_read_once_and_answers_stay(kept: list[int]) -> None:
    model = tiny("llama")
    with memory(SONY, TOYOTA).applied(model) as edited:
        alone = [*continuations(edited, QUESTIONS[:1], limits=[6])]
        alone += continuations(edited, QUESTIONS[1:], limits=[6])
        alone += continuations(edited, [OTHER], limits=[6])
        assert len(kept) == 2  # the first two questions have the same form
        together = continuations(edited, [*QUESTIONS, OTHER], limits=[6] * 3)  # without what is stored
    assert list(together) == alone
    assert min(kept) > 20


def test_prompt_without_an_example_begins_with_nothing_stored(kept: list[int]) -> None:
    with memory(SONY).applied(tiny("llama")) as edited:
        ask(edited, "Question: Who is it?\nAnswer: I\n\nQuestion: Where is Rome?\nAnswer:", tokens=2)
    with memory(SONY, examples=0).applied(tiny("llama")) as edited:
        ask(edited, QUESTIONS[0], tokens=2)
    assert kept == []


def test_chat_reads_its_examples_once(kept: list[int]) -> None:
    model = tiny("llama")
    model.tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}<assistant>"
    )
    try:
        with memory(SONY, TOYOTA, examples=1).applied(model) as edited:  # two fill the positions of the model
            for thing in ("Sony", "Toyota"):
                ask(edited, f"In which country is {thing}?", tokens=2, chat=True)
    finally:
        model.tokenizer.chat_template = None
    assert len(kept) == 1


def test_changed_weights_are_read_anew(kept: list[int]) -> None:
    """A weight that changes while the patch is applied changes what the examples' tokens mean."""
    model = tiny("llama")
    weight = dict(model.model.named_parameters())[model.weight_name(1)]
    first_weight = weight.detach().clone()
    with memory(SONY, TOYOTA).applied(model) as edited:
        assert isinstance(edited.prompt_transform, WalkedPrompts)
        before = continuations(edited, QUESTIONS[:1], limits=[6])
        try:
            with torch.no_grad():
                weight.mul_(-3)
            (changed,) = continuations(edited, QUESTIONS[:1], limits=[6])
            (expected,) = continuations(edited, QUESTIONS[:1], limits=[6], patches=[None])  # without what is stored
        finally:
            with torch.no_grad():
                weight.copy_(first_weight)
        assert changed == expected
        assert continuations(edited, QUESTIONS[:1], limits=[6]) == before
    assert len(kept) == 3
