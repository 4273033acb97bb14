"""PEFT adapters: what is written gives PEFT the logits of the edited model, and what PEFT saved is read as a patch."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.export.layout import ModuleLayout
from kg_edit.ship.export.peft_adapter import is_adapter, read_peft, write_peft
from tests.kg_edit.tiny import tiny

IDS = torch.tensor([[5, 17, 80, 33, 260, 9]])
ASK = """
import sys, warnings
warnings.simplefilter("error", UserWarning)
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from peft import PeftModel
out, *cases = sys.argv[1:]
found = {}
for case in cases:
    base, adapter = case.split("|")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    with torch.no_grad():
        found[adapter.replace("/", "_")] = model(load_file(base + "/ids.safetensors")["ids"]).logits
assert not [name for name in sys.modules if name.split(".")[0] == "kg_edit"], "kg_edit was imported"
save_file(found, out)
"""


def patch_of(model: LanguageModel, ranks: dict[int, int]) -> WeightPatch:
    draw = torch.Generator().manual_seed(3)
    factors = {}
    for layer, rank in ranks.items():
        rows, columns = weight_matrix(model.down_projection(layer)).shape
        left, right = torch.randn(rows, rank, generator=draw), torch.randn(columns, rank, generator=draw)
        factors[model.weight_name(layer)] = Factors(left=0.1 * left, right=right)
    return WeightPatch(factors=factors, provenance={"model": {"name": model.name, "fingerprint": model.fingerprint}})


def saved(model: LanguageModel, folder: Path) -> Path:
    model.model.save_pretrained(folder)
    save_file({"ids": IDS}, folder / "ids.safetensors")
    return folder


def asked_of_peft(cases: list[tuple[Path, Path]], out: Path) -> list[torch.Tensor]:
    """The logits of (base, adapter) folders, from a process of its own."""
    arguments = [f"{base}|{adapter}" for base, adapter in cases]
    process = subprocess.run(
        [sys.executable, "-c", ASK, str(out), *arguments], capture_output=True, text=True, cwd=out.parent, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    tensors = load_file(out)
    return [tensors[str(adapter).replace("/", "_")] for _, adapter in cases]


CASES: dict[str, tuple[str, dict[int, int]]] = {
    "one weight": ("llama", {1: 3}),
    "different ranks": ("llama", {0: 2, 1: 5, 2: 2}),
    "full rank": ("llama", {3: 32}),
    "conv1d": ("gpt2", {1: 2, 2: 4}),
    "with biases": ("gpt_neox", {1: 2}),
}


@pytest.mark.slow
def test_peft_adapter_gives_the_logits_of_the_patch(tmp_path: Path) -> None:
    bases = {family: saved(tiny(family), tmp_path / family) for family in ("llama", "gpt2", "gpt_neox")}
    cases, expected = [], []
    for number, (family, ranks) in enumerate(CASES.values()):
        model = tiny(family)
        patch = patch_of(model, ranks)
        with torch.no_grad(), patch.applied(model):
            expected.append(model.model(IDS).logits)
        assert (expected[-1] - model.model(IDS).logits).abs().max() > 0.1, "the patch does something"
        adapter = write_peft(patch, tmp_path / f"adapter{number}", layout=ModuleLayout(model.model))
        cases.append((bases[family], adapter))
    for name, mine, its in zip(CASES, expected, asked_of_peft(cases, tmp_path / "logits.safetensors"), strict=True):
        assert (mine - its).abs().max() < 1e-4, name


def test_peft_adapter_has_one_rank_and_one_alpha(tmp_path: Path) -> None:
    model = tiny("llama")
    folder = write_peft(
        patch_of(model, {0: 2, 1: 5, 2: 2}), tmp_path / "a", layout=ModuleLayout(model.model), base="someone/model"
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/model" and not config["fan_in_fan_out"]
    assert (config["r"], config["lora_alpha"]) == (5, 5), "one rank and one alpha: every reader's scale is 1"
    assert not any("pattern" in name for name in config)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {tuple(tensor.shape) for name, tensor in tensors.items() if "lora_A" in name} == {(5, 48)}
    assert {tuple(tensor.shape) for name, tensor in tensors.items() if "lora_B" in name} == {(32, 5)}
    for layer, rank in {0: 2, 1: 5, 2: 2}.items():
        start = f"base_model.model.model.layers.{layer}.mlp.down_proj.lora"
        assert not tensors[f"{start}_A.weight"][rank:].any() and not tensors[f"{start}_B.weight"][:, rank:].any()
    assert config["target_modules"] == [f"model.layers.{layer}.mlp.down_proj" for layer in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "kg_edit.json",
    ]
    gpt2 = tiny("gpt2")
    write_peft(patch_of(gpt2, {0: 1}), tmp_path / "b", layout=ModuleLayout(gpt2.model))
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["fan_in_fan_out"]


def trained(model: LanguageModel, folder: Path, **settings: Any) -> torch.Tensor:
    """Save an adapter that is not 0, made by PEFT; the logits with it."""
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], **settings})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        wrapped = peft.get_peft_model(copy.deepcopy(model.model), config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(str(folder))
    return logits(wrapped.eval())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(torch.tensor([[5, 6, 7, 8]])).logits
    return result


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
def test_read_peft_gives_the_logits_of_peft(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(family)
    expected = trained(model, tmp_path / "adapter", **settings)
    assert is_adapter(tmp_path / "adapter") and not is_adapter(tmp_path)
    with read_peft(tmp_path / "adapter", model).applied(model):
        torch.testing.assert_close(logits(model.model), expected, rtol=1e-4, atol=1e-4)


def test_peft_adapter_round_trip_keeps_the_change(tmp_path: Path) -> None:
    model = tiny("llama")
    trained(model, tmp_path / "first")
    patch = read_peft(tmp_path / "first", model)
    again = read_peft(write_peft(patch, tmp_path / "second", layout=ModuleLayout(model.model)), model)
    for name, pair in patch.factors.items():
        torch.testing.assert_close(again.factors[name].product, pair.product)
