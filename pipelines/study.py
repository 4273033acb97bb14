"""The study (tables of docs/results.md): all methods on single edits, other benchmarks, sequences and batches.

python pipelines/study.py --part single --preset fast --methods rome,memit,glame  # records 25 to 124 of CounterFactPlus
python pipelines/study.py --part single --methods ke --network ke=ke/      # with a network that `kg-edit ke train` made
python pipelines/study.py --methods ike --label 16 --set ike.demonstrations=train.json --set ike.count=16
python pipelines/study.py --part knowedit                                          # knowedit-recent, zsre
python pipelines/study.py --part mquake --limit 50           # mquake-1, mquake-100, mquake-all: 2 to 4 hops apart
python pipelines/study.py --part sequence --limit 300 --every 100 --sample 100 --preset fast
python pipelines/study.py --part retention --limit 50 --every 50 --methods grace,defer,memory,memoe,memoir,ft-m,locft
python pipelines/study.py --tables                           # of all runs that are there

Each run goes on where it stopped. Two runs record by record: `kg-edit compare out/study/single/rome …`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from tables import (
    EDITS,
    FOLLOWS,
    GRAPH,
    ROOT,
    SHARED,
    check_methods,
    config_of,
    failed,
    is_trained,
    memory,
    network_option,
    own_settings,
    perplexity,
    rows_of,
    seconds,
    set_option,
    table,
)

from kg_edit.cli.console import friendly
from kg_edit.cli.evaluation_graph import guarded
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.evaluate import Summary, evaluate
from kg_edit.evaluate.retention import RetentionTest
from kg_edit.methods import find_method, method_names
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text
from wikidata_cache import WikidataCache

log = logging.getLogger("study")

RECORDS = 100  # of a table


@dataclass(frozen=True)
class Part:
    """A part of the study: the records, the schedule of their edits, and the columns of the table."""

    dataset: str
    file: str
    schedule: str
    columns: dict[str, str]
    skip: int = 0  # of the first records, on which settings were chosen
    hops: int | None = None
    ceilings: bool = False
    spread: bool = False  # take records of 2, 3 and 4 hops in turn
    kept: int = 0  # so many later records have the unrelated prompts of the retention rates

    def every(self) -> list[BenchmarkRecord]:
        """Return all records of the part that can be read, in its order."""
        found = find_dataset(self.dataset).read(SHARED / self.file)
        for problem in found.problems:
            log.warning("left out: %s", problem)
        fitting = [record for record in found.records if self.hops in (None, len(record.chain))]
        return (in_turn(fitting) if self.spread else fitting)[self.skip :]

    def retention(self, later: Sequence[BenchmarkRecord]) -> RetentionTest | None:
        """Return the unrelated prompts of ``later`` records, if the part has retention rates."""
        return RetentionTest.of(later[: self.kept]) if self.kept else None

    def schedule_for(self, limit: int) -> str:
        """Return the schedule in the form of `evaluate --schedule`; a batch has at most 100 edits."""
        return self.schedule.format(n=limit, batch=min(limit, 100))


def in_turn(records: Sequence[BenchmarkRecord]) -> list[BenchmarkRecord]:
    """Return records of 2, 3 and 4 hops in turn, each group in the order of the file."""
    groups = [[record for record in records if len(record.chain) == hops] for hops in (2, 3, 4)]
    rows = zip_longest(*groups)
    return [record for row in rows for record in row if record is not None]


GREEDY = {"efficacy": EDITS["efficacy"], "greedy": "efficacy.greedy", **EDITS}
SCORED = {name: metric for name, metric in FOLLOWS.items() if name != "teacher-forced"}
SCORED |= {"editing score": "editing_score"}
HOPS = {"two hops": "multihop.any_of_3", "edits": "multihop.edit_wise", "all hops": "multihop.instance_wise"}
BY_HOPS = {
    "edits": "multihop.edit_wise",
    "hops": "multihop.hop_share",
    "instance": "multihop.instance_wise",
    "hop-wise": "multihop.hop_wise",
    "any of 3": "multihop.any_of_3",
    **{f"{hops} hops": f"multihop.{hops}_hops.any_of_3" for hops in (2, 3, 4)},
    "old answer": "multihop.old.any_of_3",
    "new likelier": "multihop.prob",
    **{f"{hops} hops likelier": f"multihop.{hops}_hops.prob" for hops in (2, 3, 4)},
    "nll new": "multihop.nll",
    "nll old": "multihop.old.nll",
}
MQUAKE = Part(
    dataset="mquake",
    file="mquake/MQuAKE-CF-3k.dev.json",
    schedule="single",
    columns={**GREEDY, **HOPS},
    hops=2,
)
SPREAD = replace(MQUAKE, columns=BY_HOPS, hops=None, spread=True)
PLUS_DEV = ("counterfact-plus", "counterfact_plus/dev.json")
SAID = {"the edit, greedy": "efficacy.greedy", "paraphrase, greedy": "paraphrase.greedy"}
UNCHANGED = {"unrelated answers unchanged": "locality.unchanged"}
RATES = {
    "ERR": "retention.ERR",
    "ERR, perplexity": "retention.ERR.perplexity",
    "TRR": "retention.TRR",
    "TRR, perplexity": "retention.TRR.perplexity",
    "ARR": "retention.ARR",
    "average of TRR and ERR": "retention.average",
}
KNOWEDIT = Part(
    dataset="knowedit",
    file="knowedit/wiki_counterfact_train_cf.json",
    schedule="single",
    columns={**SAID, "portability: greedy": "portability.greedy", "nll": "portability.nll", **UNCHANGED},
)
ZSRE = Part(
    dataset="zsre",
    file="zsre/zsre_mend_eval_portability_gpt4.json",
    schedule="single",
    columns={**SAID, **UNCHANGED},
)
PARTS = {
    "single": Part(*PLUS_DEV, schedule="single", columns={**GREEDY, **SCORED}, ceilings=True, skip=24),
    "knowedit": KNOWEDIT,
    "knowedit-recent": replace(KNOWEDIT, file="knowedit/wiki_recent_train.json"),
    "zsre": ZSRE,
    "retention": replace(ZSRE, schedule="sequential:{n}", columns={**RATES, **SAID, **UNCHANGED}, kept=200),
    "sequence": Part(*PLUS_DEV, schedule="sequential:{n}", columns={**GREEDY, **SCORED}),
    "batches": Part(
        dataset="counterfact",
        file="counterfact/counterfact-edit.json",
        schedule="batch:{batch},sequential:{n}",
        columns={**GREEDY, "locality: unchanged": "locality.unchanged"},
    ),
    "mquake": MQUAKE,
    "mquake-1": SPREAD,
    "mquake-100": replace(SPREAD, schedule="batch:100"),
    "mquake-all": replace(SPREAD, schedule="batch:{n}"),
}


def study(options: argparse.Namespace) -> None:
    """Run what is missing of a part, unless --tables; write OUT/tables.md of all runs that are there."""
    if not options.tables:
        names = options.methods.split(",") if options.methods else [*method_names()]
        check_methods(options, names)
        run_part(
            PARTS[options.part], [name for name in names if is_trained(name, own_settings(name, options))], options
        )
    text = "\n".join(f"## {name}\n\n{study_table(part, options.out / name)}" for name, part in PARTS.items())
    write_text(options.out / "tables.md", text)
    log.info("%s", options.out / "tables.md")


def run_part(part: Part, names: Sequence[str], options: argparse.Namespace) -> None:
    """Evaluate each method with the same preset.

    With a --seed other than 0, evaluate only the methods that have a seed, and use separate folders.
    """
    model, graph = LanguageModel.load("smollm2-135m"), WikidataCache(GRAPH)
    every = part.every()
    records, retention = every[: options.limit], part.retention(every[options.limit :])
    text = (SHARED / "wikitext2" / "test.txt").read_text(encoding="utf-8") if part.schedule != "single" else None
    for name in names:
        found = find_method(name)
        own = own_settings(name, options)
        config = config_of(name, options.preset, own)
        if options.seed:
            if "seed" not in found.config_class.model_fields or "seed" in config.idle():
                log.info("%s draws nothing: no run with another seed", name)
                continue
            config = config_of(name, options.preset, {**own, "seed": options.seed})
        config.refuse_idle()
        method = found(model, config, graph=guarded(graph, config, every))
        evaluate(
            method,
            model,
            records,
            pool=every[: max(options.limit, RECORDS)],  # the same for fewer records, so that a run can grow
            out=options.out / options.part / row_of(name, options),
            schedule=part.schedule_for(len(records)),
            every=options.every,
            sample=options.sample,
            general=text,
            retention=retention,
            ceilings=part.ceilings,
        )
        log.info("%s: done", name)


def row_of(name: str, options: argparse.Namespace) -> str:
    """Return the name of a run's row and folder: the method's, with --label and a --seed other than 0."""
    seed = f"seed{options.seed}" if options.seed else None
    return "-".join(part for part in (name, options.label, seed) if part)


def study_table(part: Part, folder: Path) -> str:
    """Return the Markdown of all finished runs of a part: unedited model, one row per method, and the ceilings."""
    runs = {file.parent.name: Summary.load(file) for file in sorted(folder.glob("*/summary.json"))}
    if not runs:
        return "No run yet.\n"
    first = next(iter(runs.values()))
    if other := {name: run.n for name, run in runs.items() if run.n != first.n}:
        return f"Runs of different numbers of records ({first.n}; {other}) don't belong in one table; run them anew.\n"
    ceilings = {f"*{name.replace('_', ' ')}*": name for name in first.sections if name.startswith("fact")}
    costs = {"perplexity": perplexity, "s an edit": seconds, "GB": memory, "failed": failed}
    made = table(rows_of(runs, ceilings), part.columns, costs)
    return f"{made}\n\n{first.n} records; schedule {first.provenance['schedule']}.\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=RECORDS, help="so many records; %(default)s by default")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "study", help="folder of the runs")
    parser.add_argument("--part", choices=PARTS, default="single")
    parser.add_argument("--methods", help="names with commas; by default all that need no training")
    parser.add_argument("--preset", default="default", help="of every method that has it; else default")
    parser.add_argument("--every", type=int, help="edits between two points of a sequence's curve; about ten in all")
    parser.add_argument("--sample", type=int, help="of a sequence: score so many records at each point; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the methods; another than 0 has rows of its own")
    parser.add_argument("--label", help="of rows with another preset or other settings: METHOD-LABEL")
    network_option(parser)
    set_option(parser)
    parser.add_argument("--tables", action="store_true", help="run nothing; write OUT/tables.md")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the part of the study that the command line asks for."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study(options)


if __name__ == "__main__":
    with friendly():
        main()
