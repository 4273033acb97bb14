"""Matrix products by oneDNN against PyTorch's own, in the shapes of SmolLM2-135M and Qwen2.5-0.5B.

For each weight W and number of rows of x: x W^T, and the gradient g W; the best of many, in turn. Ends with one JSON
line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kg_edit.models.devices import product

SHAPES = ((1536, 576), (576, 1536), (576, 576), (192, 576), (4864, 896), (896, 4864))  # of W, [out, in]
ROWS = (1, 4, 16, 48, 128, 512, 2048)
SECONDS = 0.2  # for each product


def best(multiply: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    """Return the shortest of many calls, in seconds."""
    shortest = float("inf")
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        multiply(x, weight)
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def main() -> None:
    """Run the benchmark, print the ratios, and end with one JSON line."""
    ratios = []
    with torch.no_grad():
        for out, width in SHAPES:
            weight = torch.randn(out, width)
            for rows in ROWS:
                ways = ((torch.randn(rows, width), weight), (torch.randn(rows, out), weight.T))
                forward, gradient = (best(nn.functional.linear, *way) / best(product, *way) for way in ways)
                ratios += [forward, gradient]
                print(f"[{out}, {width}], {rows} rows: {forward:.2f}, gradient {gradient:.2f}")
    ratios.sort()
    result = {
        "name": "matrix_products",
        "ratio": round(ratios[len(ratios) // 2], 2),
        "least": round(ratios[0], 2),
        "largest": round(ratios[-1], 2),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
