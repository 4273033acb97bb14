"""Records of CounterFactPlus with all their scores before and after the edit, as `kg-edit evaluate` makes them.

ROME with its presets "default" and "fast", each from an empty cache of unedited scores, against the plain way: the
published settings, one record at a time, every score by itself. The seconds per record give the time of 500. Ends with
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from tools.model_edits import RECORDS, plain_model, some_edits

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.scorer import score_cases
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel

PRESETS = ("default", "fast")


def some_records(count: int) -> list[Edit | BenchmarkRecord]:
    """The first ``count`` records; where the benchmark is absent, the demonstration's edits over and over."""
    if RECORDS.exists():
        return list(find_dataset("counterfact-plus")(RECORDS)[:count])
    return list(some_edits(count))


def evaluated(model: LanguageModel, preset: str, records: list[Edit | BenchmarkRecord]) -> float:
    """Return the seconds per record; contexts and C are there already."""
    rome = Rome(model, RomeConfig.preset(preset, {}))
    rome.prepare()
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, KG_EDIT_CACHE=folder):  # no scores yet
        start = time.perf_counter()
        evaluate(rome, model, records, out=Path(folder) / "run")
        return (time.perf_counter() - start) / len(records)


def plainly(model: LanguageModel, records: list[Edit | BenchmarkRecord]) -> float:
    """Return the seconds per record of the published settings, one record after the other, nothing kept."""
    rome = Rome(model, RomeConfig.preset("paper", {}))
    rome.prepare()
    start = time.perf_counter()
    for record in records:
        case = Case.of(record)
        score_cases(model, [case])
        with rome.edit([case.edit]).applied(model):
            score_cases(model, [case])
    return (time.perf_counter() - start) / len(records)


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--records", type=int, default=20)
    parser.add_argument("--plain-records", type=int, default=2)
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    records = some_records(options.records)
    plain = plainly(plain_model(options.model), records[: options.plain_records])
    result = {
        "name": "records",
        "plain_seconds": round(plain, 2),
        "records": len(records),
        "threads": torch.get_num_threads(),
    }
    for preset in PRESETS:
        seconds = evaluated(model, preset, records)
        minutes = round(500 * seconds / 60, 1)
        result[preset] = {"ratio": round(plain / seconds, 1), "seconds": round(seconds, 2), "minutes_for_500": minutes}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
