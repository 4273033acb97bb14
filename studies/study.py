"""Run the measurements behind results/*.csv, and write their numbers there; runs continue where they stopped.

python studies/study.py --part ripples --rows rome,glame,glame+wrong,glame-plus:late-block --limit 30
python studies/study.py --part single --rows rome:fast,glame:paper,ft-m          # METHOD[:PRESET][+CHANGE…]
python studies/study.py --part single --rows glame:code+start-token,glame:paper+start-token     # labels that are read
python studies/study.py --part ripples-dev --rows glame-plus+graph-alone,glame-plus+none        # none: recall alone
python studies/study.py --part single --rows ke --set ke.network=ke/             # trained by `kg-edit ke train`
python studies/study.py --part zsre --rows ike --label "16 demonstrations" --set ike.demonstrations=train.json
python studies/study.py --part sequence --limit 300 --every 100 --sample 100 --rows rome:fast
python studies/study.py --part models --limit 50 --rows rome:fast --set rome.covariance={} --model FILE.gguf
python studies/study.py --part mquake-100 --rows alphaedit:fast                  # a hundred records in one model

Without --rows every method is run that needs no trained network. `python studies/tables.py` renders the tables, and
`kg-edit compare out/study/single/rome-fast …` compares two runs record by record.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tables import RESULTS, ROOT, Results, join_words, of_run

from kg_edit.cli.console import friendly
from kg_edit.cli.method_plan import open_graph
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError, unknown_name
from kg_edit.evaluation.cli.evaluation_graph import graph_for, guard_graph
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.entity_inferences import sentences_of, with_specificity
from kg_edit.evaluation.datasets.ripples import part_of
from kg_edit.evaluation.retention import RetentionTest
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.template_probes import PROBES
from kg_edit.methods import find_method, method_names
from kg_edit.methods.config import MethodConfig
from kg_edit.models.language_model import LanguageModel

DATA = Path(os.environ.get("KG_EDIT_MEASUREMENT_DATA", "measurement-data"))  # docs/contributing/data.md
DEV = DATA / "counterfact_plus" / "dev.json"
GRAPH = DATA / "wikidata" / "wikidata.nt.gz"
RIPPLES = "ripples-smollm2-135m"
CONTROLS = {"wrong": "wrong graph", "shuffled": "others' objects", "none": "no graph"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # what the table says, and the settings
    "graph-alone": ("graph alone", {"recalled": 0}),  # of glame-plus: nothing from the model; +none: nothing else
    "start-token": ("start token", {"start_token": True}),  # of glame:code and glame:paper, which read labels without
}
POOL = 100  # records that give the wrong answers of portability.choice: the same for fewer, so that a run can grow

log = logging.getLogger("studies.study")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the study: its table in results/, the records, and the schedule of their edits."""

    table: str
    dataset: str
    data: Path | str  # a file, a pattern of files in the folder of data, or a packaged benchmark
    graph: Path | str = GRAPH
    schedule: str = "single"  # as `evaluate --schedule`; {n} is the number of records, {batch} that of --batch
    skip: int = 0  # of the first records, on which settings were chosen
    hops: int | None = None
    ceilings: bool = False
    spread: bool = False  # take records of 2, 3 and 4 hops in turn
    probes: tuple[str, ...] = ()  # as `evaluate --probes`
    extras: tuple[str, ...] = ()  # as `evaluate --extra`
    timed: bool = False  # as `evaluate --time-answers`
    kept: int = 0  # so many later records have the unrelated prompts of the retention rates
    others: int = 0  # so many sentences about other entities are drawn for each record (specificity)
    split: str = "test"  # of Ripples: its `dev` records are there to choose settings

    def records(self) -> list[BenchmarkRecord]:
        """Return all records of the part that can be read, in its order."""
        if self.dataset == "ripples":
            return list(part_of(find_dataset("ripples")(self.data), self.split))
        records = self._read_files()
        if self.hops is not None:
            records = [record for record in records if len(record.chain) == self.hops]
        if self.others:
            records = _add_specificity(records, self.others)
        if self.spread:
            records = _spread_hops(records)
        return records[self.skip :]

    def _read_files(self) -> list[BenchmarkRecord]:
        """Return the records of all files of the part; if there are several, an id begins with its file's name."""
        files = [Path(self.data)]
        if isinstance(self.data, str):
            files = sorted(DATA.glob(self.data))
        records: list[BenchmarkRecord] = []
        for file in files:
            content = find_dataset(self.dataset).read(file)
            for problem in content.problems:
                log.warning("left out: %s", problem)
            for record in content.records:
                id_ = record.id
                if len(files) > 1:
                    id_ = f"{file.stem}-{record.id}"
                records.append(record.model_copy(update={"id": id_}))
        return records


