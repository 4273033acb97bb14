"""One edit's objective, fast against plain: 21 contexts, 20 steps with gradient, SmolLM2-135M, layer 6.

Both ways do the same 20 evaluations of loss and gradient on the same rows, in turn in one process; both times include
what is set up once an edit (the fast way's prefix cache). Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from statistics import median

import torch
from tools.model_edits import LAYER, plain_model, some_edits

from kg_edit.engine.fast_loss import Engine, find_engine
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_contexts

EDITS = 6
PENALTY = partial(norm_penalty, weight=0.5)  # ROME's


def seconds(model: LanguageModel, asked: Request, steps: int, engine: Engine | None) -> tuple[float, float]:
    """Return the seconds of one optimisation, and its last loss."""
    start = time.perf_counter()
    objective = Objective(model, LAYER, [asked], kl_weight=0.0625, penalty=PENALTY, engine=engine)
    change = torch.zeros_like(objective.value, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=0.5)
    for _ in range(steps):
        losses, change.grad = objective.gradient(change)
        optimizer.step()
    return time.perf_counter() - start, float(losses.total)


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    reference = plain_model(options.model)
    model.model.requires_grad_(False)
    contexts = sample_contexts(model)  # the published contexts
    fast = []
    plain = []
    for edit in some_edits(EDITS):
        request = Request.of(model, edit, contexts)
        slow_time, slow_loss = seconds(reference, request, options.steps, None)
        fast_time, fast_loss = seconds(model, request, options.steps, find_engine(model, LAYER))
        fast.append(fast_time)
        plain.append(slow_time)
        print(f"{edit.subject}: plain {slow_time:.1f} s, fast {fast_time:.1f} s; loss {slow_loss:.4f}, {fast_loss:.4f}")
    ratio = median(slow / quick for slow, quick in zip(plain, fast, strict=True))
    result = {
        "name": "single_edit",
        "ratio": round(ratio, 2),
        "plain_seconds": round(median(plain), 2),
        "fast_seconds": round(median(fast), 2),
        "contexts": len(contexts),
        "steps": options.steps,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
