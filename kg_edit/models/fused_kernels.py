"""Let one kernel of PyTorch compute a model's RMS norms, and GPT-2's and GPT-J's GELU, on CUDA.

transformers' formulas take seven and eight kernels. A step of a descent is bound by the number of its kernels if it has
few rows: in the shape of Llama-3-8B, bfloat16, one edit on an H100, the forward and backward pass has 2,175 kernels
with fused norms instead of 3,249. With many rows it is bound by memory in these kernels, and the GELU of formulas keeps
four tensors [tokens, d_ff] for the backward pass, the kernel one. In float32 the results are the same up to rounding;
in bfloat16 a kernel rounds once, transformers after each step.
"""

from __future__ import annotations

from copy import deepcopy
from inspect import signature

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

_SAME = 1e-5  # relative difference of a norm's results


class FusedRMSNorm(nn.Module):
    """x w / sqrt(mean x^2 + epsilon), with the names of transformers' norms."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the norm of ``hidden_states`` [..., d]."""
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


class FusedGELU(nn.Module):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the activation of ``input`` [..., d_ff]."""
        return nn.functional.gelu(input, approximate="tanh")


@torch.no_grad()
def use_fused_kernels(model: nn.Module) -> None:
    """Let PyTorch's kernels compute the norms and GELUs of ``model`` that have their formulas.

    Each of these modules gets another class, which has the same attributes (such as the weight) and another `forward`.
    """
    for module in model.modules():
        if _is_rms_norm(module):
            module.__class__ = FusedRMSNorm
        elif type(module) is NewGELUActivation:
            module.__class__ = FusedGELU  # type: ignore[assignment]


def _is_rms_norm(module: nn.Module) -> bool:
    """Return whether ``module`` computes what `FusedRMSNorm` does, by its results for one state."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or not hasattr(module, "variance_epsilon"):
        return False
    if len(signature(module.forward).parameters) != 1:  # Qwen3.5 has norms that also take a gate
        return False
    in_float32 = deepcopy(module).float()
    state = torch.linspace(-1, 2, len(weight), device=weight.device)  # [d]
    reference = in_float32(state)
    # The same module, as if it had the class FusedRMSNorm already: the method only reads its weight and its epsilon.
    fused = FusedRMSNorm.forward(in_float32, state)  # type: ignore[arg-type]
    return bool((fused - reference).norm() <= _SAME * reference.norm())
