"""Measure what the text behind C changes: ROME with C from several corpora, on the same records (table `corpora`).

python studies/corpora.py                                            # SmolLM2-135M, a hundred records
python studies/corpora.py --model gemma.gguf --name "Gemma 3 270M" --limit 30 --corpora packaged,wiki.txt

The values m* do not depend on C, so each is found once, and written once per corpus. Differences are paired: C from
the first corpus minus C from another one, with the 95 % interval over the records. `angle` is that between the
directions C^-1 k* of both, in degrees. Each record's scores are stored in --out, and a killed run continues.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study import DEV
from tables import ROOT, Number, Results, render

from kg_edit.cli.console import friendly
from kg_edit.covariance.store import CovarianceConfig
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.scorer import score_cases
from kg_edit.evaluation.settings import DataSource
from kg_edit.evaluation.statistics import paired_difference
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import append_lines, drop_cut_line
from kg_edit.storage.run_folder import claim

SHOWN = {
    "efficacy": "efficacy.prob",
    "efficacy, greedy": "efficacy.greedy",
    "nll": "nll",  # of o* after the edit's prompt
    "paraphrase": "paraphrase.prob",
    "neighborhood": "neighborhood.prob",
    "portability, nll": "portability.nll",
}
BATCH = 10  # records whose values are found in one descent, and whose scores are stored together
Row = dict[str, Any]
log = logging.getLogger("studies.corpora")


def rows_of(model: LanguageModel, corpora: Sequence[str], edits: Sequence[Edit]) -> Iterator[Row]:
    """Yield a row for each edit: its id, and for each corpus the scores and the angle to the first corpus."""
    configs = {name: RomeConfig(covariance=CovarianceConfig(corpus=name)) for name in corpora}
    methods = {name: Rome(model, config) for name, config in configs.items()}
    first = methods[corpora[0]]
    for start in range(0, len(edits), BATCH):
        batch = edits[start : start + BATCH]
        values = first.find_values(batch, [first.request(edit) for edit in batch])
        keys = torch.stack([value.mean_key for value in values], 1)  # k* [d_ff, edits]
        rows: list[Row] = [{"id": edit.id} for edit in batch]
        for name, rome in methods.items():
            patches = [rome.write(edit, value) for edit, value in zip(batch, values, strict=True)]
            sections = score_cases(model, [Case.of(edit) for edit in batch], patches=patches)
            # The angle between the directions C^-1 k* of both corpora, [edits]
            cosines = torch.cosine_similarity(rome.covariance.solve(keys), first.covariance.solve(keys), dim=0)
            angles = torch.rad2deg(cosines.clamp(max=1).acos())
            for index, edit in enumerate(batch):
                section = sections[index]
                nll = section.nll[edit.text][edit.target_new]
                rows[index][name] = {**section.scores, "nll": nll, "angle": float(angles[index])}
        yield from rows


def numbers(rows: Sequence[Row], corpora: Sequence[str], about: dict[str, str]) -> Iterator[Number]:
    """Yield the table's numbers: the means of each corpus, and the paired differences from the first one."""
    values = {}  # NaN where a record lacks the metric
    for name in corpora:
        for metric, key in SHOWN.items():
            values[name, metric] = np.array([row[name][key] for row in rows], dtype=np.float64)
    first, *others = corpora
    labels = {name: name for name in corpora}
    for name in corpora:
        if "/" in name:  # a file
            labels[name] = Path(name).stem
    for name in corpora:
        for metric in SHOWN:
            mean = np.nanmean(values[name, metric])
            yield Number(**about, settings=labels[name], metric=metric, mean=f"{mean:.3f}")
    for other in others:
        named = about | {"settings": f"{labels[first]} - {labels[other]}"}
        for metric in SHOWN:
            pair = np.stack([values[other, metric], values[first, metric]])  # [2, records]
            both_known = ~np.isnan(pair).any(0)
            gap = paired_difference(*pair[:, both_known], seed=0)
            if gap:
                ends = {}
                if gap.ci95_low is not None and gap.ci95_high is not None:
                    ends = {"low": f"{gap.ci95_low:+.3f}", "high": f"{gap.ci95_high:+.3f}"}
                yield Number(**named, metric=metric, mean=f"{gap.mean:+.3f}", **ends)
        degrees = float(np.median([row[other]["angle"] for row in rows]))
        yield Number(**named, metric="angle", mean=f"{degrees:.1f}", note="°")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=DEV, help="CounterFactPlus")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--name", default="SmolLM2-135M", help="the model's name in the table")
    parser.add_argument("--corpora", default="packaged,self", help="names with commas, as `--corpus`; the first is new")
    parser.add_argument(
        "--skip", type=int, default=24, metavar="N", help="first records, on which settings were chosen"
    )
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="records after these")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "corpora", metavar="FOLDER")
    parser.add_argument("--commit", default="", help="of the table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score the records that are not scored yet, and write the numbers into results/."""
    options = read_options(arguments)
    corpora = options.corpora.split(",")
    records = find_dataset("counterfact-plus")(options.data)[options.skip :][: options.limit]
    edits = [record.edits[0] for record in records]
    folder = options.out / options.name
    model = LanguageModel.load(options.model)
    source = DataSource.of("counterfact-plus", options.data).model_dump(mode="json")
    settings = {"job": "corpora", "model": {"name": model.name, "fingerprint": model.fingerprint}, "data": source}
    claim(folder, {**settings, "corpora": corpora})
    file = folder / "records.jsonl"
    drop_cut_line(file)  # of a killed run
    scored: dict[str, Row] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            row = json.loads(line)
            scored[row["id"]] = row
    for row in rows_of(model, corpora, [edit for edit in edits if edit.id not in scored]):
        append_lines(file, [json.dumps(row)])
        scored[row["id"]] = row
        log.info("%d records are scored", len(scored))
    rows = [scored[edit.id] for edit in edits]
    about = {
        "table": "corpora",
        "data": "CounterFactPlus",
        "n": str(len(rows)),
        "method": options.name,
        "model": options.name,
        "commit": options.commit,
    }
    results = Results()
    results.add(numbers(rows, corpora, about))
    results.save()
    render(results)


if __name__ == "__main__":
    with friendly("studies"):
        main()
