"""What `kg-edit evaluate` does with its options, here or in another process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kg_edit.cli.console import load, plain, plan, stdout
from kg_edit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kg_edit.cli.console import Plan
    from kg_edit.datasets import Reading
    from kg_edit.datasets.record import BenchmarkRecord
    from kg_edit.edits.edit import Edit
    from kg_edit.evaluate import Shard, Summary
    from kg_edit.methods import EditingMethod
    from kg_edit.models.language_model import LanguageModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The options of `kg-edit evaluate`."""

    data: Path
    dataset: str
    method: str
    model: str
    graph: list[str] | None = None
    limit: int | None = None
    schedule: str = "single"
    every: int | None = None
    general: Path | None = None
    ceilings: bool = False
    extras: list[str] | None = None
    references: Path | None = None
    keep_going: bool = False
    layer: str | int | None = None
    preset: str = "default"
    settings: list[str] | None = None
    corpus: str | None = None
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    contact: str | None = None
    memory: float | None = None

    def run(self, out: Path, *, shard: str | None = None) -> Summary:
        """Check the options, load the model, and score.

        Raises:
            KgEditError, WikidataCacheError: something can't work; see `kg_edit.evaluate.evaluate`.
        """
        part = _shard(shard)
        return self.ready(out).run(out, part)

    def read(self) -> Reading:
        """The data set's records, all of them, and what is wrong with the rows that are none.

        Raises:
            ConfigError: an extra metric lacks the texts that it compares with.
            KgEditError: there is no such data set, it can't be read, or a row of it can't and that ends all.
        """
        from kg_edit.datasets import Reading, find_dataset
        from kg_edit.datasets.references import read_references, with_references

        if "consistency.tfidf" in (self.extras or ()) and not self.references:
            raise ConfigError("consistency.tfidf compares with texts: give --references attribute_snippets.json")
        dataset = find_dataset(self.dataset)
        reading = dataset.read(self.data) if self.keep_going else Reading(dataset(self.data))
        if not self.references:
            return reading
        return Reading(with_references(reading.records, read_references(self.references)), reading.problems)

    def ready(self, out: Path) -> Ready:
        """All that is there before the first record is scored; ``out`` is looked at, not written.

        Raises:
            KgEditError, WikidataCacheError: something can't work.
        """
        from kg_edit.evaluate.run import check_schedule

        check_schedule(self.schedule, self.every)
        planned = plan(
            self.method,
            preset=self.preset,
            layer=self.layer,
            settings=self.settings,
            corpus=self.corpus,
            graph=self.graph,
            contact=self.contact,
            memory=self.memory,
        )
        reading = self.read()
        from kg_edit.evaluate.general import read_text
        from kg_edit.evaluate.metrics.catalogue import find_extras

        find_extras(self.extras or ())
        text = read_text(self.general) if self.general else None
        planned.check((), out)  # an edit that the graph does not know is a failure that the scores count
        model = load(self.model, self.dtype, self.device)
        settled = planned.settled(model, sweep_edits(reading.records, self.limit)) if planned.auto else planned
        return Ready(options=self, plan=settled, method=settled.on(model), model=model, reading=reading, text=text)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An evaluation with its model in memory."""

    options: Evaluation
    plan: Plan
    method: EditingMethod
    model: LanguageModel
    reading: Reading
    text: str | None

    @property
    def skipped(self) -> tuple[str, ...]:
        """The ids of the rows that could not be read, each once."""
        return tuple(dict.fromkeys(problem.id for problem in self.reading.problems))

    def run(self, out: Path, shard: Shard, *, progress: bool = True) -> Summary:
        """Score a shard of the records, or all.

        Raises:
            KgEditError: see `kg_edit.evaluate.evaluate`.
        """
        from kg_edit.evaluate.run import evaluate
        from kg_edit.evaluate.settings import DataSource

        options = self.options
        summary = evaluate(
            self.method,
            self.model,
            self.reading.records[: options.limit],
            pool=self.reading.records,
            out=out,
            schedule=options.schedule,
            every=options.every,
            general=self.text,
            shard=shard,
            data=DataSource.of(options.dataset, options.data, skipped=self.skipped),
            ceilings=options.ceilings,
            extras=options.extras or (),
            seed=options.seed,
            progress=progress,
        )
        self.plan.note_layer(out)
        return summary


def _shard(text: str | None) -> Shard:
    from kg_edit.evaluate.shard import WHOLE, Shard

    return WHOLE if text is None else Shard.parse(text)


def sweep_edits(records: Sequence[Edit | BenchmarkRecord], limit: int | None) -> tuple[Edit, ...]:
    """On which edits a layer is chosen: those of records that are not scored; where all are scored, on those."""
    from kg_edit.datasets.record import as_record

    others = records[limit:] if limit is not None else ()
    if not others:
        log.warning("--layer auto chooses on records that are scored as well; --limit N keeps the rest for choosing")
    return tuple(edit for record in others or records for edit in as_record(record).edits)


def refuse_to_resume(out: Path) -> None:
    """Check that the folder holds no run yet.

    Raises:
        ConfigError: it does.
    """
    if (out / "run.json").exists():
        raise ConfigError(f"{out} holds a run already; give another --out, or go on with it: --resume")


def run_on_ray(evaluation: Evaluation, out: Path, *, shard: str | None) -> Summary:
    """The whole run on a Ray cluster.

    Raises:
        ConfigError: a shard is asked for too; Ray deals out its own. Or Ray is not installed.
    """
    if shard is not None:
        raise ConfigError("--ray deals out shards itself; leave --shard out")
    from kg_edit.jobs.ray_run import evaluate_on_ray

    return evaluate_on_ray(evaluation, out)


def show(summary: Summary, out: Path) -> None:
    """The run's table, and where its files are."""
    from kg_edit.evaluate.reports import rich_table

    stdout().print(rich_table(summary))
    skipped = (summary.provenance.get("data") or {}).get("skipped")
    if skipped:
        typer.echo(f"skipped, as they could not be read: {', '.join(skipped)}", err=True)
    files = ["summary.json", "records.jsonl", "run.json", *(["curve.svg"] if (out / "curve.svg").exists() else [])]
    stdout().print(f"{plain(str(out))}: {', '.join(files)}", soft_wrap=True)
