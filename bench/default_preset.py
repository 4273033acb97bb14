"""ROME's presets "default" and "fast" in a batch against the plain way with the published contexts and steps.

The plain way is measured on a few edits: 21 contexts, 20 evaluations of the whole model over every row, one edit at a
time; the presets on all records, set-up included. With --scores all are also scored (the edits with published settings
are then made by the fast way, which gives the same values). Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from statistics import fmean

import torch
from tools.model_edits import plain_model, some_edits

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.scorer import score_cases
from kg_edit.locate_then_edit.descent import descend
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch

METRICS = ("efficacy.prob", "paraphrase.prob", "neighborhood.prob")
BATCH = 32
PRESETS = ("default", "fast")


def published() -> RomeConfig:
    """Return the published contexts, steps and end, but our clamp, which decides the effect on neighbours."""
    default = RomeConfig()
    return RomeConfig.preset("paper", {"clamp_norm_factor": default.clamp_norm_factor})


def plain_seconds(model: LanguageModel, rome: Rome, edit: Edit) -> float:
    """Return the seconds for the value of one edit, with the whole model over every row."""
    start = time.perf_counter()
    config = rome.config
    request = Request.of(model, edit, rome.contexts)
    objective = Objective(model, rome.layer, [request], kl_weight=config.kl_weight, penalty=rome.penalty)
    delta, _ = rome.propose([edit], objective.value)
    descend(objective, delta, replace(config.stops, further_steps=0))
    return time.perf_counter() - start


def patches_of(rome: Rome, edits: list[Edit]) -> tuple[list[Patch], float]:
    """Make all edits in batches; return the patches and the seconds per edit."""
    rome.prepare()
    start = time.perf_counter()
    patches = [patch for index in range(0, len(edits), BATCH) for patch in rome.edit_each(edits[index : index + BATCH])]
    seconds = (time.perf_counter() - start) / len(edits)
    return [patch for patch in patches if isinstance(patch, Patch)], seconds


def scores(model: LanguageModel, edits: list[Edit], patches: list[Patch]) -> dict[str, float]:
    """Return the mean of each metric over the records."""
    sections = score_cases(model, [Case.of(edit) for edit in edits], patches=patches)
    by_metric = {name: [section.scores[name] for section in sections] for name in METRICS}
    return {name: round(fmean(value for value in values if value is not None), 4) for name, values in by_metric.items()}


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--plain-edits", type=int, default=4)
    parser.add_argument("--scores", action="store_true", help="also score all; takes half an hour for 100 records")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    model.model.requires_grad_(False)
    edits = some_edits(options.records)
    reference = plain_model(options.model)
    slow = Rome(reference, published())
    step = max(1, len(edits) // options.plain_edits)
    plain = fmean(plain_seconds(reference, slow, edit) for edit in edits[::step][: options.plain_edits])
    result = {
        "name": "default_preset",
        "plain_seconds": round(plain, 2),
        "records": len(edits),
        "threads": torch.get_num_threads(),
    }
    for preset in PRESETS:
        patches, seconds = patches_of(Rome(model, RomeConfig.preset(preset, {})), edits)
        result[preset] = {"ratio": round(plain / seconds, 1), "seconds": round(seconds, 3)}
        if options.scores:
            result[preset] |= scores(model, edits, patches)
    if options.scores:
        result["published"] = scores(reference, edits, patches_of(slow, edits)[0])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
