"""PEFT adapters read as patches: what PEFT itself saved does the same, and what is no plain LoRA is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.export.peft_adapter import write_peft
from kg_edit.export.peft_reading import is_adapter, read_peft
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.tiny import tiny


def trained(model: LanguageModel, folder: Path, **settings: Any) -> torch.Tensor:
    """Save an adapter that is not 0, made by PEFT; the logits with it."""
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], **settings})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        whole = peft.get_peft_model(copy.deepcopy(model.model), config)
        for name, parameter in whole.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    whole.save_pretrained(str(folder))
    return logits(whole.eval())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8]])).logits
    return found


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True}),
        ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 9}}),
        ("llama", {"alpha_pattern": {"^model.layers.1.self_attn.q_proj": 30}}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ],
)
def test_the_model_says_what_pefts_own_says(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(family)
    expected = trained(model, tmp_path / "adapter", **settings)
    assert is_adapter(tmp_path / "adapter") and not is_adapter(tmp_path)
    with read_peft(tmp_path / "adapter", model).applied(model):
        torch.testing.assert_close(logits(model.model), expected, rtol=1e-4, atol=1e-4)


def test_there_and_back(tmp_path: Path) -> None:
    model = tiny("llama")
    trained(model, tmp_path / "first")
    patch = read_peft(tmp_path / "first", model)
    again = read_peft(write_peft(patch, tmp_path / "second", modules=model.model), model)
    for name, pair in patch.factors.items():
        torch.testing.assert_close(again.factors[name].product, pair.product)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
    ],
)
def test_more_than_a_lora_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = tiny("llama")
    trained(model, tmp_path / "a")
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    with pytest.raises(PatchError, match=said):
        read_peft(tmp_path / "a", model)


def test_what_is_missing_or_for_another_model(tmp_path: Path) -> None:
    trained(tiny("llama"), tmp_path / "a")
    with pytest.raises(PatchMismatchError):
        read_peft(tmp_path / "a", tiny("gpt2"))
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(PatchError, match="is a pickle"):
        read_peft(tmp_path / "a", tiny("llama"))
    with pytest.raises(PatchError, match="expected a PEFT adapter's folder"):
        read_peft(tmp_path, tiny("llama"))
