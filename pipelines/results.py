"""The reference table of the README: every method on CounterFactPlus, with intervals; goes on where it stopped.

python pipelines/results.py --data dev.json --graph wikidata.nt.gz --limit 100
"""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path

from kg_edit.datasets import find_dataset
from kg_edit.evaluate import Summary, evaluate
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text
from wikidata_cache import WikidataCache

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
METHODS = {"ROME": "rome", "GLAME": "glame"}
COLUMNS = {
    "efficacy": "efficacy.prob",
    "paraphrase": "paraphrase.prob",
    "neighborhood": "neighborhood.prob",
    "portability: greedy": "portability.greedy",
    "teacher-forced": "portability.teacher_forced",
    "nll (less is better)": "portability.nll",
    "choice of ten": "portability.choice",
}
START, END = "<!-- results -->", "<!-- /results -->"


def cell(summary: Summary, section: str, metric: str) -> str:
    """A mean with its 95 % interval; a dash where no record has it."""
    found = summary.sections[section].get(metric)
    if found is None or found.mean is None:
        return "\N{EN DASH}"
    digits = 1 if metric.endswith("nll") else 2
    low, high = (f"{value:.{digits}f}" for value in (found.ci95_low or 0.0, found.ci95_high or 0.0))
    return re.sub(r"\b0\.", ".", f"{found.mean:.{digits}f} [{low}, {high}]")


def table(summaries: dict[str, Summary]) -> str:
    """The Markdown of all runs: the unedited model, each method, and the two ceilings."""
    first = next(iter(summaries.values()))
    rows = [("unedited", first, "base"), *((name, run, "edited") for name, run in summaries.items())]
    rows += [
        ("*ceiling: fact in the prompt*", first, "fact_in_prompt"),
        ("*ceiling: fact and relation in the prompt*", first, "fact_and_relation_in_prompt"),
    ]
    lines = [["", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    lines += [[name, *(cell(run, section, metric) for metric in COLUMNS.values())] for name, run, section in rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    seconds = ", ".join(
        f"{name} {run.seconds_per_edit:.1f} s" for name, run in summaries.items() if run.seconds_per_edit
    )
    failed = sum(int(run.provenance["failed"]) for run in summaries.values())
    return f"{body}\n\n{first.n} records; {failed} edits failed; {seconds} an edit."


def main() -> None:
    """Run what is missing, and write the table into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "counterfact_plus" / "dev.json")
    parser.add_argument("--graph", default=str(SHARED / "wikidata" / "wikidata.nt.gz"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "results")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    records = find_dataset("counterfact-plus")(options.data)
    model, graph = LanguageModel.load(options.model), WikidataCache(options.graph)
    summaries = {}
    for name, key in METHODS.items():
        kind = find_method(key)
        method = kind(model, kind.config_class.preset(), graph=graph)
        summaries[name] = evaluate(
            method, model, records[: options.limit], out=options.out / key, pool=records, ceilings=True
        )
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    write_text(readme, f"{before}{START}\n{table(summaries)}\n{END}{after}")


if __name__ == "__main__":
    main()