def _add_specificity(records: Sequence[BenchmarkRecord], count: int) -> list[BenchmarkRecord]:
    """Return the records, each with ``count`` drawn sentences about other entities."""
    draw = random.Random(0)  # noqa: S311 - which sentences are asked
    sentences = []
    for record in records:
        sentences += sentences_of(record)
    extended = list[BenchmarkRecord]()
    for record in records:
        extended += with_specificity([record], draw.sample(sentences, count))
    return extended


def _spread_hops(records: Sequence[BenchmarkRecord]) -> list[BenchmarkRecord]:
    """Return the records of 2, 3 and 4 hops in turn."""
    groups = []
    for hops in (2, 3, 4):
        groups.append([record for record in records if len(record.chain) == hops])
    spread = list[BenchmarkRecord]()
    for row in zip_longest(*groups):
        spread += [record for record in row if record is not None]
    return spread


ZSRE = Part(table="zsre", dataset="zsre", data=DATA / "zsre" / "zsre_mend_eval_portability_gpt4.json")
MQUAKE = Part(table="mquake-hops", dataset="mquake", data=DATA / "mquake" / "MQuAKE-CF-3k.dev.json", spread=True)
PARTS = {
    "single": Part(table="single", dataset="counterfact-plus", data=DEV, ceilings=True, skip=24),
    "models": Part(table="models", dataset="counterfact-plus", data=DEV, skip=24),
    "trained": Part(
        table="malmen-batches",
        dataset="counterfact-plus",
        data=DEV,
        skip=24,
        schedule="batch:{batch},sequential:{n}",
    ),
    "all": Part(table="all", dataset="counterfact-plus", data=DEV, skip=24),
    "probes": Part(
        table="probes",
        dataset="counterfact-plus",
        data=DEV,
        skip=24,
        probes=tuple(PROBES),
        extras=("neighborhood.next_token_kl",),
        timed=True,
    ),
    "ripples": Part(table="ripples", dataset="ripples", data=RIPPLES, graph=RIPPLES, ceilings=True),
    "ripples-dev": Part(table="ripples-dev", dataset="ripples", data=RIPPLES, graph=RIPPLES, split="dev"),
    "sequence": Part(table="sequence-300", dataset="counterfact-plus", data=DEV, schedule="sequential:{n}"),
    "batches": Part(
        table="batches-1000",
        dataset="counterfact",
        data=DATA / "counterfact" / "counterfact-edit.json",
        schedule="batch:{batch},sequential:{n}",
    ),
    "lasting": Part(
        table="lasting",
        dataset="counterfact",
        data=DATA / "counterfact" / "counterfact-edit.json",
        schedule="batch:10,sequential:{n}",
    ),
    "retention": replace(ZSRE, table="retention", schedule="sequential:{n}", kept=200),
    "zsre": ZSRE,
    "entities": Part(
        table="entity-inferences", dataset="entity-inferences", data="ecbd/entity_inferences_*.json", others=20
    ),
    "halluedit": Part(table="halluedit", dataset="halluedit", data="halluedit/llama_2_7b_chat_hf.jsonl"),
    "qaedit": Part(table="qaedit", dataset="qaedit", data="qaedit/qaedit_1k.jsonl"),
    "akew": Part(table="akew", dataset="akew", data="akew/mquake_cf.jsonl"),
    "knowedit": Part(table="knowedit", dataset="knowedit", data=DATA / "knowedit" / "wiki_counterfact_train_cf.json"),
    "mquake": replace(MQUAKE, table="mquake-2", hops=2, spread=False),
    "mquake-1": MQUAKE,
    "mquake-100": replace(MQUAKE, schedule="batch:{batch}"),
}

