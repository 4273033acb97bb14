"""Checkpoints whose weights compressed-tensors has packed, in FP8 or in integers: loaded, edited and merged."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams

from kg_edit.errors import ModelError
from kg_edit.methods.registry import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.ship.checkpoint.stored import Checkpoint
from kg_edit.ship.export.merged_model import write_merged
from tests.kg_edit.models.test_quantised import EDIT, LAYERS, SETTINGS, logits
from tests.kg_edit.tiny import tiny

DYNAMIC = QuantizationArgs(num_bits=8, type="int", strategy="token", dynamic=True)
FORMS: dict[str, tuple[str, QuantizationScheme]] = {
    "FP8": (
        "float-quantized",
        QuantizationScheme(
            targets=["Linear"], weights=QuantizationArgs(num_bits=8, type="float", strategy="channel", symmetric=True)
        ),
    ),
    "INT8, also of activations": (
        "int-quantized",
        QuantizationScheme(
            targets=["Linear"],
            weights=QuantizationArgs(num_bits=8, type="int", strategy="channel", symmetric=True),
            input_activations=DYNAMIC,
        ),
    ),
    "INT4, packed": (
        "pack-quantized",
        QuantizationScheme(
            targets=["Linear"], weights=QuantizationArgs(num_bits=4, type="int", strategy="channel", symmetric=True)
        ),
    ),
}


@pytest.fixture(params=FORMS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny Llama whose linear layers are packed in one of the forms."""
    form, scheme = FORMS[request.param]
    shared = tiny("llama")
    model: Any = deepcopy(shared.model)  # other tests have the same one
    config = QuantizationConfig(config_groups={"all": scheme}, format=form, ignore=["lm_head"])
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "quantization_scheme"):
            rows = module.weight.detach()  # one scale a row
            scale, _ = calculate_qparams(rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), scheme.weights)
            module.weight_scale.data.copy_(scale)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "packed")
    compressor.update_config(tmp_path / "packed")
    shared.tokenizer.save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


def test_a_packed_checkpoint_is_edited_and_merged_into_plain_weights(checkpoint: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(checkpoint)
    similarity = torch.cosine_similarity(logits(model).flatten(), logits(tiny("llama")).flatten(), dim=0)
    assert similarity > 0.8  # 4 bits change the most
    patch = find_method("rome").on(model, settings=SETTINGS | LAYERS["rome"]).edit([EDIT])
    patch.save(tmp_path / "patch.safetensors")
    again = LanguageModel.load(checkpoint)
    with Patch.load(tmp_path / "patch.safetensors").applied(again) as edited:
        expected = logits(edited)
    assert not torch.equal(expected, logits(again))
    merged = write_merged(patch, again, tmp_path / "merged")
    assert torch.allclose(logits(LanguageModel.load(merged)), expected, atol=1e-5)


def test_a_change_is_not_added_to_packed_weights_in_the_files(checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="quantised"):
        Checkpoint.open(checkpoint)
