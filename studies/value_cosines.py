"""Measure how much an edit's value depends on the graph: the cosine of its change m* - m with that of GLAME.

python studies/value_cosines.py --limit 100              # the dev records of Ripples; about half an hour on one thread

Every row makes the same edits of the same model with the same contexts, and differs in one thing: a wrong graph, no
graph, another draw of the R-GNN's first weights, no messages, or ROME instead of the R-GNN. If the graph's content
acted on the value, the row with a wrong graph would be far from GLAME; if the length of the optimiser's steps is all
that it changes, the row is as near as possible.

A run continues where it stopped (--out has a line for each record). Writes the table value-cosines of results/: means
over records with their bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from study import RIPPLES
from tables import RESULTS, ROOT, Number, Results, format_share, model_name
from torch import Tensor

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import open_graph
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.cli.evaluation_graph import graph_for
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.ripples import part_of
from kg_edit.evaluation.statistics import estimates
from kg_edit.graphs.rgnn import RGNN
from kg_edit.methods.glame.method import Glame, new_rgnn
from kg_edit.methods.rome.method import RankOneMethod, Rome
from kg_edit.models.language_model import LanguageModel

TABLE = "value-cosines"
OTHER_SEED = 1
LEARNED = 10  # statements of o* in the rows of glame with graph_rows
log = logging.getLogger("studies.value_cosines")


class OtherStart(Glame):
    """GLAME whose R-GNN begins with other random weights; contexts and graph are those of seed 0."""

    def start_rgnn(self, value: Tensor) -> RGNN:
        """Return an R-GNN drawn with the other seed."""
        return new_rgnn(len(value), self.config.model_copy(update={"seed": OTHER_SEED})).to(value.device)


def editors(model: LanguageModel, records: Sequence[BenchmarkRecord], graph: str) -> dict[str, RankOneMethod]:
    """Return GLAME, and what it is compared with, by the name of the row; all share the contexts."""
    source = open_graph([graph], None)
    right = graph_for(source, records)
    wrong = graph_for(source, records, "wrong")
    nothing = graph_for(source, records, "none")
    settings = Glame.config_class()
    glame = Glame(model, settings, graph=right)
    contexts = glame.contexts
    messages_off = settings.model_copy(update={"use_graph": False})
    with_rows = settings.model_copy(update={"graph_rows": LEARNED})
    return {
        "glame": glame,
        "glame, wrong graph": Glame(model, settings, graph=wrong, contexts=contexts),
        "glame, another first R-GNN": OtherStart(model, settings, graph=right, contexts=contexts),
        "glame, no graph": Glame(model, settings, graph=nothing, contexts=contexts),
        "glame-mlp": Glame(model, messages_off, graph=right, contexts=contexts),
        "rome": Rome(model, Rome.config_class(), contexts=contexts),
        f"glame, graph_rows={LEARNED}": Glame(model, with_rows, graph=right, contexts=contexts),
        f"glame, graph_rows={LEARNED}, wrong graph": Glame(model, with_rows, graph=wrong, contexts=contexts),
    }


def change_of(method: RankOneMethod, edit: Edit) -> Tensor:
    """Return m* - m of an edit, [d]."""
    (value,) = method.find_values([edit], [method.request(edit)])
    return value.descent.change


def measure(methods: Mapping[str, RankOneMethod], edit: Edit) -> dict[str, float]:
    """Return the cosine of each method's change with GLAME's, by the name of the row."""
    changes = {name: change_of(method, edit) for name, method in methods.items()}
    own = changes.pop("glame")
    return {name: float(torch.cosine_similarity(own, change, dim=0)) for name, change in changes.items()}


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default=RIPPLES, help="a file of Ripples, or a packaged one, whose graph is read too")
    parser.add_argument("--graph", default=RIPPLES)
    parser.add_argument("--limit", type=int, default=100, help="so many records; %(default)s by default")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "value_cosines.jsonl", help="a line for each record")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the records, or those that are left, and write the table value-cosines."""
    options = read_options(arguments)
    all_records = part_of(find_dataset("ripples")(options.data), "dev")
    records = all_records[: options.limit]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, dict[str, float]] = {}
    if options.out.is_file():
        for line in options.out.read_text().splitlines():
            stored = json.loads(line)
            done[stored["id"]] = stored["cosines"]
    model = LanguageModel.load(options.model, dtype="float32")
    methods = editors(model, all_records, options.graph)
    for record in records:
        if record.id not in done:
            done[record.id] = measure(methods, record.edits[0])
            with options.out.open("a") as out:
                out.write(json.dumps({"id": record.id, "cosines": done[record.id]}) + "\n")
            log.info("%s: %s", record.id, {name: round(cosine, 3) for name, cosine in done[record.id].items()})

    rows = [done[record.id] for record in records]
    found = estimates(rows, names=list(rows[0]), seed=0)
    about = {"table": TABLE, "data": "Ripples, dev", "n": str(len(rows)), "model": model_name(options.model)}
    cosines = list[Number]()
    for row, estimate in found.items():
        method, _, settings = row.partition(", ")
        cosines.append(
            Number(
                **about,
                method=method,
                settings=settings,
                metric="cosine with glame",
                mean=format_share(estimate.mean),
                low=format_share(estimate.ci95_low),
                high=format_share(estimate.ci95_high),
            )
        )
    results = Results(options.results)  # read again: another study may have written there meanwhile
    results.add(cosines)
    results.save()


if __name__ == "__main__":
    with friendly("studies"):
        main()
