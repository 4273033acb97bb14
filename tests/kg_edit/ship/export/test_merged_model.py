"""An edited model as a folder: what transformers loads from it is the patched model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from kg_edit.errors import OutputError
from kg_edit.models.language_model import LanguageModel
from kg_edit.ship.export.folders import new_folder
from kg_edit.ship.export.merged_model import check_mergeable, write_merged
from tests.kg_edit.ship.export.test_peft_adapter import IDS, patch_of
from tests.kg_edit.tiny import same_weights, tiny, weights_of


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_folder_loads_as_the_edited_model(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    clean = weights_of(model)
    patch = patch_of(model, {0: 2, 1: 1})
    with torch.no_grad(), patch.applied(model):
        expected = model.model(IDS).logits
    folder = write_merged(patch, model, tmp_path / "merged", shard="40KB")
    assert same_weights(model, clean)
    again = LanguageModel.load(folder)
    with torch.no_grad():
        assert torch.equal(again.model(IDS).logits, expected)
    assert again.tokenizer("LeBron James")["input_ids"] == model.tokenizer("LeBron James")["input_ids"]
    assert len([*folder.glob("model-*.safetensors")]) > 1 and (folder / "model.safetensors.index.json").is_file()
    assert json.loads((folder / "kg_edit.json").read_text())["model"]["fingerprint"] == model.fingerprint
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}, "safetensors leaves 0600"
    assert folder.stat().st_mode & 0o777 == 0o755


def test_new_folder_is_written_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing/deep"):
        link = tmp_path / name.replace("/", "-")
        link = link.with_name(f"to-{link.name}")
        link.symlink_to(tmp_path / name)
        with new_folder(link) as scratch:
            (scratch / "x").write_text("")
        assert link.is_symlink() and [path.name for path in (tmp_path / name).iterdir()] == ["x"]


@pytest.mark.parametrize("what", ["mount", "current", "read-only", "file"])
def test_folder_that_can_not_be_replaced_is_refused_before_the_work(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, message = tmp_path / "out", "can't be replaced; give a new folder in it"
    if what == "mount":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    elif what == "current":
        folder.mkdir()
        monkeypatch.chdir(folder)
        folder = Path()
    elif what == "read-only":
        monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
        message = "no permission"
    else:
        (tmp_path / "file").write_text("")
        folder, message = tmp_path / "file" / "out", "file is a file"
    with pytest.raises(OutputError, match=message), new_folder(folder):
        pytest.fail("the work began")


def test_merge_keeps_an_inconsistent_generation_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Llama 2's: a temperature, and no do_sample, which transformers reads but does not write."""
    model = tiny("llama")
    config = GenerationConfig(temperature=0.6, top_p=0.9, eos_token_id=1)
    monkeypatch.setattr(model.model, "generation_config", config)
    folder = write_merged(patch_of(model, {1: 1}), model, tmp_path / "merged")
    assert model.model.generation_config is config
    saved = json.loads((folder / "generation_config.json").read_text())
    assert (saved["temperature"], saved["top_p"], saved["eos_token_id"]) == (0.6, 0.9, 1)
    assert "do_sample" not in saved
    assert LanguageModel.load(folder).model.generation_config.temperature == 0.6


@pytest.mark.parametrize("shard", ["5GB", "40kb", " 1.5 TB ", "500MB"])
def test_shard_size_is_read_in_any_case(shard: str, tmp_path: Path) -> None:
    check_mergeable(patch_of(tiny("llama"), {1: 1}), tmp_path / "merged", shard=shard)
