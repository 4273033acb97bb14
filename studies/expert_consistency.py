"""Measure MEMoE's expert consistency: how often a paraphrase, or a neighbour, goes to the expert of its edit.

python studies/expert_consistency.py          # the first 100 records of CounterFactPlus, edited as one batch

An edit's expert is the one with the largest gate at the last token of its prompt. The control is the prompt of the edit
before: its share is what any prompt has by chance. Without anchors the router reads the token alone. Writes the
table memoe-experts of results/.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from study import DEV
from tables import RESULTS, Number, Results, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.record import BenchmarkRecord, as_record
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.memoe.method import Memoe, MemoeConfig

METRICS = {"paraphrase": "paraphrases", "neighborhood": "neighborhood"}  # by the field of an edit

log = logging.getLogger("studies.expert_consistency")


def shares(method: Memoe, records: Sequence[BenchmarkRecord]) -> dict[str, float]:
    """Edit all ``records`` together; return the share of prompts, by their kind, with the expert of their edit."""
    edits = [record.edits[0] for record in records]
    patch = method.edit(edits)
    experts = method.routes(patch, [edit.text for edit in edits])
    measured: dict[str, float] = {"experts in use": len(set(experts))}
    measured["the edit before"] = share_equal(experts[1:], experts[:-1])
    for metric, field in METRICS.items():
        prompts = list[str]()
        experts_of_edits = list[int]()  # of each prompt
        for expert, edit in zip(experts, edits, strict=True):
            prompts += getattr(edit, field)
            experts_of_edits += [expert] * len(getattr(edit, field))
        measured[metric] = share_equal(method.routes(patch, prompts), experts_of_edits)
    return measured


def share_equal(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the share of places at which two sequences of experts are equal."""
    equal = [one == other for one, other in zip(first, second, strict=True)]
    return sum(equal) / len(equal)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table memoe-experts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=DEV, help="CounterFactPlus's file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args(arguments)
    records = [as_record(record) for record in find_dataset("counterfact-plus")(options.data)[: options.limit]]
    model = LanguageModel.load(options.model)
    for experts in (4, 8):
        for anchors in (True, False):
            config = MemoeConfig.preset("default", {"experts": experts, "anchors": anchors})
            settings = f"{experts} experts, without anchors"
            if anchors:
                settings = f"{experts} experts, with anchors"
            if config == MemoeConfig():
                settings += " (default)"
            about = {
                "table": "memoe-experts",
                "data": "CounterFactPlus",
                "n": str(len(records)),
                "method": "memoe",
                "settings": settings,
                "model": model_name(options.model),
            }
            measured = shares(Memoe(model, config), records)
            results = Results(options.results)  # read again: another script may have written there
            results.add(Number(**about, metric=metric, mean=f"{value:.2f}") for metric, value in measured.items())
            results.save()
            log.info("%s: %s", settings, measured)


if __name__ == "__main__":
    with friendly("studies"):
        main()
