"""Any methods on a Ripples file, with the controls of their graphs, as one table; runs go on where they stopped.

python pipelines/ripples.py --readme README.md                                  # the README's table
python pipelines/ripples.py --rows rome,glame:paper,glame-plus,glame-plus+none  # METHOD[:PRESET][+CONTROL]
python pipelines/ripples.py --rows rome,glame-plus --controls                   # each control where a graph is read
python pipelines/ripples.py --rows glame-net --set glame-net.network=net/ --limit 100
python pipelines/ripples.py --rows rome,memit --schedule batch:8 --seed 1

Two runs record by record: `kg-edit compare out/ripples/rome out/ripples/glame-plus`.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tables import CEILINGS, ROOT, check_methods, failed, own_settings, rows_of, set_option, table

from kg_edit.cli.console import friendly
from kg_edit.cli.evaluation_graph import graph_for
from kg_edit.cli.method_plan import open_graph
from kg_edit.datasets import find_dataset
from kg_edit.datasets.ripples import part_of
from kg_edit.edits.templates import utf8_text
from kg_edit.errors import ConfigError, unknown_name
from kg_edit.evaluate import Summary, evaluate
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text

RIPPLES = "ripples-smollm2-135m"
CONTROLS = {"wrong": "wrong graph", "shuffled": "others' objects", "none": "no graph"}
ROWS = "rome,glame,glame-plus,glame-plus+wrong,glame-plus+none"  # the README's
EDIT_HOLDS = {
    "the edit": "efficacy.greedy",
    "asked as a question": "ripples-edit.question.greedy",
    "paraphrase": "paraphrase.prob",
    "neighborhood": "neighborhood.prob",
}
HOPS_FOLLOW = {
    "two hops, known": "ripples-known.greedy",
    "with steps": "ripples-known.steps",
    "old answer": "ripples-known.greedy_old",
    "unknown, in the graph": "ripples-unknown.stated.greedy",
    "unknown, withheld": "ripples-unknown.withheld.greedy",
}
STAYS = {"other facts of s": "ripples-stay.other-relation.greedy", "facts of o*": "ripples-stay.new-object.greedy"}
START, END = "<!-- results -->", "<!-- /results -->"

log = logging.getLogger("ripples")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A row of the table: a method with a preset, its own settings, and a control that replaces its graph."""

    method: str
    preset: str = "default"
    control: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the row in the table."""
        preset = "" if self.preset == "default" else f":{self.preset}"
        return f"{self.method}{preset}" + (f", {CONTROLS[self.control]}" if self.control else "")

    def folder(self, options: argparse.Namespace) -> Path:
        """Return the folder of the run; another seed or schedule has a separate folder."""
        preset = None if self.preset == "default" else self.preset
        seed = f"seed{options.seed}" if options.seed else None
        schedule = None if options.schedule == "single" else options.schedule.replace(":", "")
        found: Path = options.out / "-".join(filter(None, (self.method, preset, self.control, seed, schedule)))
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing; write OUT/table.md, and with --readme the table of a README."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.readme:
        around(options.readme)  # finds errors before anything is run
    text = results_table(made(options))
    write_text(options.out / "table.md", f"{text}\n")
    if options.readme:
        put(options.readme, text)
    log.info("%s\n%s", text, options.out / "table.md")


def made(options: argparse.Namespace) -> dict[str, Summary]:
    """Run or resume each row, and return {name of the row: summary}; the first run has the ceilings, if it is new."""
    wanted = list(runs(options))
    records = part_of(find_dataset("ripples")(options.data), options.split)
    graph, model = open_graph([options.graph], None), LanguageModel.load(options.model)
    found = {}
    for run in wanted:
        kind = find_method(run.method)
        config = kind.config_class.preset(run.preset, dict(run.settings), method=run.method)
        config.refuse_idle()
        method = kind(model, config, graph=graph_for(graph, records, run.control))
        found[run.name] = evaluate(
            method,
            model,
            records[: options.limit],
            out=run.folder(options),
            pool=records,
            ceilings=has_ceilings(run.folder(options), default=not found),
            schedule=options.schedule,
        )
    return found


def has_ceilings(folder: Path, *, default: bool) -> bool:
    """Return whether the run in ``folder`` scores the ceilings; ``default`` if there is no run yet."""
    run = folder / "run.json"
    return bool(json.loads(run.read_text(encoding="utf-8"))["ceilings"]) if run.is_file() else default


def runs(options: argparse.Namespace) -> Iterator[Run]:
    """Yield the requested rows, and with --controls a row per control of each method that reads a graph.

    Raises:
        UnknownNameError: there is no such method or control, or a --set is for a method without a row.
        ConfigError: a control is for a method that reads no graph.
    """
    rows = [_parsed(row) for row in options.rows.split(",")]
    check_methods(options, {name for name, _, _ in rows})
    for name, preset, control in rows:
        kind = find_method(name)
        settings = own_settings(name, options)
        if control and not kind.needs_graph:
            raise ConfigError(f"{name}+{control}: {name} reads no graph, so a control would change nothing; drop it")
        config = kind.config_class.preset(preset, dict(settings), method=name)
        if options.seed and "seed" in kind.config_class.model_fields and "seed" not in config.idle():
            settings["seed"] = options.seed
        for other in (control, *(CONTROLS if options.controls and kind.needs_graph else ())):
            yield Run(method=name, preset=preset, control=other, settings=settings)


def _parsed(row: str) -> tuple[str, str, str | None]:
    """Split METHOD[:PRESET][+CONTROL]."""
    rest, _, control = row.partition("+")
    if control and control not in CONTROLS:
        raise unknown_name("control", control, CONTROLS)
    name, _, preset = rest.partition(":")
    return name, preset or "default", control or None


def results_table(found: Mapping[str, Summary]) -> str:
    """Return the Markdown of all runs, and a line with the numbers of records and failures and the time per edit."""
    first = next(iter(found.values()))
    having = next((run for run in found.values() if set(CEILINGS.values()) <= set(run.sections)), None)
    ceilings = [(f"*ceiling: {name}*", having, key) for name, key in CEILINGS.items() if having]
    text = table([*rows_of(found, {}), *ceilings], {**EDIT_HOLDS, **HOPS_FOLLOW, **STAYS})
    times = ", ".join(f"{name} {run.seconds_per_edit:.1f} s" for name, run in found.items() if run.seconds_per_edit)
    lost = sum(int(failed(run)) for run in found.values())
    return f"{text}\n\n{first.n} records; {lost} edits failed; {times} an edit."


def put(readme: Path, text: str) -> None:
    """Write the table between the two markers of a file."""
    before, after = around(readme)
    write_text(readme, f"{before}{START}\n{text}\n{END}{after}")


def around(readme: Path) -> tuple[str, str]:
    """Return what is before and after the two markers of a file.

    Raises:
        EditFileError: the file can't be read.
        ConfigError: it does not have both markers.
    """
    before, start, rest = utf8_text(readme).partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ConfigError(f"{readme} has no place for the table; add the lines {START} and {END}")
    return before, after


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=ROWS, help="METHOD[:PRESET][+CONTROL], with commas; %(default)s by default")
    parser.add_argument("--controls", action="store_true", help="also each control of a method that reads a graph")
    set_option(parser)
    parser.add_argument("--limit", type=int, default=30, help="so many records; %(default)s by default")
    parser.add_argument("--schedule", default="single", help="single, batch:N or sequential:N")
    parser.add_argument("--seed", type=int, default=0, help="of methods that draw")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "ripples", help="folder of the runs")
    parser.add_argument("--data", type=Path, default=Path(RIPPLES), help="a Ripples file, or a packaged one's name")
    parser.add_argument("--graph", default=RIPPLES, help="a packaged graph's name, or as of kg-edit evaluate")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--readme", type=Path, help="file whose table, between its two markers, is written anew")
    return parser


if __name__ == "__main__":
    with friendly():
        main()
