"""The study of docs/study.md: all methods on single edits, on MQuAKE's two hops, and in a long sequence; resumable.

python pipelines/study.py --part single --limit 100 --methods rome,memit,glame
python pipelines/study.py --part mquake --limit 50
python pipelines/study.py --part sequence --limit 300
python pipelines/study.py --tables        # of all runs that are there

Several processes may work on different methods at once. Two runs record by record: kg-edit compare out/study/single/…
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import ROOT, SHARED, cell

from kg_edit.cli.console import friendly
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.evaluate import Summary, evaluate
from kg_edit.methods import find_method, method_names
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text
from wikidata_cache import WikidataCache

log = logging.getLogger("study")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Records, how their edits meet, and the columns that say what came of it."""

    dataset: str
    file: str
    schedule: str
    columns: dict[str, str]
    hops: int | None = None
    ceilings: bool = False

    def records(self, limit: int) -> tuple[list[BenchmarkRecord], list[BenchmarkRecord]]:
        """The first ``limit`` of them, and all: the pool of answers to choose from."""
        every = list(find_dataset(self.dataset)(SHARED / self.file))
        fitting = [record for record in every if self.hops in (None, len(record.chain))]
        return fitting[:limit], every

    def schedule_for(self, limit: int) -> str:
        """The words of the schedule."""
        return self.schedule.format(n=limit)


EDITS = {
    "efficacy": "efficacy.prob",
    "greedy": "efficacy.greedy",
    "paraphrase": "paraphrase.prob",
    "neighborhood": "neighborhood.prob",
}
FOLLOWS = {
    "portability: greedy": "portability.greedy",
    "nll (less is better)": "portability.nll",
    "choice of ten": "portability.choice",
    "editing score": "editing_score",
}
HOPS = {"two hops": "multihop.any_of_3", "edits": "multihop.edit_wise", "all hops": "multihop.instance_wise"}
COUNTERFACT = {"dataset": "counterfact-plus", "file": "counterfact_plus/dev.json"}
PARTS = {
    "single": Part(**COUNTERFACT, schedule="single", columns={**EDITS, **FOLLOWS}, ceilings=True),
    "sequence": Part(**COUNTERFACT, schedule="sequential:{n}", columns={**EDITS, **FOLLOWS}),
    "batches": Part(
        dataset="counterfact",
        file="counterfact/counterfact-edit.json",
        schedule="batch:100,sequential:{n}",
        columns={**EDITS, "locality: unchanged": "locality.unchanged"},
    ),
    "mquake": Part(
        dataset="mquake", file="mquake/MQuAKE-CF-3k.dev.json", schedule="single", columns={**EDITS, **HOPS}, hops=2
    ),
}


def run(
    part: Part,
    names: list[str],
    limit: int,
    folder: Path,
    *,
    preset: str,
    seed: int,
    settings: dict[str, dict[str, Any]],
    every: int | None = None,
) -> None:
    """Evaluate each method, with the same preset; ``every`` so many edits of a sequence a point of its curve.

    Another seed than 0 is for the methods that draw something, in folders of their own.
    """
    model, graph = LanguageModel.load("smollm2-135m"), WikidataCache(SHARED / "wikidata" / "wikidata.nt.gz")
    records, pool = part.records(limit)
    text = (SHARED / "wikitext2" / "test.txt").read_text(encoding="utf-8") if part.schedule != "single" else None
    for name in names:
        found = find_method(name)
        own = dict(settings.get(name, {}))
        if seed:
            if "seed" not in found.config_class.model_fields:
                log.info("%s draws nothing: no run with another seed", name)
                continue
            own["seed"] = seed
        method = found(model, found.config_class.preset(preset, own), graph=graph)
        evaluate(
            method,
            model,
            records,
            out=folder / (f"{name}-seed{seed}" if seed else name),
            pool=pool,
            schedule=part.schedule_for(len(records)),
            every=every,
            general=text,
            ceilings=part.ceilings,
        )
        log.info("%s: done", name)


def table(part: Part, folder: Path) -> str:
    """The Markdown of all finished runs of a part: unedited, a row a method, and the two ceilings."""
    runs = {file.parent.name: Summary.load(file) for file in sorted(folder.glob("*/summary.json"))}
    if not runs:
        return "No run yet.\n"
    first = next(iter(runs.values()))
    if other := {name: run.n for name, run in runs.items() if run.n != first.n}:
        return f"Runs of different numbers of records ({first.n}; {other}) don't belong in one table; run them anew.\n"
    rows = [("unedited", first, "base"), *((name, found, "edited") for name, found in runs.items())]
    rows += [(f"*{name.replace('_', ' ')}*", first, name) for name in first.sections if name.startswith("fact")]
    header = ["", *part.columns, "perplexity", "s an edit", "failed"]
    lines = [header, ["---"] * len(header)]
    for name, found, section in rows:
        scores = [cell(found, section, metric) for metric in part.columns.values()]
        lines.append([name, *scores, *(_costs(found) if section == "edited" else ("", "", ""))])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\n{first.n} records; schedule {first.provenance['schedule']}.\n"


def _costs(found: Summary) -> tuple[str, str, str]:
    ends = [point.general.get("general.perplexity") for point in found.curve or ()]
    change = f"{ends[0]:.1f} → {ends[-1]:.3g}" if len(ends) > 1 and ends[0] and ends[-1] else ""
    return change, f"{found.seconds_per_edit or 0:.1f}", str(found.provenance["failed"])


def main() -> None:
    """Run what is missing of a part, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="single")
    parser.add_argument("--methods", help="names with commas; all by default")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--preset", default="default", help="of every method")
    parser.add_argument("--every", type=int, help="edits between two points of a sequence's curve; about ten in all")
    parser.add_argument("--seed", type=int, default=0, help="of the methods; another than 0 has rows of its own")
    parser.add_argument("--mend", help="folder of MEND's trained editor")
    parser.add_argument("--tables", action="store_true", help="run nothing; write OUT/tables.md")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "study")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.tables:
        names = options.methods.split(",") if options.methods else [*method_names()]
        names = [name for name in names if name != "mend" or options.mend]
        own = {"mend": {"network": options.mend}}
        folder = options.out / options.part
        run(
            PARTS[options.part],
            names,
            options.limit,
            folder,
            preset=options.preset,
            seed=options.seed,
            settings=own,
            every=options.every,
        )
    text = "\n".join(f"## {name}\n\n{table(part, options.out / name)}" for name, part in PARTS.items())
    write_text(options.out / "tables.md", text)
    log.info("%s", options.out / "tables.md")


if __name__ == "__main__":
    with friendly():
        main()
