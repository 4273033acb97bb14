"""glame-plus in a batch of sixteen and one edit at a time, with its presets "default" and "fast", on packaged records.

The edits are the first of Ripples' development part, the graph is the packaged extract. The plain way is one edit at a
time with the preset "default". Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import torch

from kg_edit.cli.method_plan import open_graph
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.cli.evaluation_graph import graph_for
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import packaged_extract

DATA = "ripples-smollm2-135m"
BATCH = 16


def seconds(model: LanguageModel, preset: str, edits: Sequence[Edit], *, batch: int) -> float:
    """Return the seconds per edit with ``batch`` edits together; contexts and C are there already."""
    kind = find_method("glame-plus")
    records = find_dataset("ripples")(DATA)
    graph = graph_for(open_graph([str(packaged_extract())], None), records)
    method = kind(model, kind.config_class.preset(preset, {}), graph=graph)
    method.prepare()
    start = time.perf_counter()
    for index in range(0, len(edits), batch):
        method.edit_each(edits[index : index + batch])
    return (time.perf_counter() - start) / len(edits)


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", type=int, default=16)
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    edits = [record.edits[0] for record in find_dataset("ripples")(DATA)[: options.edits]]
    result = {"name": "glame_plus", "edits": len(edits), "threads": torch.get_num_threads()}
    for preset in ("default", "fast"):
        times = {
            "alone": seconds(model, preset, edits, batch=1),
            "together": seconds(model, preset, edits, batch=BATCH),
        }
        result[preset] = {name: round(value, 2) for name, value in times.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
