"""What is read of a model's files without torch is what its modules say."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.models.prompts import encode
from kg_edit.ship.export.first_token import are_first_tokens
from kg_edit.ship.export.layout import ModuleLayout, StoredLayout, layout_for
from tests.kg_edit.tiny import tiny

TEXTS = (("Google was founded in", "Google"), ("The Eiffel Tower is in", "The Eiffel Tower"), ("a b", "a"))


@pytest.mark.parametrize(
    ("family", "bos", "kind"),
    [("llama", False, StoredLayout), ("qwen2", True, StoredLayout), ("gpt2", False, ModuleLayout)],
)
def test_layout_of_files_is_that_of_the_modules(family: str, bos: bool, kind: type, tmp_path: Path) -> None:
    model = tiny(family, bos=bos)
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    weights = [model.weight_name(layer) for layer in range(2)]
    stored = layout_for(str(tmp_path), weights)
    in_memory = ModuleLayout(model.model)
    assert isinstance(stored, kind)
    for weight in weights:
        assert stored.find(weight) == in_memory.find(weight)
    assert stored.config.model_type == in_memory.config.model_type
    embedding = layout_for(str(tmp_path), [*weights, "model.embed_tokens.weight"])
    assert isinstance(embedding, ModuleLayout), "the modules say why an adapter can't change it"

    expected = []
    for text, subject in TEXTS:
        prompt = encode(model.tokenizer, text.replace(subject, "{}", 1), subject=subject)
        expected.append(prompt.subject_last == 0)
    assert are_first_tokens(str(tmp_path), TEXTS) == expected
