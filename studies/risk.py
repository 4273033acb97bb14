"""Measure whether the predicted reach of an edit (`kg-edit edit --dry-run`) says what the edit changes.

python studies/risk.py --data counterfact.json --limit 60      # about seven minutes on one thread

For each edit, `predict_risks` gives the share of its change that arrives at each prompt that should stay. Then ROME
makes the edit, and the divergence KL(unedited || edited) of the next token after each prompt is measured. Reported are
rank correlations (Spearman):

- of the prompts of one edit, the mean over edits: does the share say which prompt changes most?
- the same with the shares of the next edit, a control: some prompts change by any edit
- of the edits, by their largest share and their largest divergence: does it say which edit changes most?

A run continues where it stopped (--out has a line for each edit). Writes the table risk of results/.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tables import RESULTS, ROOT, Number, Results, model_name
from torch import Tensor

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import readable_records
from kg_edit.evaluation.statistics import estimates
from kg_edit.methods.rome.method import Rome
from kg_edit.models.language_model import LanguageModel
from kg_edit.reports.prompts import AskedPrompt, join_repeats, packaged_prompts, unrelated_prompts
from kg_edit.reports.risk import predict_risks
from kg_edit.scoring.likelihood import next_token_log_p

TABLE = "risk"
DRAWS = 10_000  # bootstrap samples of edits
log = logging.getLogger("studies.risk")


def prompts_beside(edit: Edit) -> tuple[AskedPrompt, ...]:
    """Return the prompts that the edit should not change: its neighbours', of its relation, and unrelated ones."""
    neighbours = [AskedPrompt(prompt=prompt, source="edit") for prompt in edit.neighborhood]
    return join_repeats((*neighbours, *unrelated_prompts([edit]), *packaged_prompts()))


def measure(method: Rome, edit: Edit, other: Edit) -> dict[str, list[float]]:
    """Return for each prompt beside the edit its predicted share, that of another edit, and the divergence in nats."""
    prompts = prompts_beside(edit)
    texts = [prompt.text for prompt in prompts]
    shares = []
    for risk in predict_risks(method, [edit, other], prompts):
        by_text = {reach.text: reach.share for reach in risk.prompts}
        shares.append([by_text[text] for text in texts])
    before = next_token_log_p(method.model, texts)  # [prompts, vocabulary]
    with method.edit([edit]).applied(method.model):
        after = next_token_log_p(method.model, texts)
    divergences = (before.exp() * (before - after)).sum(-1)  # [prompts]
    return {"shares": shares[0], "other_shares": shares[1], "divergences": divergences.tolist()}


def ranks(values: Tensor) -> Tensor:
    """Return the ranks of values; equal ones share their mean rank."""
    _, group, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    mean: Tensor = last - (count - 1) / 2
    return mean[group]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the rank correlation of two lists of numbers; 0 if one of them is constant."""
    pair = torch.stack([ranks(torch.tensor(first)), ranks(torch.tensor(second))])
    correlation = torch.corrcoef(pair)[0, 1]
    return float(correlation.nan_to_num())


def across_edits(rows: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Return the rank correlation of the edits' largest share and largest divergence, with its 95 % interval."""
    shares = torch.tensor([max(row["shares"]) for row in rows])
    divergences = torch.tensor([max(row["divergences"]) for row in rows])
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(DRAWS):
        sample = torch.randint(len(rows), (len(rows),), generator=generator)
        drawn.append(spearman(shares[sample].tolist(), divergences[sample].tolist()))
    low, high = torch.tensor(drawn).quantile(torch.tensor([0.025, 0.975])).tolist()
    return spearman(shares.tolist(), divergences.tolist()), low, high


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the edits, or those that are left, and write the table risk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", type=Path, required=True, help="a file of a benchmark with neighborhood prompts")
    parser.add_argument("--limit", type=int, default=60, help="so many records; %(default)s by default")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "risk.jsonl", help="a line for each edit")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    records = readable_records(options.data)[: options.limit]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.is_file() else []
    done: dict[str, dict[str, Any]] = {line["id"]: line for line in lines}
    method = Rome(LanguageModel.load(options.model, dtype="float32"), Rome.config_class())
    for record, following in zip(records, [*records[1:], records[0]], strict=True):
        if record.id not in done:
            done[record.id] = measure(method, record.edits[0], following.edits[0])
            with options.out.open("a") as out:
                out.write(json.dumps({"id": record.id, **done[record.id]}) + "\n")
            found = done[record.id]
            log.info("%s: %.2f", record.id, spearman(found["shares"], found["divergences"]))

    rows = [done[record.id] for record in records]
    correlations = []
    for row in rows:
        correlations.append(
            {
                "share and divergence, by prompt": spearman(row["shares"], row["divergences"]),
                "shares of another edit": spearman(row["other_shares"], row["divergences"]),
            }
        )
    about = {"table": TABLE, "data": "CounterFact", "n": str(len(rows)), "model": model_name(options.model)}
    numbers = []
    for name, estimate in estimates(correlations, names=list(correlations[0]), seed=0).items():
        numbers.append((name, estimate.mean, estimate.ci95_low, estimate.ci95_high))
    numbers.append(("largest share and divergence, by edit", *across_edits(rows)))
    results = Results(options.results)  # read again: another study may have written there meanwhile
    for name, *ends in numbers:
        mean, low, high = ("" if value is None else f"{value:.2f}" for value in ends)
        results.add([Number(**about, method="rome", settings="", metric=name, mean=mean, low=low, high=high)])
    results.save()


if __name__ == "__main__":
    with friendly("studies"):
        main()
