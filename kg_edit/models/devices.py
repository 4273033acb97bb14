"""What a device can do: how much of its memory is free, whether it has float64, and its faster matrix products.

Apple's accelerator (mps) has no float64, nor have some of Intel's. `exact` then takes a tensor to the CPU.

`use_onednn` speeds up models on AMD's processors with AVX-512. PyTorch computes x W^T of a float32 model by MKL, whose
kernels for AVX-512 run on Intel's processors only. PyTorch also ships oneDNN, whose kernels run on both. This was
measured on one thread of a Zen 4 core, in the shapes of SmolLM2-135M and Qwen2.5-0.5B, with weights that are read from
memory, as those of a model are:

- For 48 tokens and more, oneDNN is 2.1 to 2.4 times as fast as MKL, and for fewer 1.1 to 2.9 times.
- Only with a small weight that is in the cache already, one or two tokens take up to 2.5 times as long.
- Both round to float32: at d_ff = 4864 the relative error is 6e-7 with oneDNN and 3e-7 with MKL.

Without AVX-512 (Zen 3 and older) MKL is faster: a pass of SmolLM2-135M takes 1.0 to 1.2 times as long with oneDNN, and
with its gradient 1.2 to 1.3 times as long.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_CPUINFO = Path("/proc/cpuinfo")


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that tensors may still take on ``device``; None if it is the CPU, or doesn't tell.

    Blocks that torch's allocator keeps for later tensors count as free.
    """
    if device.type in ("cuda", "xpu"):
        module = torch.get_device_module(device)
        cached = module.memory_reserved(device) - module.memory_allocated(device)
        return int(module.mem_get_info(device)[0] + cached)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return None


def pass_megabytes(device: torch.device) -> float | None:
    """Return the MB that forward passes may take on ``device`` by default: half of what is free; None if unknown."""
    free = free_bytes(device)
    if free is None:
        return None
    return free / 2e6


def computes_in_bfloat16() -> bool:
    """Return whether this processor multiplies in bfloat16; without it, bfloat16 is slower than float32."""
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def has_float64(device: torch.device) -> bool:
    """Return whether tensors on ``device`` can be in float64."""
    if device.type == "cpu":
        return True
    try:
        torch.ones(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def exact(tensor: Tensor) -> Tensor:
    """Return the tensor in float64: on its device if that has float64, else on the CPU."""
    if has_float64(tensor.device):
        return tensor.double()
    return tensor.cpu().double()


def takes_onednn() -> bool:
    """Return whether oneDNN computes products faster here: on AMD's processors with AVX-512, if PyTorch has it."""
    has_product = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    has_avx512 = torch.cpu.get_capabilities().get("avx512_f", False)
    if not has_product or not has_avx512 or platform.system() != "Linux":
        return False
    try:
        return "AuthenticAMD" in _CPUINFO.read_text(errors="replace")
    except OSError:
        return False


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of ``model`` compute by oneDNN what it computes faster; their weights stay as they are.

    Each layer gets another class, which has the same attributes and another ``forward``.
    """
    replacements: dict[type, type] = {nn.Linear: OneDnnLinear, Conv1D: OneDnnConv1D}
    for module in model.modules():
        module.__class__ = replacements.get(type(module), type(module))


class OneDnnLinear(nn.Linear):
    """A linear layer whose products are `product`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b."""
        return product(input, self.weight, self.bias)


class OneDnnConv1D(Conv1D):
    """GPT-2's linear layer, which stores W transposed, whose products are `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W + b."""
        return product(x, self.weight.T, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, by oneDNN if it takes the tensors.

    Args:
        x: [..., in].
        weight: W [out, in].
        bias: b [out], or None.
    """
    # oneDNN takes weights with other strides, too, but its kernels for those are a thousand times slower.
    is_dense = weight.is_contiguous() or weight.T.is_contiguous()
    is_float32 = x.dtype == weight.dtype == torch.float32
    if not is_dense or not is_float32 or not x.numel() or x.device.type != "cpu":
        return nn.functional.linear(x, weight, bias)
    needs_gradient = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and needs_gradient:
        # In two dimensions: oneDNN's result of three is a view, which autograd lets nobody change in place (Falcon and
        # PEFT's AdaLoRA do).
        flat: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
        return flat.view(*x.shape[:-1], -1)
    return _by_onednn(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b by oneDNN, without a gradient."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


class _Product(torch.autograd.Function):
    """`product` of x [rows, in], whose gradients are products too: ``product(a, b)`` is a b^T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x_needs_gradient, weight_needs_gradient, _ = ctx.needs_input_grad
        # The gradient of x is computed from the weight, and that of the weight from x.
        kept_x = x if weight_needs_gradient else None
        kept_weight = weight if x_needs_gradient else None
        ctx.save_for_backward(kept_x, kept_weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (gradient,) = gradients  # G, [rows, out]
        x, weight = ctx.saved_tensors
        transposed = gradient.T  # G^T, [out, rows]
        of_x = None
        of_weight = None
        of_bias = None
        if weight is not None:
            of_x = product(gradient, weight.T)  # G (W^T)^T = G W, [rows, in]
        if x is not None:
            of_weight = product(transposed.contiguous(), x.T.contiguous())  # G^T (x^T)^T = G^T x, [out, in]
        if ctx.needs_input_grad[2]:
            of_bias = transposed.sum(1)  # [out]
        return of_x, of_weight, of_bias
