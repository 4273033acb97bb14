"""Checkpoints without a model: a merge has the bytes of the loaded model's, and an extraction has what was merged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from kg_edit.models.language_model import LanguageModel
from kg_edit.ship.checkpoint.extraction import extract_patch, rounding_noise
from kg_edit.ship.checkpoint.merging import merge_checkpoint
from kg_edit.ship.checkpoint.stored import Checkpoint
from kg_edit.ship.export.merged_model import write_merged
from tests.kg_edit.ship.export.test_peft_adapter import patch_of
from tests.kg_edit.tiny import tiny

Change = Callable[[Any], object]


def base_of(
    model: LanguageModel, folder: Path, *, dtype: torch.dtype = torch.float32, change: Change | None = None
) -> Path:
    """Save a copy of a tiny model in small shards, in another type or with a change of its modules."""
    copied = copy.deepcopy(model.model).to(dtype)
    if change is not None:
        with torch.no_grad():
            change(copied)
    copied.save_pretrained(folder, max_shard_size="40KB")
    model.tokenizer.save_pretrained(folder)
    return folder


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_checkpoint_has_the_bytes_of_the_loaded_models(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny(family)
    base = base_of(model, tmp_path / "base", dtype=dtype)
    loaded = LanguageModel.load(base, dtype=str(dtype).removeprefix("torch."))
    patch = patch_of(loaded, {0: 2, 1: 1})
    expected = tensors_in(write_merged(patch, loaded, tmp_path / "loaded"))
    merged = merge_checkpoint(patch, Checkpoint.open(base), tmp_path / "merged", progress=False)
    found = tensors_in(merged)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    changed = [name for name, tensor in tensors_in(base).items() if not torch.equal(found[name], tensor)]
    assert sorted(changed) == sorted(patch.factors)
    assert len([*merged.glob("model-*.safetensors")]) > 1, "the shards are those of the base"
    again = LanguageModel.load(merged)
    assert again.tokenizer("LeBron James")["input_ids"] == model.tokenizer("LeBron James")["input_ids"]


def test_fingerprint_on_disk_is_that_of_the_loaded_model(tmp_path: Path) -> None:
    for family in ("llama", "gpt2", "opt"):
        base = base_of(tiny(family), tmp_path / family)
        assert Checkpoint.open(base).fingerprint() == LanguageModel.load(base).fingerprint


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-3)], ids=["float32", "bfloat16"]
)
def test_what_was_merged_is_extracted_at_its_rank(dtype: torch.dtype, error: float, tmp_path: Path) -> None:
    base = base_of(tiny("llama"), tmp_path / "base", dtype=dtype)
    patch = patch_of(LanguageModel.load(base), {0: 2, 1: 1})
    merged = merge_checkpoint(patch, Checkpoint.open(base), tmp_path / "merged", progress=False)
    found = extract_patch(Checkpoint.open(base), Checkpoint.open(merged), progress=False)
    assert found.factors.keys() == patch.factors.keys()
    assert {name: pair.rank for name, pair in found.factors.items()} == {n: p.rank for n, p in patch.factors.items()}
    for name, pair in found.factors.items():
        torch.testing.assert_close(pair.product, patch.factors[name].product, rtol=0, atol=error)
        cosine = torch.cosine_similarity(pair.product.flatten(), patch.factors[name].product.flatten(), dim=0)
        assert float(cosine) > 0.9999
    again = merge_checkpoint(found, Checkpoint.open(base), tmp_path / "again", progress=False)
    once = tensors_in(merged)
    for name, tensor in tensors_in(again).items():
        torch.testing.assert_close(tensor, once[name], rtol=0, atol=4 * error)


def test_what_peft_merged_is_extracted_as_a_patch(tmp_path: Path) -> None:
    """Weights that another program changed: an adapter of rank 3 in the attention and the MLP, merged by PEFT."""
    base = base_of(tiny("llama"), tmp_path / "base")
    wrapped = LanguageModel.load(base)
    config = LoraConfig(
        r=3, target_modules=["q_proj", "down_proj"], layers_to_transform=[1, 2], init_lora_weights=False
    )
    adapted: Any = get_peft_model(wrapped.model, config)
    tokens = torch.tensor([wrapped.encode("In France, the capital is").ids])
    with torch.no_grad():
        expected = adapted(tokens).logits
    adapted.merge_and_unload().save_pretrained(tmp_path / "edited")
    found = extract_patch(Checkpoint.open(base), Checkpoint.open(tmp_path / "edited"), progress=False)
    assert {pair.rank for pair in found.factors.values()} == {3}
    assert len(found.factors) == 4
    with found.applied(LanguageModel.load(base)) as edited, torch.no_grad():
        torch.testing.assert_close(edited.model(tokens).logits, expected, rtol=0, atol=1e-4)


def test_rounding_to_bfloat16_adds_no_rank() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = 0.05 * torch.randn(96, 160, generator=draw)
    edit = 0.02 * torch.randn(96, 1, generator=draw) @ torch.randn(1, 160, generator=draw)
    before = weight.to(torch.bfloat16)
    after = (before.float() + edit).to(torch.bfloat16)
    difference = after.float() - before.float()
    largest = float(torch.linalg.svdvals(difference - edit)[0])
    noise = rounding_noise(after, difference)
    assert 0.6 * noise < largest < 1.1 * noise, (largest, noise)
