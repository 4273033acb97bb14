"""PyTorch's norm and GELU in place of transformers': which families take them, and that nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from kg_edit.models.fused_kernels import FusedGELU, FusedRMSNorm, use_fused_kernels
from tests.kg_edit.tiny import families, tiny

NORMS = {
    *("apertus", "arcee", "cwm", "ernie4_5", "exaone4", "glm", "glm4", "granite", "granite_swa", "helium"),
    *("hunyuan_v1_dense", "lfm2", "lfm3", "llama", "ministral", "ministral3", "mistral", "olmo2", "olmo3", "phi3"),
    *("qwen2", "qwen3", "seed_oss", "smollm3"),
}
ACTIVATIONS = {"codegen", "gpt2", "gpt_neo", "gptj", "phi"}


def gradients(model: torch.nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the gradient of their squares with respect to the embeddings."""
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()  # type: ignore[operator]
    logits = model(inputs_embeds=embedded).logits
    return logits, torch.autograd.grad(logits.square().mean(), embedded)[0]


@pytest.mark.parametrize("family", families())
def test_a_model_computes_the_same_with_fused_kernels(family: str) -> None:
    """Gemma's norm has another formula, and LayerNorm is one kernel anyway: they stay."""
    model = copy.deepcopy(tiny(family).model)
    for parameter in model.parameters():  # a norm's weight is 1 in a new model
        parameter.data += 0.1 * torch.linspace(0, 1, parameter.numel()).reshape(parameter.shape)
    ids = torch.arange(3, 15).reshape(2, 6)
    before = gradients(model, ids)
    use_fused_kernels(model)
    for gradient, expected in zip(gradients(model, ids), before, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    kinds = {type(module) for module in model.modules()}
    assert (FusedRMSNorm in kinds, FusedGELU in kinds) == (family in NORMS, family in ACTIVATIONS), family


def test_second_derivatives_pass_through() -> None:
    """As the training of hypernetworks needs them."""
    torch.manual_seed(0)
    norm = copy.deepcopy(tiny("llama").model.model.norm).double()
    norm.__class__ = FusedRMSNorm
    assert torch.autograd.gradgradcheck(norm, torch.randn(3, len(norm.weight)).double().requires_grad_())
