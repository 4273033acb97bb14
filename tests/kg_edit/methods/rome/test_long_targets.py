"""The preset for long targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.edits.files import read_edits
from kg_edit.methods.rome.method import Rome
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import ask

LONG = Path(__file__).parents[4] / "bench" / "long_targets.jsonl"


@pytest.mark.slow
def test_preset_long_makes_the_model_generate_a_whole_sentence(smollm2: LanguageModel) -> None:
    edits = [edit for edit in read_edits(LONG).edits if edit.id in ("19 tokens-3", "19 tokens-6")]
    settings = {"descent_dtype": "bfloat16"}
    texts = {}
    for preset in ("default", "long"):
        patches = Rome.on(smollm2, preset=preset, settings=settings).edit_each(edits)
        for edit, patch in zip(edits, patches, strict=True):
            with patch.applied(smollm2) as edited:
                texts[edit.id, preset] = ask(edited, edit.text, tokens=24)
    for edit in edits:
        assert texts[edit.id, "long"].strip().startswith(edit.target_new)
        assert not texts[edit.id, "default"].strip().startswith(edit.target_new)
