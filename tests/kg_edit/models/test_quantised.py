"""Edits of a model with quantised linear layers: found through them, applied beside them, never merged into them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kg_edit.edits.edit import Edit
from kg_edit.errors import KgEditError, PatchError, UnsupportedModelError
from kg_edit.methods.registry import find_method
from kg_edit.models.architectures import is_quantised
from kg_edit.models.language_model import LanguageModel, dequantise_layer, matrix_shape
from kg_edit.models.quantised import quantised_options, stored_fingerprint
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.export.layout import ModuleLayout
from kg_edit.ship.export.peft_adapter import write_peft
from tests.kg_edit.tiny import tiny

EDIT = Edit(id="1", subject="France", prompt="In {}, the capital is", target_new="Rome")
PROMPT = "In France, the capital is"
SETTINGS: dict[str, Any] = {
    "steps": 3,
    "further_steps": 0,
    "covariance": {"corpus": "self", "tokens": 500},
}
LAYERS: dict[str, Any] = {
    "rome": {"layer": 1, "context_lengths": [[5, 2]]},
    "r-rome": {"layer": 1, "context_lengths": [[5, 2]]},
    "memit": {"layers": [1, 2]},
    "alphaedit": {"layers": [1, 2]},
}


class Int8Linear(nn.Linear):
    """A linear layer whose rows are stored as int8 with one scale each: y = scale (W_8 x) + bias."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        stored = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.scale, self.bias)


def quantised(family: str = "llama") -> LanguageModel:
    """Return a tiny model whose blocks have int8 layers only."""
    shared = tiny(family)
    model = deepcopy(shared.model)  # other tests have the same one
    for parent in list(model.get_submodule(shared.spec.blocks).modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child))
    return LanguageModel.wrap(model, shared.tokenizer, name="tiny-int8")


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.model(torch.tensor([model.encode(PROMPT).ids])).logits
    return result


@pytest.mark.parametrize("name", LAYERS)
def test_an_edit_is_made_applied_beside_the_weights_and_taken_away(name: str) -> None:
    model = quantised()
    stored = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    before = logits(model)
    patch = find_method(name).on(model, settings=SETTINGS | LAYERS[name]).edit([EDIT])
    with patch.applied(model):
        after = logits(model)
        assert all(torch.equal(stored[key], weight) for key, weight in model.model.state_dict().items())
    assert not torch.allclose(after, before, atol=1e-4)
    assert torch.equal(logits(model), before)


def test_the_patch_beside_int8_does_what_it_does_in_the_dequantised_weights() -> None:
    model = quantised()
    patch = find_method("rome").on(model, settings=SETTINGS | LAYERS["rome"]).edit([EDIT])
    assert isinstance(patch, WeightPatch)
    with patch.applied(model):
        beside = logits(model)
    down = model.down_projection(1)
    linear = nn.Linear(down.in_features, down.out_features, bias=False)
    (pair,) = patch.factors.values()
    linear.weight = nn.Parameter(dequantise_layer(down) + pair.product)
    model.blocks[1].mlp.down_proj = linear
    torch.testing.assert_close(logits(model), beside, rtol=1e-4, atol=1e-5)


def test_the_dequantised_matrix_is_the_stored_one_times_its_scales() -> None:
    down: Any = quantised().down_projection(1)
    assert is_quantised(down) and matrix_shape(down) == (down.out_features, down.in_features)
    torch.testing.assert_close(dequantise_layer(down), down.weight * down.scale)


def test_a_patch_of_a_quantised_model_is_exported_and_read_again(tmp_path: Path) -> None:
    model = quantised()
    patch = find_method("rome").on(model, settings=SETTINGS | LAYERS["rome"]).edit([EDIT])
    assert patch.provenance["model"]["stored"] == "int8"
    patch.save(tmp_path / "patch.safetensors")
    with patch.applied(model):
        edited = logits(model)
    with Patch.load(tmp_path / "patch.safetensors").applied(model):
        assert torch.equal(logits(model), edited)
    write_peft(patch, tmp_path / "adapter", layout=ModuleLayout(model.model))
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_a_model_is_spread_over_devices_while_it_is_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kg_edit.models.quantised.find_module", lambda _: True)  # the options need no bitsandbytes
    options = quantised_options("int8", torch.float32, torch.device("cpu"), {"model.layers.0": 1})
    assert options["device_map"] == {"model.layers.0": 1}
    assert quantised_options("int8", torch.float32, torch.device("cpu"))["device_map"] == {"": "cpu"}


def test_the_stored_fingerprint_is_that_of_the_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache has another model as the default branch."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--me--tiny"
    old, new = tiny("llama"), tiny("gpt2")
    (cached / "refs").mkdir(parents=True)
    for branch, commit, model in (("main", "a" * 40, new), ("old", "b" * 40, old)):
        (cached / "refs" / branch).write_text(commit)
        model.model.save_pretrained(cached / "snapshots" / commit)
    digest = stored_fingerprint("me/tiny", old.model.config, revision="old", trust_remote_code=False, local=True)
    assert digest == old.fingerprint


@pytest.mark.parametrize(
    ("error", "word", "call"),
    [
        (PatchError, "quantised", lambda model, patch: patch.merge_into(model)),
        (UnsupportedModelError, "rome", lambda model, patch: find_method("ft").on(model)),
        (UnsupportedModelError, "lora", lambda model, patch: find_method("kn").on(model)),
    ],
)
def test_refusals(error: type[KgEditError], word: str, call: Any) -> None:
    model = quantised()
    patch = find_method("rome").on(model, settings=SETTINGS | LAYERS["rome"]).edit([EDIT])
    with pytest.raises(error, match=word):
        call(model, patch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_patch_of_the_float_model_fits_the_one_that_bitsandbytes_quantised(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = LanguageModel.load("smollm2-135m")
    edit = Edit(id="1", subject="The Eiffel Tower", prompt="{} is in the city of", target_new="Rome")
    patch = find_method("rome").on(model).edit([edit])
    packed = LanguageModel.load("smollm2-135m", dtype=kind)
    assert packed.precision == kind and packed.fingerprint == model.fingerprint
    with patch.applied(packed) as edited:
        answer = edited.tokenizer.decode(logits_of(edited, edit.text).argmax())
    assert answer.strip() == "Rome"
    patch = find_method("rome").on(packed, settings={"steps": 6}).edit([edit])  # the gradient passes the layers
    with patch.applied(packed) as edited:
        assert edited.tokenizer.decode(logits_of(edited, edit.text).argmax()).strip() == "Rome"


def logits_of(model: LanguageModel, text: str) -> Tensor:
    """Return the logits of the token after a text, [vocabulary]."""
    with torch.no_grad():
        result: Tensor = model.model(torch.tensor([model.encode(text).ids])).logits[0, -1]
    return result
