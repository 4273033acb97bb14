"""What the measurements of the engine share: edits, and the descent to their values.

The edits are CounterFactPlus records where these are, else the packaged demonstration.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from kg_edit.datasets import find_dataset
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.locate_then_edit.free_delta import FreeDelta
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.locate_then_edit.optimise import Descent, optimise_values
from kg_edit.locate_then_edit.rows import ForwardFactory
from kg_edit.methods.rank_one.rome import RomeConfig
from kg_edit.models.language_model import LanguageModel

RECORDS = Path(__file__).resolve().parents[3] / "shared" / "data" / "counterfact_plus" / "dev.json"
DEMO = Path(__file__).resolve().parents[2] / "kg_edit" / "data" / "demo.jsonl"
LAYER = 6
SETTINGS = RomeConfig.preset("paper", {"stop_below": 0.0})  # no edit stops early, so that all ways do the same


def some_edits(count: int) -> list[Edit]:
    """The first ``count`` records; where the benchmark is absent, the demonstration's edits over and over."""
    if RECORDS.exists():
        return [record.edits[0] for record in find_dataset("counterfact-plus")(RECORDS)[:count]]
    return list(islice(cycle(read_edits(DEMO).edits), count))


def values(model: LanguageModel, asked: Sequence[Request], forward: ForwardFactory) -> list[Descent]:
    """m* of all edits by ROME's descent, with the forward that is measured."""
    objective = Objective(model, LAYER, asked, kl_weight=SETTINGS.kl_weight, weight_decay=0.5, forward=forward)
    proposals = [FreeDelta(value, SETTINGS) for value in objective.value]
    return optimise_values(objective, proposals, steps=SETTINGS.steps, stop_below=SETTINGS.stop_below)
