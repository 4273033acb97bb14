"""MEMoE's expert consistency: how often a paraphrase, or a neighbour, goes to the expert of its edit
(table memoe-experts of results/).

python pipelines/expert_consistency.py          # the first 100 records of CounterFactPlus, edited as one batch

An edit's expert is the one with the largest gate at the last token of its prompt. The control is the prompt of the edit
before: its share is what any prompt has by chance. Without anchors the router reads the token alone.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from study import DEV

from kg_edit.cli.console import friendly
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import BenchmarkRecord, as_record
from kg_edit.methods.memoe.method import Memoe, MemoeConfig
from kg_edit.models.language_model import LanguageModel

log = logging.getLogger("expert_consistency")


def shares(method: Memoe, records: Sequence[BenchmarkRecord]) -> dict[str, float]:
    """The share of prompts, by their kind, with the same expert as their edit; edits all ``records`` together."""
    edits = [record.edits[0] for record in records]
    patch = method.edit(edits)
    own = method.routes(patch, [edit.text for edit in edits])
    found = {"the edit before": sum(a == b for a, b in zip(own[1:], own, strict=False)) / (len(own) - 1)}
    for kind in ("paraphrases", "neighborhood"):
        asked = [(expert, text) for expert, edit in zip(own, edits, strict=True) for text in getattr(edit, kind)]
        routed = method.routes(patch, [text for _, text in asked])
        found[kind] = sum(a == b for (a, _), b in zip(asked, routed, strict=True)) / len(asked)
    return {"experts in use": len(set(own)), **found}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=DEV, help="CounterFactPlus's file")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    records = [as_record(one) for one in find_dataset("counterfact-plus")(options.data)[: options.limit]]
    model = LanguageModel.load(options.model)
    for experts in (4, 8):
        for anchors in (True, False):
            config = MemoeConfig.preset("default", {"experts": experts, "anchors": anchors})
            said = ", ".join(f"{name} {value:.2f}" for name, value in shares(Memoe(model, config), records).items())
            log.info("%d experts, %s anchors: %s", experts, "with" if anchors else "without", said)


if __name__ == "__main__":
    with friendly():
        main()