_REMEMBERING = ("alphaedit", "comeba")  # whose papers keep the keys of earlier edits


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: a method with a preset, its own settings, and a control that replaces its graph."""

    method: str
    preset: str = "default"
    control: str | None = None
    label: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> MethodConfig:
        """Return the method's settings."""
        kind = find_method(self.method).config_class
        # As in most recorded numbers, so that a new row can be compared with them: C from the model's own text, and
        # earlier edits remembered only by the methods whose papers do so.
        recorded: dict[str, Any] = {}
        if "covariance" in kind.model_fields:
            recorded["covariance"] = {"corpus": "self"}
        if "remember" in kind.model_fields:
            recorded["remember"] = 0.0
            if self.method in _REMEMBERING:
                recorded["remember"] = 1.0
        config = kind.preset(self.preset, {**recorded, **self.settings}, method=self.method)
        config.refuse_idle()
        return config

    def description(self) -> str:
        """Return what the table shows after the method's name: the preset, the label, the control and the seed."""
        parts = []
        if self.preset != "default":
            parts.append(self.preset)
        if self.label:
            parts.append(self.label)
        if self.control is not None:
            parts.append(CONTROLS[self.control])
        if "seed" in self.settings:
            parts.append(f"seed {self.settings['seed']}")
        return ", ".join(parts)

    def folder(self) -> str:
        """Return the name of the run's folder."""
        return re.sub(r"[^\w.]+", "-", f"{self.method} {self.description()}").strip("-")


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the requested rows, and with --controls a row per control of each method that reads a graph."""
    texts = list(method_names())
    if options.rows:
        texts = options.rows.split(",")
    requested = [parse_row(text) for text in texts]
    names = [name for name, _, _ in requested]
    for method, _, _ in options.set:
        if method not in names:
            raise unknown_name("method of --set", method, names)
    for name, preset, changes in requested:
        kind = find_method(name)
        row = apply_changes(name, preset, changes, label=options.label)
        settings = {**row.settings, **{key: value for method, key, value in options.set if method == name}}
        if needs_network(name, settings) and not options.rows:
            log.info("no run of %s, which needs a trained network: --rows %s --set %s.network=FOLDER", *[name] * 3)
            continue
        config = kind.config_class.preset(preset, dict(settings), method=name)
        if options.seed and "seed" in kind.config_class.model_fields and "seed" not in config.idle():
            settings["seed"] = options.seed
        row = replace(row, settings=settings)
        yield row
        if options.controls and kind.needs_graph:
            for control in CONTROLS:
                yield replace(row, control=control)


def apply_changes(name: str, preset: str, changes: Sequence[str], *, label: str) -> Row:
    """Return the row of a method with its changes: variants, which have settings and words, and at most one control."""
    control = None
    labels = [label] if label else []
    settings: dict[str, Any] = {}
    for change in changes:
        if change in VARIANTS:
            variant_label, variant_settings = VARIANTS[change]
            labels.append(variant_label)
            settings |= variant_settings
        elif change not in CONTROLS:
            raise unknown_name("control", change, {**CONTROLS, **VARIANTS})
        elif not find_method(name).needs_graph:
            raise ConfigError(f"{name}+{change}: {name} reads no graph, so a control would change nothing; drop it")
        else:
            control = change
    return Row(method=name, preset=preset, control=control, label=", ".join(labels), settings=settings)


def parse_row(text: str) -> tuple[str, str, list[str]]:
    """Return the method, the preset and the changes (variants and a control) of METHOD[:PRESET][+CHANGE…]."""
    named, *changes = text.split("+")
    method, _, preset = named.partition(":")
    return method, preset or "default", changes


def needs_network(name: str, settings: Mapping[str, Any]) -> bool:
    """Return whether a method needs a trained network that ``settings`` neither name nor do without."""
    return "network" in find_method(name).config_class.model_fields and not settings.keys() & {"network", "untrained"}


def run_part(part: Part, options: argparse.Namespace) -> None:
    """Run or continue each row of a part, and write its numbers to results/."""
    requested = list(rows(options))
    all_records = part.records()
    records = all_records[: options.limit]
    model = LanguageModel.load(options.model, dtype=options.dtype)
    graph = open_graph([str(part.graph)], None)
    config = evaluation_config(part, all_records, options)
    for row in requested:
        method_config = row.config()
        row_graph = guard_graph(graph_for(graph, all_records, row.control), method_config, all_records)
        summary = evaluate(
            find_method(row.method)(model, method_config, graph=row_graph),
            model,
            records,
            out=options.out / options.part / row.folder(),
            pool=all_records[: max(options.limit, POOL)],
            config=config,
        )
        edits = ""
        if config.schedule != "single":
            edits = f"{len(records)} edits"
        words = join_words(row.description(), edits)
        results = Results(options.results)  # read again: another study may have written there meanwhile
        results.add(of_run(results, part.table, summary, row.method, words))
        results.save()
        log.info("%s: done", row.folder())


def evaluation_config(part: Part, records: Sequence[BenchmarkRecord], options: argparse.Namespace) -> EvalConfig:
    """Return how a part is evaluated; ``records`` are all of the part, of which the first ``--limit`` are edited."""
    count = min(len(records), options.limit)
    schedule = part.schedule.format(n=count, batch=min(count, options.batch))
    text = None
    if schedule != "single":
        text = (DATA / "wikitext2" / "test.txt").read_text(encoding="utf-8")
    retention = None
    if part.kept:
        retention = RetentionTest.of(records[options.limit :][: part.kept])
    return EvalConfig(
        schedule=schedule,
        evaluate_every=options.every,
        sample=options.sample,
        general=text,
        retention=retention,
        ceilings=part.ceilings,
        probes=part.probes,
        extras=part.extras,
        time_answers=part.timed,
    )


def set_option(parser: argparse.ArgumentParser) -> None:
    """Add --set to a parser."""
    text = "a setting of one method, such as ike.count=16 or mend.network=mend/; repeatable"
    parser.add_argument("--set", type=_setting, action="append", default=[], metavar="METHOD.KEY=VALUE", help=text)


def _setting(text: str) -> tuple[str, str, Any]:
    """Parse METHOD.KEY=VALUE; a VALUE that is not JSON is taken as text."""
    name, equals, value = text.partition("=")
    method, dot, key = name.partition(".")
    if not (equals and dot):
        raise argparse.ArgumentTypeError(f"{text!r} is not METHOD.KEY=VALUE, as in mend.network=net/")
    try:
        return method, key, json.loads(value)
    except json.JSONDecodeError:
        return method, key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="single")
    parser.add_argument("--rows", help="METHOD[:PRESET][+CHANGE…], with commas; by default all that need no training")
    parser.add_argument("--controls", action="store_true", help="also each control of a method that reads a graph")
    parser.add_argument("--limit", type=int, default=100, help="so many records; %(default)s by default")
    parser.add_argument("--batch", type=int, default=100, help="edits of a batch; %(default)s by default")
    parser.add_argument("--every", type=int, help="edits between two points of a sequence's curve; about ten in all")
    parser.add_argument("--sample", type=int, help="of a sequence: score so many records at each point; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the methods that draw; another than 0 has its own rows")
    parser.add_argument("--label", default="", help="of rows with other settings, shown after the method's name")
    set_option(parser)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", help="of the model's weights; %(default)s by default")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "study", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the part of the study that the command line asks for."""
    options = _parser().parse_args(arguments)
    run_part(PARTS[options.part], options)


if __name__ == "__main__":
    with friendly("studies"):
        main()
