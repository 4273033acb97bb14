"""Compare edits that are made on a 4-bit base with edits that are made in bfloat16 and moved onto that base.

python studies/quantised.py --data counterfact_plus/dev.json --limit 50

Each edit is made twice, in the model in bfloat16 and in the same model whose linear layers bitsandbytes stores in 4 bit
(nf4). It is asked in three models:

- bfloat16: made and asked in bfloat16
- moved onto nf4: the same patch beside the 4-bit weights
- made on nf4: made and asked with the 4-bit weights

Rows "…, minus bfloat16" are differences of the same edits, and "unedited" is the model without a patch. The measures
are those of `studies/survival.py`; *seconds* is the time in which the edit was made (the first edit, for which C is
measured, is made again), *megabytes* is the size of all weights.

A run continues where it stopped (--out has a line for each edit). Writes the table quantised of results/.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from survival import MEASURES, ask, keep_neighbours
from tables import RESULTS, ROOT, Number, Results, join_words, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import readable_records
from kg_edit.evaluation.statistics import estimates
from kg_edit.methods import find_method
from kg_edit.methods.base import EditingMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch

SKIPPED = 24  # records on which settings were chosen
EDITED = {"bfloat16": "bfloat16", "moved onto nf4": "nf4", "made on nf4": "nf4"}  # the model that is asked
Answers = dict[str, float | None]  # of one edit in one model

log = logging.getLogger("studies.quantised")


class Study:
    """A model in bfloat16 and in 4 bit, with one editor of each method on both."""

    def __init__(self, name: str, methods: Sequence[str], first: Edit) -> None:
        self.models = {dtype: LanguageModel.load(name, dtype=dtype) for dtype in ("bfloat16", "nf4")}
        self.editors: dict[str, dict[str, EditingMethod]] = {}
        for method in methods:
            self.editors[method] = {dtype: find_method(method).on(model) for dtype, model in self.models.items()}
            for editor in self.editors[method].values():
                editor.edit([first])  # measures C, which no later edit pays for

    def megabytes(self) -> dict[str, float]:
        """Return the size of all weights of each model."""
        return {dtype: model.model.get_memory_footprint() / 1e6 for dtype, model in self.models.items()}

    def measure(self, method: str, edit: Edit) -> dict[str, Answers]:
        """Return the answers of an edit in each model, and of both models without it."""
        patches: dict[str, Patch] = {}
        seconds: dict[str, float] = {}
        for dtype, editor in self.editors[method].items():
            start = time.perf_counter()
            patches[dtype] = editor.edit([edit])
            seconds[dtype] = time.perf_counter() - start
        answers = {
            "bfloat16": self._ask("bfloat16", patches["bfloat16"]) | {"seconds": seconds["bfloat16"]},
            "moved onto nf4": self._ask("nf4", patches["bfloat16"]),
            "made on nf4": self._ask("nf4", patches["nf4"]) | {"seconds": seconds["nf4"]},
        }
        for dtype, model in self.models.items():
            answers[f"unedited {dtype}"] = {"neighbours": keep_neighbours(model, edit)}
        return answers

    def _ask(self, dtype: str, patch: Patch) -> Answers:
        """Return the answers of the one edit of a patch in a model."""
        with patch.applied(self.models[dtype]) as edited:
            (found,) = ask(edited, patch)
        return found


def subtract(answers: Answers, others: Answers) -> Answers:
    """Return the differences of the measures that both have."""
    differences: Answers = {}
    for measure in MEASURES:
        value, other = answers.get(measure), others.get(measure)
        if value is not None and other is not None:
            differences[measure] = value - other
    return differences


def write_results(
    done: dict[str, list[dict[str, Answers]]], megabytes: dict[str, float], model: str, out: Path
) -> None:
    """Write the table from all edits that are recorded, by method and model."""
    results = Results(out)  # read again: another study may have written there meanwhile
    for method, edits in done.items():
        rows = {state: [edit[state] for edit in edits] for state in edits[0]}
        for state in ("moved onto nf4", "made on nf4"):
            pairs = zip(rows[state], rows["bfloat16"], strict=True)
            rows[f"{state}, minus bfloat16"] = [subtract(answers, others) for answers, others in pairs]
        about = {"table": "quantised", "data": "CounterFactPlus", "n": str(len(edits)), "model": model_name(model)}
        for state, answers_of_state in rows.items():
            row = {**about, "method": method, "settings": join_words(model_name(model), state)}
            names = [name for name in (*MEASURES, "seconds") if any(name in answers for answers in answers_of_state)]
            for metric, estimate in estimates(answers_of_state, names=names, seed=0).items():
                ends = (estimate.mean, estimate.ci95_low, estimate.ci95_high)
                mean, low, high = ("" if value is None else f"{value:.2f}" for value in ends)
                results.add([Number(**row, metric=metric, mean=mean, low=low, high=high)])
            if state in EDITED:
                results.add([Number(**row, metric="megabytes", mean=f"{megabytes[EDITED[state]]:.0f}")])
    results.save()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the edits that are left, and write the table quantised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, required=True, help="a file of CounterFactPlus")
    parser.add_argument("--methods", default="rome,memit", help="%(default)s by default")
    parser.add_argument("--limit", type=int, default=50, help="so many edits; %(default)s by default")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "quantised.jsonl", help="a line for each edit")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text().splitlines() if options.out.is_file() else []
    found = {(line["method"], line["id"]): line["answers"] for line in map(json.loads, lines)}
    edits = [record.edits[0] for record in readable_records(options.data)[SKIPPED:]][: options.limit]
    methods = options.methods.split(",")
    study = Study(options.model, methods, edits[0])
    for edit in edits:
        for method in methods:
            if (method, edit.id) in found:
                continue
            found[method, edit.id] = study.measure(method, edit)
            line = {"method": method, "id": edit.id, "answers": found[method, edit.id]}
            with options.out.open("a") as out:
                out.write(json.dumps(line) + "\n")
            log.info("%s, %s: %s", method, edit.id, {state: found[method, edit.id][state] for state in EDITED})
    done: dict[str, list[dict[str, Answers]]] = {}
    for method in methods:
        done[method] = [found[method, edit.id] for edit in edits]
    write_results(done, study.megabytes(), options.model, options.results)


if __name__ == "__main__":
    with friendly("studies"):
        main()
