"""The job behind `kg-edit evaluate`: its options, defined once for the command line and for Ray's workers, and its run.

`Evaluation.ready` checks the options, reads the data and loads the model; `Ready.run` scores a shard, or all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kg_edit.cli.evaluation_graph import graph_for, guarded
from kg_edit.cli.method_plan import check_names, graph_name, graph_of, load, plan
from kg_edit.cli.options import (
    BothForms,
    Contact,
    CorpusName,
    Device,
    Dtype,
    Graph,
    KeepGoing,
    LayerChoice,
    Memory,
    MethodName,
    ModelName,
    Preset,
    Settings,
)
from kg_edit.errors import ConfigError
from kg_edit.methods.registry import find_method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kg_edit.cli.method_plan import MethodPlan
    from kg_edit.datasets import FileContent
    from kg_edit.datasets.record import BenchmarkRecord
    from kg_edit.edits.edit import Edit
    from kg_edit.evaluate import Shard, Summary
    from kg_edit.evaluate.general_tasks import GeneralTasks
    from kg_edit.evaluate.retention import RetentionTest
    from kg_edit.methods import EditingMethod
    from kg_edit.models.language_model import LanguageModel


log = logging.getLogger(__name__)

DatasetName = Annotated[
    str, typer.Option(help="name of the benchmark: counterfact, mquake, zsre, …; an unknown name lists them")
]
ScheduleText = Annotated[
    str, typer.Option("--schedule", help="single, batch:N, sequential:N or batch:B,sequential:N (N records in all)")
]
Every = Annotated[
    int | None,
    typer.Option("--evaluate-every", min=1, help="edits between two points of the curve; default: about ten points"),
]
Sample = Annotated[
    int | None,
    typer.Option(
        "--sample",
        min=1,
        help="for long sequences: score only at the curve's points, N evenly spread records at each",
    ),
]
General = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT|TASKS",
        help="measure side effects: perplexity of a text file; lm-eval tasks by name, file or folder; separate several "
        "with commas",
    ),
]
GeneralLimit = Annotated[int | None, typer.Option(min=1, help="use only the first N documents of each lm-eval task")]
RetentionFile = Annotated[
    Path | None,
    typer.Option(help="file of unrelated prompts, such as zsRE's or PopQA's, for GRACE's retention rates"),
]
Ceilings = Annotated[bool, typer.Option("--ceilings", help="also score portability with the facts in the prompt")]
Extras = Annotated[list[str] | None, typer.Option("--extra", help="also score a costly metric; repeatable")]
References = Annotated[Path | None, typer.Option(help="attribute_snippets.json: reference texts for consistency.tfidf")]


SpecificityFile = Annotated[
    Path | None,
    typer.Option(help="ECBD's file of sentences about other entities, to score their masked spans"),
]


AskChat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--plain",
        help="ask all prompts as chat user turns, or none; default: as the edit is made",
    ),
]
EditChat = Annotated[
    bool | None,
    typer.Option(
        "--edit-chat/--edit-plain", help="make all edits in chat form, or none; default: the row's field chat"
    ),
]

ControlName = Annotated[
    Literal["wrong", "shuffled", "none"] | None,
    typer.Option(help="use a control graph: o* with others' statements (wrong), others' objects (shuffled), or none"),
]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The options of `kg-edit evaluate`, in the order of its help."""

    data: Annotated[Path, typer.Option(help="the benchmark's JSON file, a packaged one's name, or hf:NAME")]
    dataset: DatasetName = "counterfact-plus"
    method: MethodName = "glame"
    model: ModelName = "smollm2-135m"
    graph: Graph = None
    control: ControlName = None
    split: Annotated[
        str | None, typer.Option(help="use only this split of a benchmark that has splits: dev or test")
    ] = None
    known_only: Annotated[
        bool, typer.Option("--known-only", help="keep only questions whose other hops the unedited model knows")
    ] = False
    skip: Annotated[
        int, typer.Option(min=0, help="leave out the first N records, such as those on which settings were chosen")
    ] = 0
    limit: Annotated[int | None, typer.Option(min=1, help="score only N records, the first after --skip")] = None
    schedule: ScheduleText = "single"
    every: Every = None
    sample: Sample = None
    general: General = None
    general_limit: GeneralLimit = None
    retention: RetentionFile = None
    ceilings: Ceilings = False
    extras: Extras = None
    references: References = None
    specificity: SpecificityFile = None
    chat: AskChat = None
    edit_chat: EditChat = None
    both_forms: BothForms = False
    keep_going: KeepGoing = False
    layer: LayerChoice = None
    preset: Preset = "default"
    settings: Settings = None
    corpus: CorpusName = None
    seed: Annotated[int, typer.Option(help="random seed of choices and intervals")] = 0
    dtype: Dtype = "auto"
    device: Device = "auto"
    contact: Contact = None
    memory: Memory = None

    @property
    def span(self) -> slice:
        """The part of the records that is scored."""
        return slice(self.skip, None if self.limit is None else self.skip + self.limit)

    def run(self, out: Path, *, shard: str | None = None) -> Summary:
        """Check the options, load the model, and score.

        Raises:
            KgEditError, WikidataCacheError: an option or a file is wrong; see `kg_edit.evaluate.evaluate`.
        """
        part = _shard(shard)
        return self.ready(out).run(out, part)

    def read(self) -> FileContent:
        """Read all records of the data set, and the faults of the rows that can't be read.

        Raises:
            ConfigError: an extra metric lacks its reference texts, or no metric reads them; or no record has a ceiling.
            ConfigError: no record is left after ``skip``.
            KgEditError: there is no such data set, it can't be read, or a row can't be read and ``keep_going`` is
                false.
        """
        from kg_edit.datasets import FileContent, find_dataset
        from kg_edit.datasets.counterfact import read_references, with_references
        from kg_edit.datasets.entity_inferences import read_spans, with_specificity
        from kg_edit.datasets.ripples import part_of

        if "consistency.tfidf" in (self.extras or ()) and not self.references:
            raise ConfigError("consistency.tfidf needs reference texts; give --references attribute_snippets.json")
        if self.references and "consistency.tfidf" not in (self.extras or ()):
            raise ConfigError(
                "--references has no effect without consistency.tfidf; leave it out, or also give --extra "
                "consistency.tfidf"
            )
        dataset = find_dataset(self.dataset)
        whole = dataset.read(self.data) if self.keep_going else FileContent(dataset(self.data))
        part = part_of(whole.records, self.split)
        records = [made_in(record, self.edit_chat, both=self.both_forms) for record in part]
        found: Sequence[BenchmarkRecord] = tuple(records)
        if self.references:
            found = with_references(found, read_references(self.references))
        if self.specificity:
            found = with_specificity(found, read_spans(self.specificity))
        if self.skip and len(found) <= self.skip:
            raise ConfigError(f"--skip {self.skip} leaves no record: {self.data} has {len(found)}; skip fewer")
        self._check_ceilings(found)
        return FileContent(tuple(found), whole.problems)

    def _check_ceilings(self, records: Sequence[BenchmarkRecord]) -> None:
        if self.ceilings and not any(record.has_ceilings for record in records[self.span]):
            raise ConfigError(
                "--ceilings has no effect, because no record has portability questions or recalled facts; leave it "
                "out, or use another data set, such as counterfact-plus or ripples"
            )

    def ready(self, out: Path) -> Ready:
        """Check the options, read the data and load the model; ``out`` is checked, but not written.

        Raises:
            KgEditError, WikidataCacheError: an option or a file is wrong.
        """
        check_names(self.method, self.model)
        reading, planned, beside = self.read(), self._planned(), self._beside()
        seen = graph_for(planned.graph, reading.records, self.control)
        planned = replace(planned, around=guarded(seen, planned.config, reading.records))
        planned.check((), out)  # without the edits: one that the graph does not know counts as a failure in the scores
        model = load(self.model, self.dtype, self.device)
        self._check_chat(model, reading)
        reading = self._known(model, reading)
        chosen = planned.with_layer(model, sweep_edits(reading.records, self.span)) if planned.auto else planned
        return Ready(options=self, plan=chosen, method=chosen.on(model), model=model, reading=reading, beside=beside)

    def _planned(self) -> MethodPlan:
        from kg_edit.evaluate.run import check_schedule

        check_schedule(self.schedule, self.every, sample=self.sample)
        if self.control and not find_method(self.method).needs_graph:
            raise ConfigError(f"--control {self.control}: {self.method} reads no graph; remove --control")
        return plan(
            self.method,
            preset=self.preset,
            layer=self.layer,
            settings=self.settings,
            corpus=self.corpus,
            graph=graph_of(self.method, self.graph, self.contact, default=graph_name(self.data)),
            memory=self.memory,
        )

    def _beside(self) -> Beside:
        from kg_edit.evaluate.general_tasks import GeneralTasks, split_general
        from kg_edit.evaluate.metrics.catalogue import find_extras
        from kg_edit.evaluate.retention import read_retention_test
        from kg_edit.scoring.perplexity import read_text

        find_extras(self.extras or ())
        text_file, wanted = split_general(self.general)
        if self.general_limit and not wanted:
            raise ConfigError("--general-limit counts the documents of lm-eval tasks; name some with --general")
        return Beside(
            text=read_text(text_file) if text_file else None,
            tasks=GeneralTasks.open(wanted, limit=self.general_limit, tokenizer=self.model) if wanted else None,
            retention=read_retention_test(self.retention) if self.retention else None,
        )

    def _check_chat(self, model: LanguageModel, reading: FileContent) -> None:
        """Check that the model has a chat template if the records need one."""
        from kg_edit.evaluate.settings import chat_settings

        chat_settings(model, (edit for record in reading.records for edit in record.edits), self.chat)

    def _known(self, model: LanguageModel, reading: FileContent) -> FileContent:
        """The records with only the questions that ``--known-only`` keeps.

        Raises:
            ConfigError: no question is left.
        """
        if not self.known_only:
            return reading
        from kg_edit.datasets import FileContent
        from kg_edit.models.loading import cache_folder
        from kg_edit.ripples.known_only import known_only

        found = known_only(model, reading.records, folder=cache_folder() / "knowledge")
        if not found.records:
            raise ConfigError(
                f"--known-only: none of the {found.asked} questions is left, because the model does not know their "
                "other hops; remove --known-only, or use another model"
            )
        log.warning("--known-only: %s", found)
        return FileContent(found.records, reading.problems)


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is measured besides the records: a text's perplexity, general tasks, and the retention of earlier edits."""

    text: str | None
    tasks: GeneralTasks | None
    retention: RetentionTest | None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An evaluation with its model in memory."""

    options: Evaluation
    plan: MethodPlan
    method: EditingMethod
    model: LanguageModel
    reading: FileContent
    beside: Beside

    @property
    def skipped(self) -> tuple[str, ...]:
        """The ids of the rows that could not be read, each once."""
        return tuple(dict.fromkeys(problem.id for problem in self.reading.problems))

    def run(self, out: Path, shard: Shard, *, progress: bool = True) -> Summary:
        """Score a shard of the records.

        Raises:
            KgEditError: see `kg_edit.evaluate.evaluate`.
        """
        from kg_edit.evaluate.run import evaluate
        from kg_edit.evaluate.settings import DataSource

        options = self.options
        summary = evaluate(
            self.method,
            self.model,
            self.reading.records[options.span],
            pool=self.reading.records,
            out=out,
            schedule=options.schedule,
            every=options.every,
            sample=options.sample,
            general=self.beside.text,
            tasks=self.beside.tasks,
            retention=self.beside.retention,
            shard=shard,
            data=DataSource.of(options.dataset, options.data, skipped=self.skipped),
            ceilings=options.ceilings,
            extras=options.extras or (),
            chat=options.chat,
            seed=options.seed,
            progress=progress,
        )
        self.plan.note_layer(out)
        return summary


def made_in(record: BenchmarkRecord, chat: bool | None, *, both: bool = False) -> BenchmarkRecord:
    """The record with its edits in the wanted form, see `in_form`."""
    from kg_edit.edits.files import in_form

    return record.model_copy(update={"edits": in_form(record.edits, chat, both=both)})


def _shard(text: str | None) -> Shard:
    from kg_edit.evaluate.schedule import WHOLE, Shard

    return WHOLE if text is None else Shard.parse(text)


def sweep_edits(records: Sequence[Edit | BenchmarkRecord], scored: slice) -> tuple[Edit, ...]:
    """The edits on which a layer is chosen: those of records that are not scored; if all are scored, of all records."""
    from kg_edit.datasets.record import as_record

    start, stop, _ = scored.indices(len(records))
    others = [*records[:start], *records[stop:]]
    if not others:
        log.warning("--layer auto uses records that are also scored; with --skip or --limit, it uses the other records")
    return tuple(edit for record in others or records for edit in as_record(record).edits)
