"""The values of 32 edits in one batch against the plain way one by one: 21 contexts, 20 steps, SmolLM2-135M, layer 6.

Both ways make the same evaluations of loss and gradient with the same updates, set-up included; the plain way (the
whole model over every row, nothing kept) is measured on some of the edits. Also printed: useful GFLOP/s, of the linear
layers above the edit and the head alone, beside the best matrix product of that size; peak memory above the model's.
Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import fmean

import torch
from tools.machine import matmul_peak, useful_flop, watched_memory
from tools.model_edits import LAYER, SETTINGS, plain_model, some_edits, values

from kg_edit.engine.fast_loss import find_engine
from kg_edit.locate_then_edit.objective import Request
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_contexts


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", type=int, default=32)
    parser.add_argument("--plain-edits", type=int, default=4, help="so many of them the plain way too")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    model.model.requires_grad_(False)
    contexts = sample_contexts(model, lengths=SETTINGS.context_lengths)
    requests = [Request.of(model, edit, contexts) for edit in some_edits(options.edits)]
    indices = range(0, options.edits, max(1, options.edits // options.plain_edits))
    plain_seconds = []
    apart = []
    with watched_memory() as memory:
        start = time.perf_counter()
        together = values(model, requests, find_engine(model, LAYER, contexts))
        fast = (time.perf_counter() - start) / options.edits
    reference = plain_model(options.model)
    for index in indices:
        start = time.perf_counter()
        (alone,) = values(reference, [requests[index]], None)
        plain_seconds.append(time.perf_counter() - start)
        apart.append(float((alone.change - together[index].change).norm() / alone.change.norm()))
    flop = SETTINGS.steps * useful_flop(model, LAYER, requests) / options.edits
    peak = matmul_peak()
    print(f"fast {fast:.2f} s an edit, plain {fmean(plain_seconds):.2f} s; values differ by at most {max(apart):.1e}")
    print(f"useful {flop / fast / 1e9:.0f} GFLOP/s of {peak:.0f}; {memory.peak:.0f} MB above the model")
    result = {
        "name": "batch_edit",
        "ratio": round(fmean(plain_seconds) / fast, 2),
        "plain_seconds": round(fmean(plain_seconds), 2),
        "fast_seconds": round(fast, 2),
        "edits": options.edits,
        "plain_edits": len(plain_seconds),
        "useful_gflops": round(flop / fast / 1e9, 1),
        "peak_gflops": round(peak, 1),
        "share_of_peak": round(flop / fast / 1e9 / peak, 3),
        "peak_memory_mb": round(memory.peak),
        "largest_difference": max(apart),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
