"""An edited model as a folder: what transformers loads from it is the patched model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kg_edit.errors import OutputError, PatchError
from kg_edit.export.merged_model import write_merged
from kg_edit.language_model import LanguageModel
from kg_edit.patches.patch_stack import PatchStack
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.export.test_peft_adapter import IDS, patch_of
from tests.kg_edit.tiny import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_folder_is_the_patched_model(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    clean = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    patch = patch_of(model, {0: 2, 1: 1})
    with torch.no_grad(), patch.applied(model):
        expected = model.model(IDS).logits
    folder = write_merged(patch, model, tmp_path / "merged", shard="40KB")
    assert all(torch.equal(tensor, clean[name]) for name, tensor in model.model.state_dict().items())
    again = LanguageModel.load(folder)
    with torch.no_grad():
        assert torch.equal(again.model(IDS).logits, expected)
    assert again.tokenizer("LeBron James")["input_ids"] == model.tokenizer("LeBron James")["input_ids"]
    assert len([*folder.glob("model-*.safetensors")]) > 1 and (folder / "model.safetensors.index.json").is_file()
    assert json.loads((folder / "kg_edit.json").read_text())["model"]["fingerprint"] == model.fingerprint


def test_what_can_not_be_merged(tmp_path: Path) -> None:
    model = tiny("llama")
    patch = patch_of(model, {1: 1})
    with pytest.raises(PatchError, match="can't be merged; remove those edits first"):
        write_merged(PatchStack((patch,)), model, tmp_path / "a")
    with pytest.raises(PatchError, match="changes nothing"):
        write_merged(WeightPatch(factors={}), model, tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(OutputError, match="is there already"):
        write_merged(patch, model, tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
