"""Tables of docs/results.md and docs/measurements.md, from runs that go on where they stopped. Ripples: `ripples.py`.

python pipelines/tables.py paper --limit 50 --mend mend/     # Tables 1 and 2 of the paper: every editor, the ablations
python pipelines/tables.py glame-plus --limit 200            # glame-plus against ROME and against a wrong graph
python pipelines/tables.py study --part single --limit 100 --methods rome,memit,glame      # docs/results.md
python pipelines/tables.py study --part mquake --limit 50    # mquake-1, mquake-100, mquake-all: 2 to 4 hops apart
python pipelines/tables.py study --part sequence --limit 300
python pipelines/tables.py study --tables                    # of all runs that are there

`tables.py TABLE --help` says more of one. Two runs record by record: `kg-edit compare out/study/single/rome …`.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kg_edit.cli.console import friendly
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import BenchmarkRecord, as_record
from kg_edit.evaluate import Summary, compare, evaluate
from kg_edit.evaluate.reports import write_comparison
from kg_edit.graphs.wrong_graph import WrongGraph
from kg_edit.methods import EditingMethod, find_method, method_names
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.presets import preset_names
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text
from kg_edit.text.display import markdown_table
from wikidata_cache import WikidataCache

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
DEV, GRAPH = SHARED / "counterfact_plus" / "dev.json", SHARED / "wikidata" / "wikidata.nt.gz"

EDITS = {"efficacy": "efficacy.prob", "paraphrase": "paraphrase.prob", "neighborhood": "neighborhood.prob"}
FOLLOWS = {
    "portability: greedy": "portability.greedy",
    "teacher-forced": "portability.teacher_forced",
    "nll (less is better)": "portability.nll",
    "choice of ten": "portability.choice",
}
CEILINGS = {"fact in the prompt": "fact_in_prompt", "fact and relation in the prompt": "fact_and_relation_in_prompt"}

log = logging.getLogger("tables")
Row = tuple[str, Summary, str]  # name of the row, run, and the section of the run to show


# Functions that all tables use.


def cell(summary: Summary, section: str, metric: str) -> str:
    """Return a mean with its 95 % interval as text; a dash if no record has the metric."""
    found = summary.sections[section].get(metric)
    if found is None or found.mean is None:
        return "\N{EN DASH}"
    digits = 1 if metric.endswith("nll") else 2
    low, high = (f"{value:.{digits}f}" for value in (found.ci95_low or 0.0, found.ci95_high or 0.0))
    return re.sub(r"\b0\.", ".", f"{found.mean:.{digits}f} [{low}, {high}]")


def rows_of(runs: Mapping[str, Summary], ceilings: Mapping[str, str]) -> list[Row]:
    """Return the rows: the unedited model, each run, and the ceilings (the unedited model with facts in its prompt)."""
    first = next(iter(runs.values()))
    rows = [("unedited", first, "base"), *((name, run, "edited") for name, run in runs.items())]
    return rows + [(name, first, section) for name, section in ceilings.items()]


def table(
    rows: Sequence[Row], columns: Mapping[str, str], costs: Mapping[str, Callable[[Summary], str]] | None = None
) -> str:
    """Return the Markdown of a table: a column per metric, then a column per entry of ``costs``, for methods only."""
    costs = costs or {}
    body = [
        [
            name,
            *(cell(run, section, metric) for metric in columns.values()),
            *(cost(run) if section == "edited" else "" for cost in costs.values()),
        ]
        for name, run, section in rows
    ]
    return markdown_table(["", *columns, *costs], body)


def seconds(run: Summary) -> str:
    """Return the mean seconds per edit, as text."""
    return f"{run.seconds_per_edit or 0:.1f}"


def failed(run: Summary) -> str:
    """Return the number of edits that could not be made, as text."""
    return str(run.provenance["failed"])


def perplexity(run: Summary) -> str:
    """Return the perplexity before the first edit of a sequence and after the last edit, as text."""
    ends = [point.general.get("general.perplexity") for point in run.curve or ()]
    return f"{ends[0]:.1f} → {ends[-1]:.3g}" if len(ends) > 1 and ends[0] and ends[-1] else ""


# The paper's tables. w/o GKE is ROME; FT is the paper's variant, constrained to an L-infinity ball.

PAPER = {
    "FT": "ft-constrained",
    "MEND": "mend",
    "ROME": "rome",
    "ROME-KG": "rome-kg",
    "MEMIT": "memit",
    "MEMIT-KG": "memit-kg",
    "GLAME": "glame",
    "w/ MLP": "glame-mlp",
    "w/ GNN": "glame-gnn",
    "w/o GKE": "rome",
    "random graph": "glame-random",
}


def paper(options: argparse.Namespace) -> None:
    """Run what is missing, and write OUT/table.md."""
    own: dict[str, dict[str, Any]] = {"mend": {"network": options.mend}}
    rows = {name: key for name, key in PAPER.items() if key != "mend" or options.mend}
    if not options.mend:
        log.info("no row for MEND: give --mend FOLDER, of an editor that `kg-edit mend train` made")
    configs = {key: _config(key, options.preset, own.get(key)) for key in rows.values()}
    records = find_dataset("counterfact-plus")(options.data)
    model, graph = LanguageModel.load(options.model), WikidataCache(options.graph)
    runs = {}
    for key, config in configs.items():
        method = find_method(key)(model, config, graph=graph)
        runs[key] = evaluate(
            method, model, records[: options.limit], out=options.out / key, pool=records, ceilings=True
        )
    text = paper_table({name: runs[key] for name, key in rows.items()})
    write_text(options.out / "table.md", text)
    log.info("%s\n%s", text, options.out / "table.md")


def paper_table(runs: Mapping[str, Summary]) -> str:
    """Return the Markdown of a table with one run per editor."""
    first = next(iter(runs.values()))
    made = table(
        rows_of(runs, {f"*{name}*": key for name, key in CEILINGS.items()}),
        {**EDITS, **FOLLOWS, "editing score": "editing_score"},
        {"s an edit": seconds, "failed": failed},
    )
    return f"{made}\n\n{first.n} records of CounterFactPlus on {first.provenance['model']['name']}, single edits.\n"


def _config(key: str, preset: str, settings: dict[str, Any] | None) -> MethodConfig:
    known = find_method(key).config_class
    has = preset in (*known.presets, *preset_names([key]))
    return known.preset(preset if has else "default", settings)


# glame-plus against ROME, and against itself on a wrong graph.

COMPARED = ("portability.nll", "portability.choice", "efficacy.prob", "paraphrase.prob", "neighborhood.prob")


def glame_plus(options: argparse.Namespace) -> None:
    """Five runs, and three comparisons: all with ROME, and each right graph with its wrong one."""
    # 1. The same records for all; the wrong graph gives o* the statements about the o* of other records.
    records = find_dataset("counterfact-plus")(options.data)
    model, graph = LanguageModel.load(options.model), WikidataCache(options.graph)
    wrong = WrongGraph(graph, tuple(edit for record in records for edit in as_record(record).edits))

    # 2. The methods. Only the last two may learn statements that share a word with a question's answer.
    rome, plus = find_method("rome"), find_method("glame-plus")
    config = plus.config_class.preset(options.preset)
    allowed = plus.config_class.preset(options.preset, {"exclude_answers": False})
    methods: dict[str, EditingMethod] = {
        "rome": rome(model, rome.config_class.preset()),
        "glame-plus": plus(model, config, graph=graph),
        "wrong-graph": plus(model, config, graph=wrong),
        "allowed": plus(model, allowed, graph=graph),
        "allowed-wrong-graph": plus(model, allowed, graph=wrong),
    }

    # 3. Start or resume each run. The run of ROME has the ceilings: the fact, and the relation, in the prompt.
    for name, method in methods.items():
        evaluate(method, model, records[: options.limit], out=options.out / name, pool=records, ceilings=name == "rome")

    # 4. Paired differences with intervals and p-values.
    pairs = {"rome": [*methods], "wrong-graph": ["glame-plus", "wrong-graph"]}
    pairs["allowed-wrong-graph"] = ["allowed", "allowed-wrong-graph"]
    for against, names in pairs.items():
        made = compare([options.out / name for name in names], against=against, metrics=COMPARED)
        log.info("%s", write_comparison(made, options.out / f"against-{against}.md"))


# The study: all methods on single edits, on MQuAKE's two hops, in a long sequence, in batches of a hundred.


@dataclass(frozen=True)
class Part:
    """A part of the study: the records, the schedule of their edits, and the columns of the table."""

    dataset: str
    file: str
    schedule: str
    columns: dict[str, str]
    hops: int | None = None
    ceilings: bool = False
    spread: bool = False  # take records of 2, 3 and 4 hops in turn

    def records(self, limit: int) -> tuple[list[BenchmarkRecord], list[BenchmarkRecord]]:
        """Return the first ``limit`` records, and all records: the pool of answers to choose from."""
        every = list(find_dataset(self.dataset)(SHARED / self.file))
        fitting = [record for record in every if self.hops in (None, len(record.chain))]
        return in_turn(fitting)[:limit] if self.spread else fitting[:limit], every

    def schedule_for(self, limit: int) -> str:
        """Return the schedule in the form of `evaluate --schedule`, with the number of edits."""
        return self.schedule.format(n=limit)


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
PARTS = {
    "single": Part(*PLUS_DEV, schedule="single", columns={**GREEDY, **SCORED}, ceilings=True),
    "sequence": Part(*PLUS_DEV, schedule="sequential:{n}", columns={**GREEDY, **SCORED}),
    "batches": Part(
        dataset="counterfact",
        file="counterfact/counterfact-edit.json",
        schedule="batch:100,sequential:{n}",
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
        run_part(PARTS[options.part], [name for name in names if _is_trained(name, options.mend)], options)
    text = "\n".join(f"## {name}\n\n{study_table(part, options.out / name)}" for name, part in PARTS.items())
    write_text(options.out / "tables.md", text)
    log.info("%s", options.out / "tables.md")


def _is_trained(name: str, mend: str | None) -> bool:
    """Return whether a method needs no trained network, or has one."""
    trained = "network" not in find_method(name).config_class.model_fields or (name == "mend" and mend is not None)
    if not trained:
        log.info("no run of %s, which needs a trained network; MEND's is given by --mend FOLDER", name)
    return trained


def run_part(part: Part, names: Sequence[str], options: argparse.Namespace) -> None:
    """Evaluate each method with the same preset.

    With a --seed other than 0, evaluate only the methods that have a seed, and use separate folders.
    """
    model, graph = LanguageModel.load("smollm2-135m"), WikidataCache(GRAPH)
    records, pool = part.records(options.limit)
    text = (SHARED / "wikitext2" / "test.txt").read_text(encoding="utf-8") if part.schedule != "single" else None
    for name in names:
        found = find_method(name)
        own: dict[str, Any] = {"network": options.mend} if name == "mend" else {}
        if options.seed:
            if "seed" not in found.config_class.model_fields:
                log.info("%s draws nothing: no run with another seed", name)
                continue
            own["seed"] = options.seed
        method = found(model, found.config_class.preset(options.preset, own), graph=graph)
        evaluate(
            method,
            model,
            records,
            out=options.out / options.part / (f"{name}-seed{options.seed}" if options.seed else name),
            pool=pool,
            schedule=part.schedule_for(len(records)),
            every=options.every,
            general=text,
            ceilings=part.ceilings,
        )
        log.info("%s: done", name)


def study_table(part: Part, folder: Path) -> str:
    """Return the Markdown of all finished runs of a part: unedited model, one row per method, and the ceilings."""
    runs = {file.parent.name: Summary.load(file) for file in sorted(folder.glob("*/summary.json"))}
    if not runs:
        return "No run yet.\n"
    first = next(iter(runs.values()))
    if other := {name: run.n for name, run in runs.items() if run.n != first.n}:
        return f"Runs of different numbers of records ({first.n}; {other}) don't belong in one table; run them anew.\n"
    ceilings = {f"*{name.replace('_', ' ')}*": name for name in first.sections if name.startswith("fact")}
    costs = {"perplexity": perplexity, "s an edit": seconds, "failed": failed}
    made = table(rows_of(runs, ceilings), part.columns, costs)
    return f"{made}\n\n{first.n} records; schedule {first.provenance['schedule']}.\n"


# The command line.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="table", required=True, metavar="TABLE")

    def add(name: str, run: Callable[[argparse.Namespace], None], out: str, limit: int) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0], description=run.__doc__)
        made.set_defaults(run=run)
        made.add_argument("--limit", type=int, default=limit, help="so many records; %(default)s by default")
        made.add_argument("--out", type=Path, default=ROOT / "out" / out, help="folder of the runs")
        return made

    found = {
        "paper": add("paper", paper, "paper_table", 50),
        "glame-plus": add("glame-plus", glame_plus, "glame_plus", 200),
    }
    for one in found.values():  # both use CounterFactPlus
        one.add_argument("--data", type=Path, default=DEV, help="CounterFactPlus")
        one.add_argument("--graph", default=str(GRAPH), help="N-Triples, TSV, folder, or SPARQL URL")
        one.add_argument("--model", default="smollm2-135m")
    found["paper"].add_argument("--preset", default="default", help="of every method that has it; else default")
    found["paper"].add_argument("--mend", help="folder of MEND's trained editor; without it there is no row for MEND")
    found["glame-plus"].add_argument("--preset", default="default", help="of glame-plus: default, or fast (bfloat16)")
    _study_options(add("study", study, "study", 100))
    return parser


def _study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=PARTS, default="single")
    parser.add_argument("--methods", help="names with commas; by default all that need no training")
    parser.add_argument("--preset", default="default", help="of every method")
    parser.add_argument("--every", type=int, help="edits between two points of a sequence's curve; about ten in all")
    parser.add_argument("--seed", type=int, default=0, help="of the methods; another than 0 has rows of its own")
    parser.add_argument("--mend", help="folder of MEND's trained editor")
    parser.add_argument("--tables", action="store_true", help="run nothing; write OUT/tables.md")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the table that the command line asks for."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.run(options)


if __name__ == "__main__":
    with friendly():
        main()
