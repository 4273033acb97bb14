"""The copy in bfloat16 on which a descent runs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from kg_edit.locate_then_edit.optimise import descent_model
from tests.kg_edit.tiny import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_copy_is_the_model_cast_and_the_model_stays(family: str) -> None:
    model = tiny(family)
    before = deepcopy(model.model.state_dict())
    rough = descent_model(model, "bfloat16").model
    plain = deepcopy(model.model).to(torch.bfloat16)
    for found, expected in ((rough.state_dict(), plain.state_dict()), *_buffers(rough, plain)):
        assert found.keys() == expected.keys()
        assert all(found[name].dtype == expected[name].dtype for name in expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(weight.requires_grad for weight in rough.parameters())
    tied = model.model.get_output_embeddings().weight is model.model.get_input_embeddings().weight
    assert (rough.get_output_embeddings().weight is rough.get_input_embeddings().weight) is tied

    with torch.no_grad():
        for tensor in (*rough.parameters(), *rough.buffers()):
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())


def _buffers(*models: torch.nn.Module) -> list[tuple[dict[str, torch.Tensor], ...]]:
    return [tuple(dict(model.named_buffers()) for model in models)]


def test_a_model_in_bfloat16_is_not_copied() -> None:
    model = tiny("llama")
    assert descent_model(model, "model") is model
    rough = replace(model, model=deepcopy(model.model).to(torch.bfloat16))
    assert descent_model(rough, "bfloat16") is rough
