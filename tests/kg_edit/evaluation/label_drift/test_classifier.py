"""A classification head over a language model's blocks: fitted, asked, and edited by what edits blocks."""

from __future__ import annotations

import copy

import pytest
import torch

from kg_edit.evaluation.label_drift.classifier import fit_head, train_classifier, with_head
from kg_edit.evaluation.label_drift.texts import PROMPT
from kg_edit.models.sampling import sample_text
from tests.kg_edit.tiny import tiny

TEXTS = [f"{name} plays for the {team}" for name in ("LeBron", "Wade", "Hughes") for team in ("Lakers", "Heat")]
LABELS = [text.rpartition(" ")[2] for text in TEXTS]


def test_head_is_fitted_and_leaves_the_model_its_own() -> None:
    model = tiny("llama")
    before = model.model.get_output_embeddings()
    random = torch.get_rng_state()
    classifier = train_classifier(model, TEXTS, LABELS)
    assert classifier.labels == ("Heat", "Lakers") and classifier.classes(TEXTS) == LABELS
    assert model.model.get_output_embeddings() is before and torch.equal(torch.get_rng_state(), random)
    assert classifier.blocks[0] is model.blocks[0] and classifier.fingerprint != model.fingerprint
    again = train_classifier(model, TEXTS, LABELS)
    assert again.fingerprint == classifier.fingerprint
    assert classifier.scores([]).shape == (0, 2) and classifier.classes([]) == []


def test_progress_is_shown_while_older_texts_are_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kg_common.progress._LINE_S", 1e-6)
    caplog.set_level("INFO")
    classifier = train_classifier(tiny("llama"), TEXTS * 2, LABELS * 2)
    assert [line for line in caplog.messages if line.startswith("classifier: 8 of 12 texts")], caplog.messages
    caplog.clear()
    classifier.classes(TEXTS)
    assert not caplog.messages, "one text of many"


@pytest.mark.parametrize(
    "family", ["gpt2", "cohere", pytest.param("gemma2", marks=pytest.mark.slow), "opt-350m", "half"]
)
def test_head_is_fitted_in_every_family_and_in_half_precision(family: str) -> None:
    """In the form of a prompt the texts' states differ little; Cohere scales what its head returns, Gemma 2 caps it."""
    model = copy.deepcopy(tiny("llama" if family == "half" else family))
    if family == "half":
        model.model.to(torch.bfloat16)
    prompts = [PROMPT.replace("{}", text) for text in TEXTS]
    assert train_classifier(model, prompts, TEXTS).classes(prompts) == TEXTS


def test_class_is_a_target() -> None:
    classifier = train_classifier(tiny("llama"), TEXTS, LABELS)
    prompt = classifier.encode(TEXTS[0], target="Lakers")
    assert prompt.target_ids == (1,) and prompt.ids[:-1] == classifier.encode(TEXTS[0]).ids


def test_head_sees_what_the_models_own_head_sees() -> None:
    """With the model's own head the classes' scores are its logits."""
    model = copy.deepcopy(tiny("llama"))  # a classifier's head is frozen
    head = model.model.get_output_embeddings()
    same = with_head(model, head, [str(n) for n in range(400)])
    with torch.no_grad():
        expected = model.model(torch.tensor([same.encode(TEXTS[0]).ids])).logits[0, -1]
    torch.testing.assert_close(same.scores(TEXTS[:1])[0], expected)


def test_text_is_written_by_the_models_own_head() -> None:
    model = tiny("llama")
    classifier = train_classifier(model, TEXTS, LABELS)
    assert torch.equal(*(sample_text(lm, rows=2, tokens=4, seed=3) for lm in (classifier, model)))


def test_decay_and_scale() -> None:
    """Where states are scaled and shifted the classes stay; decay makes weights small."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(40, 5, generator=generator)
    labels = (states[:, 0] + states[:, 1] > 0).long()
    head = fit_head(states, labels, classes=2, decay=1e-3)
    moved = fit_head(states * 7 + 3, labels, classes=2, decay=1e-3)
    torch.testing.assert_close(head(states), moved(states * 7 + 3), rtol=1e-2, atol=1e-2)
    assert bool((head(states).argmax(-1) == labels).all())
    assert fit_head(states, labels, classes=2, decay=10.0).weight.norm() < 0.2 * head.weight.norm()
