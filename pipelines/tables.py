"""Tables of docs/single_edits.md and docs/measurements.md, from runs that go on where they stopped.

python pipelines/tables.py paper --network mend=mend/        # Tables 1 and 2 of the paper: every editor, the ablations
python pipelines/tables.py glame-plus --limit 200            # glame-plus against ROME and against a wrong graph

`tables.py TABLE --help` says more of one. Other tables: `ripples.py`, `study.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kg_edit.cli.console import friendly
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import as_record
from kg_edit.errors import unknown_name
from kg_edit.evaluate import Summary, compare, evaluate
from kg_edit.evaluate.reports import write_comparison
from kg_edit.graphs.wrong_graph import WrongGraph
from kg_edit.methods import EditingMethod, find_method
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
    if metric.startswith("retention."):
        return _rate(summary, section, metric)
    found = summary.sections[section].get(metric)
    if found is None or found.mean is None:
        return "\N{EN DASH}"
    digits = 1 if metric.endswith("nll") else 2
    low, high = (f"{value:.{digits}f}" for value in (found.ci95_low or 0.0, found.ci95_high or 0.0))
    return re.sub(r"\b0\.", ".", f"{found.mean:.{digits}f} [{low}, {high}]")


def _rate(summary: Summary, section: str, metric: str) -> str:
    """Return a rate of retention as text: that of the last point of the curve; of the unedited model, of the first."""
    points = summary.curve or ()
    found = points[0 if section == "base" else -1].retention.get(metric) if points else None
    if found is None:
        return "\N{EN DASH}"
    return f"{found:,.1f}" if metric.endswith("perplexity") else f"{found:.2f}".removeprefix("0")


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


def memory(run: Summary) -> str:
    """Return the largest memory while an edit was computed, as text; empty if it is unknown."""
    return f"{run.peak_memory / 1e9:.1f}" if run.peak_memory else ""


def failed(run: Summary) -> str:
    """Return the number of edits that could not be made, or broke the model, as text."""
    return str(run.provenance["failed"] + run.provenance.get("broken", 0))


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
    check_methods(options, PAPER.values())
    rows = {name: key for name, key in PAPER.items() if is_trained(key, own_settings(key, options))}
    configs = {key: config_of(key, options.preset, own_settings(key, options)) for key in rows.values()}
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
        {"s an edit": seconds, "GB": memory, "failed": failed},
    )
    return f"{made}\n\n{first.n} records of CounterFactPlus on {first.provenance['model']['name']}, single edits.\n"


def is_trained(name: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a method needs no trained network, or ``settings`` name one or say that it does without."""
    if "network" not in find_method(name).config_class.model_fields or settings.keys() & {"network", "untrained"}:
        return True
    log.info("no run of %s, which needs a trained network: --network %s=FOLDER", name, name)
    return False


def own_settings(key: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that --network and --set give to a method."""
    folders = dict(getattr(options, "network", ()))
    network = {"network": folders[key]} if key in folders else {}
    return network | {name: value for method, name, value in getattr(options, "set", ()) if method == key}


def check_methods(options: argparse.Namespace, names: Collection[str]) -> None:
    """Check that each --network and --set is for one of the methods ``names``.

    Raises:
        UnknownNameError: it is for another method.
    """
    given = [("--network", method) for method, _ in getattr(options, "network", ())]
    given += [("--set", method) for method, _, _ in getattr(options, "set", ())]
    for option, method in given:
        if method not in names:
            raise unknown_name(f"method of {option}", method, names)


def config_of(key: str, preset: str, settings: dict[str, Any]) -> MethodConfig:
    """Return a method's settings: the preset, or its default if it has no such preset."""
    known = find_method(key).config_class
    has = preset in (*known.preset_names(), *preset_names(known.published_as or key))
    return known.preset(preset if has else "default", settings, method=key)


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
    network_option(found["paper"])
    found["glame-plus"].add_argument("--preset", default="default", help="of glame-plus: default, or fast (bfloat16)")
    return parser


def network_option(parser: argparse.ArgumentParser) -> None:
    """Add --network to a parser."""
    said = "METHOD=FOLDER, a trained network of mend, ke, serac or glame-net; repeatable"
    parser.add_argument("--network", type=_pair, action="append", default=[], metavar="METHOD=FOLDER", help=said)


def set_option(parser: argparse.ArgumentParser) -> None:
    """Add --set to a parser."""
    said = "a setting of one method, such as ike.count=16; repeatable"
    parser.add_argument("--set", type=_setting, action="append", default=[], metavar="METHOD.KEY=VALUE", help=said)


def _setting(text: str) -> tuple[str, str, Any]:
    """Parse METHOD.KEY=VALUE; a VALUE that is not JSON is taken as text."""
    place, equals, value = text.partition("=")
    method, dot, key = place.partition(".")
    if not (equals and dot):
        raise argparse.ArgumentTypeError(f"{text!r} is not METHOD.KEY=VALUE, as in glame-net.network=net/")
    try:
        return method, key, json.loads(value)
    except json.JSONDecodeError:
        return method, key, value


def _pair(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not METHOD=FOLDER, as in mend=mend/")
    return name, folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the table that the command line asks for."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.run(options)


if __name__ == "__main__":
    with friendly():
        main()
