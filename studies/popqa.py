"""Popularity-gated retrieval on PopQA: when should the model read a paragraph, and when answer by itself?

python studies/popqa.py popqa_with_paragraphs.json --out out/popqa/ --picture popularity.svg

The rows need paragraphs and s_pop. A part of them (--train) is for the limits: each question is asked without and with
the paragraph that BM25 finds among those of all rows, and each relation gets the limit of popularity with which most
answers are right (Mallen et al. 2023). The other rows are asked alone, always with a paragraph, and with the gate.
Writes the table `popqa` of results/, by tenth of popularity, and OUT/limits.json; prints the paired differences. Two
runs record by record: `kg-edit compare OUT/always OUT/gated`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tables import RESULTS, ROOT, Number, Results, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError
from kg_edit.evaluation.compared_runs import ComparedRun
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.plots import COLOURS, figure, save_figure
from kg_edit.evaluation.records import BASE, EDITED
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.statistics import paired_difference
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text
from kg_edit.zoo.in_context.popularity import (
    Asked,
    PopularityConfig,
    PopularityRetrieval,
    fitted_limits,
    popularity_in,
    read_popularity,
)

METRIC = "recall.substring"  # PopQA's accuracy
PARTS = 10  # of the rows, by popularity
NO_LIMIT = 1e12  # a popularity that no subject has: every question gets a paragraph

log = logging.getLogger("studies.popqa")


class Answers(NamedTuple):
    """The rows of a run, in its order: the model alone, and the edited model; 1 is a right answer."""

    ids: tuple[str, ...]
    alone: np.ndarray
    told: np.ndarray


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the limits, run what is missing, write OUT/limits.json and the table, and draw the picture."""
    options = _parser().parse_args(arguments)

    # The rows in a drawn order: the first ones are for the limits.
    records = {record.id: record for record in find_dataset("popqa")(options.data)}
    order = np.random.default_rng(options.seed).permutation(list(records)).tolist()[: options.limit]
    cut = round(options.train * len(order))
    if not 0 < cut < len(order):
        raise ConfigError(f"--train {options.train:g} of {len(order)} questions leaves a part empty; both need some")
    model = LanguageModel.load(options.model)
    popularity = popularities(options.data, records)

    # The limit of each relation.
    train = run(options, model, [records[name] for name in order[:cut]], "train")
    relations = {name: record.edits[0].relation_text for name, record in records.items()}
    asked = []
    for id_, alone, told in zip(train.ids, train.alone, train.told, strict=True):
        asked.append(Asked(relations[id_], popularity[id_], bool(alone), bool(told)))
    limits = fitted_limits(asked)
    write_text(options.out / "limits.json", f"{json.dumps(limits, indent=2)}\n")

    # The other rows: alone, always with a paragraph, and with the gate.
    test = [records[name] for name in order[cut:]]
    always = run(options, model, test, "always")
    gated = run(options, model, test, "gated", limits)
    values = np.array([popularity[id_] for id_ in always.ids])
    below = np.array([popularity[id_] <= limits.get(relations[id_], 0) for id_ in always.ids])
    columns = {
        "alone": always.alone,
        "always a paragraph": always.told,
        "gated": gated.told,
        "gated: has a paragraph": below.astype(float),
    }
    results = Results(options.results)
    results.tables["popqa"] = list(shares(values, columns, model_name(options.model)))
    results.save()
    log.info("Limits from %d questions: %s", len(train.ids), limits)
    for other in ("alone", "always a paragraph"):
        gap = paired_difference(columns[other], columns["gated"], seed=0)
        if gap:
            log.info("gated - %s: %+.3f [%s, %s], p %.2g", other, gap.mean, gap.ci95_low, gap.ci95_high, gap.p)
    if options.picture:
        draw(values, columns, options.picture)


def popularities(path: Path, records: Mapping[str, BenchmarkRecord]) -> dict[str, float]:
    """Return {id of a record: the popularity of its subject}."""
    table = read_popularity(path)
    return {name: popularity_in(table, record.edits[0]) or 0.0 for name, record in records.items()}


def run(
    options: argparse.Namespace,
    model: LanguageModel,
    records: Sequence[BenchmarkRecord],
    name: str,
    limits: Mapping[str, float] | None = None,
) -> Answers:
    """Run or continue the rows; without ``limits`` each question has a paragraph before it."""
    settings = {
        "passages": str(options.data),
        "popularity": str(options.data),
        "limits": dict(limits or {}),
        "limit": 0.0,
    }
    if limits is None:
        settings["limit"] = NO_LIMIT
    config = PopularityConfig.preset("default", settings)
    out = options.out / name
    evaluate(PopularityRetrieval(model, config), model, records, out=out)
    compared = ComparedRun.read(out, "popqa")
    ids = tuple(compared.ids())
    alone = [scores[METRIC] for scores in compared.scores(ids, BASE).values()]
    told = [scores[METRIC] for scores in compared.scores(ids, EDITED).values()]
    return Answers(ids=ids, alone=np.array(alone, dtype=float), told=np.array(told, dtype=float))


def shares(values: np.ndarray, columns: Mapping[str, np.ndarray], model: str) -> Iterator[Number]:
    """Yield the share of each column by tenth of popularity, and of all questions."""
    parts = {}
    for part in tenths(values):
        lowest = values[part].min()
        highest = values[part].max()
        parts[f"popularity {lowest:,.0f} to {highest:,.0f}"] = part
    parts[f"all {len(values)}"] = np.arange(len(values))
    for row, part in parts.items():
        for metric, answers in columns.items():
            about = {"table": "popqa", "data": "PopQA", "model": model, "n": str(len(part))}
            yield Number(**about, method=row, settings="", metric=metric, mean=f"{answers[part].mean():.2f}")


def tenths(values: np.ndarray) -> list[np.ndarray]:
    """Return the places of the rows in each tenth of the popularity, the least popular first."""
    return np.array_split(np.argsort(values, kind="stable"), min(PARTS, len(values)))


def draw(values: np.ndarray, columns: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the share of right answers over the median popularity of each tenth."""
    parts = tenths(values)
    picture = figure(6.0, 3.6)
    axes = picture.subplots()
    for (name, answers), colour in zip(list(columns.items())[:3], COLOURS, strict=False):
        shares = [answers[part].mean() for part in parts]
        axes.plot([np.median(values[part]) for part in parts], shares, marker="o", label=name, color=colour)
    axes.set(xscale="log", xlabel="popularity of the subject (median of a tenth)", ylabel="right answers", ylim=(0, 1))
    axes.legend(frameon=False)
    save_figure(picture, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="PopQA's rows as JSON, with paragraphs and s_pop")
    parser.add_argument("--train", type=float, default=0.4, help="share of the rows for the limits; %(default)s")
    parser.add_argument("--limit", type=int, help="so many rows in all; all by default")
    parser.add_argument("--seed", type=int, default=0, help="draws which rows are for the limits")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "popqa", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--picture", type=Path, help="write a picture here: .svg, .png or .pdf")
    parser.add_argument("--model", default="smollm2-135m")
    return parser


if __name__ == "__main__":
    with friendly("studies"):
        main()
