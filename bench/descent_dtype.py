"""A descent in bfloat16, a part of `--preset fast`, against the same in float32, and the kernels of attention in it.

Both descents run on the same edits, in turn, three times; the ratio is that of the medians. Values differ: twenty steps
of Adam from rounded gradients end elsewhere, so the cosine between the two updates is printed too. The second ratio is
the fused kernel's forward and backward pass against plain attention, which a bfloat16 descent takes. Ends with one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import fmean, median

import torch
from tools.model_edits import some_edits
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from kg_edit.edits.edit import Edit
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch

ROUNDS = 3


def update(rome: Rome, edits: list[Edit]) -> list[Tensor]:
    """Return the weight updates of all edits, flattened; each edit is made on the unedited model."""
    patches = [patch for patch in rome.edit_each(edits) if isinstance(patch, WeightPatch)]
    return [factors.product.flatten() for patch in patches for factors in patch.factors.values()]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def attention_seconds(kernel: SDPBackend, dtype: torch.dtype) -> float:
    """Return the median seconds of a forward and a backward pass of attention, of the size of one step of a descent.

    The size: forty rows of twelve tokens, which attend to forty tokens, with nine heads.
    """
    query, key, value = (torch.randn(40, 9, size, 64, dtype=dtype, requires_grad=True) for size in (12, 40, 40))
    mask = torch.zeros(40, 1, 12, 40, dtype=dtype)
    ones = torch.ones(40, 9, 12, 64, dtype=dtype)

    def both() -> None:
        with sdpa_kernel(kernel):
            seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            torch.autograd.grad(seen, (query, key, value), ones)

    both()
    return median(timed(both) for _ in range(20))


def main() -> None:
    """Run the benchmark, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", type=int, default=16)
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    edits = some_edits(options.edits)
    settings = {"default": {}, "fast": {"descent_dtype": "bfloat16"}}  # the optimiser is the same in both
    methods = {name: Rome(model, RomeConfig.preset("default", its), progress=False) for name, its in settings.items()}
    flat = {name: update(method, edits) for name, method in methods.items()}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(ROUNDS):
        for name, method in methods.items():
            seconds[name].append(timed(lambda method=method: method.edit_each(edits)) / len(edits))  # type: ignore[misc]
    kernels = {
        str(dtype).removeprefix("torch."): {
            kernel.name: round(1000 * attention_seconds(kernel, dtype), 1)
            for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)
        }
        for dtype in (torch.float32, torch.bfloat16)
    }
    result = {
        "name": "descent_dtype",
        "ratio": round(median(seconds["default"]) / median(seconds["fast"]), 2),
        "seconds_an_edit": {name: round(median(times), 2) for name, times in seconds.items()},
        "cosine": round(fmean(float(cosine_similarity(*pair, dim=0)) for pair in zip(*flat.values(), strict=True)), 3),
        "attention_ms": kernels,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
