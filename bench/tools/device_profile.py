"""Where the time of some work on a device goes: its kernels by group, of torch's profiler; on a CPU its operators."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first pattern that a kernel's name has. Attention is first, as "cutlass" is in the names of some kernels; a
# copy is also an elementwise kernel by name.
_GROUPS = {
    "attention": r"flash|fmha|attention",
    "solves": r"potrf|trsm|getrf|trtri|cholesky|linalg_|triangular_solve",
    "matrix products": r"gemm|gemv|cutlass|xmma|nvjet|splitk|cublas|addmm|bmm|\bmm\b|linear|dot_kernel",
    "copies": r"memcpy|memset|copy|catarray|\bcat\b|clone|fill",
    "optimiser": r"multi_tensor|foreach|fused_?adam",
    "softmax and loss": r"softmax|nll_loss|cross_entropy|logsumexp",
    "norms": r"layer_?norm|rms_?norm|gammabeta",
    "indexing": r"index|gather|scatter|embedding|select",
    "sorting": r"sort|topk|radix|bitonic",
    "reductions": r"reduce|\bsum\b|\bmean\b|norm|\bmax\b|\bmin\b|\ball\b|\bany\b",
    "views": r"view|reshape|transpose|permute|as_strided|slice|expand|squeeze|::t$|detach",
    "elementwise": r"elementwise|\b(mul|add|sub|div|neg|tanh|silu|gelu|pow|sqrt|exp|where|sigmoid|clamp)_?\b",
}
_SHOWN = 5


def group_of(kernel: str) -> str:
    """The group of a kernel or operator by its name."""
    return next((group for group, names in _GROUPS.items() if re.search(names, kernel.lower())), "others")


def profiled(work: Callable[[], float], device: torch.device) -> dict[str, Any]:
    """Run ``work``, which returns its seconds, and return what took the device's time, as a row.

    ``device_ms`` is the sum of all kernels; what is missing to ``seconds``, the device waited. On a CPU these are the
    operators, without those that they call.
    """
    cuda = device.type == "cuda"
    # The operators themselves are not recorded on CUDA: they would slow the launches that are measured.
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        seconds = work()
    micros = Counter[str]()
    counts = Counter[str]()
    for event in profiler.events() or ():
        if event.device_type.name != "CUDA" if cuda else not event.name.startswith("aten::"):
            continue
        group = group_of(event.name)
        micros[group] += event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
        counts[group] += 1
    most = {name: {"ms": round(time / 1e3, 2), "kernels": counts[name]} for name, time in micros.most_common(_SHOWN)}
    total = sum(micros.values())
    shown = [f"{name} {cost['ms']:.1f} ms in {cost['kernels']:,} kernels" for name, cost in most.items()]
    return {
        "seconds": round(seconds, 3),
        "device_ms": round(total / 1e3, 2),
        "kernels": sum(counts.values()),
        "groups": most,
        "note": f"{total / 1e3:.1f} ms of the device in {sum(counts.values()):,} kernels: {'; '.join(shown)}",
    }
