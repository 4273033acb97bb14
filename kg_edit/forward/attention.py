"""What decides which tokens a model's attention sees, and which kernel computes it."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kg_edit.models.language_model import LanguageModel


def mask_decides(model: LanguageModel, longest: int) -> bool:
    """Whether mask and position ids alone say what attends to what, in up to ``longest`` tokens.

    Not so with ALiBi, which counts places in the row, nor with a window that is shorter than the text.
    """
    config = model.model.config
    window = getattr(config, "sliding_window", None) or math.inf
    plain = not getattr(config, "alibi", False) and config._attn_implementation in ("eager", "sdpa")
    return plain and getattr(config, "model_type", "") != "mpt" and longest <= window


def quick_backward(hidden: Tensor) -> AbstractContextManager[None]:
    """Plain attention where the fused kernel's way back takes several times as long: in bfloat16 on a processor."""
    if hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
