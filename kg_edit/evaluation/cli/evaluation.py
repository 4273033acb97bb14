"""The options of `kg-edit evaluate`, defined once for the command line and for Ray's workers, and the run with them.

They name the data, the method, the graph and the model. What is measured, and when, is the run's one config
(`EvalConfig`), whose fields are options too.

`EvaluateOptions.ready` checks the options, reads the data and loads the model; `Ready.run` scores a shard, or all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kg_edit.cli.lazy_graph import LazyGraph
from kg_edit.cli.method_plan import (
    choose_method,
    graph_name,
    load_model,
    note_choice,
    plan_method,
    warn_of_edits_without_facts,
)
from kg_edit.cli.options import (
    CHAT,
    BothForms,
    Contact,
    CorpusName,
    Device,
    Dtype,
    EditLanguage,
    Graph,
    KeepGoing,
    LayerChoice,
    Memory,
    ModelName,
    Preset,
    RequireGraph,
    Settings,
    Split,
    complete_method,
)
from kg_edit.edits.record import edits_of
from kg_edit.errors import ConfigError
from kg_edit.evaluation.cli.evaluation_graph import graph_for, guard_graph
from kg_edit.evaluation.config import EvalConfig
from kg_edit.languages import ENGLISH, check_language
from kg_edit.methods.registry import check_method, find_method
from kg_edit.models.loading import check_model_name
from kg_edit.storage.atomic import write_json
from kg_edit.storage.packaged import packaged_graph
from kg_edit.storage.run_folder import check_folder, replace_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kg_edit.cli.method_plan import MethodPlan
    from kg_edit.edits.edit import Edit
    from kg_edit.edits.files import LabelSource
    from kg_edit.edits.record import BenchmarkRecord
    from kg_edit.evaluation.datasets import FileContent
    from kg_edit.evaluation.schedule import Shard
    from kg_edit.evaluation.summary import Summary
    from kg_edit.methods import EditingMethod
    from kg_edit.models.language_model import LanguageModel


log = logging.getLogger(__name__)

# panels of the help
RECORDS = "Which records"
EXTRA = "Side effects and extra metrics"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `kg-edit evaluate`, in the order of its help; ``config`` says what is measured, and when."""

    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="File of a benchmark or of your edits, a packaged one's name, or `hf:NAME`."),
    ]
    dataset: Annotated[
        str, typer.Option(help="Name of the benchmark: `counterfact`, `mquake`, `zsre`, …; an unknown name lists them.")
    ] = "counterfact-plus"
    method: Annotated[
        str | None,
        typer.Option(
            show_default="glame with a graph (`--graph`, `--control`, or packaged with the benchmark), else rome",
            help="Editing method; see `kg-edit methods`.",
            autocompletion=complete_method,
        ),
    ] = None
    model: ModelName = "smollm2-135m"
    graph: Graph = None
    control: Annotated[
        Literal["wrong", "shuffled", "none"] | None,
        typer.Option(
            help="Use a control graph: o* with others' statements (`wrong`), others' objects (`shuffled`), or `none`."
        ),
    ] = None
    require_graph: RequireGraph = False
    language: EditLanguage = ENGLISH
    split: Split = None
    known_only: Annotated[
        bool,
        typer.Option(
            "--known-only",
            help="Use only questions whose other hops the unedited model knows.",
            rich_help_panel=RECORDS,
        ),
    ] = False
    skip: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Leave out the first records, such as those on which settings were chosen.",
            rich_help_panel=RECORDS,
        ),
    ] = 0
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Score only this many records, the first after `--skip`.", rich_help_panel=RECORDS
        ),
    ] = None
    config: EvalConfig = field(default_factory=EvalConfig)  # its fields are options of the command
    general: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT|TASKS|quick:FOLDER",
            help="Measure side effects: perplexity of a text file, lm-eval tasks by name, file or folder, and with "
            "`quick:FOLDER` eight sets (`sst2.jsonl`, …) without lm-eval; separate them by commas.",
            rich_help_panel=EXTRA,
        ),
    ] = None
    general_limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Use only the first documents of each lm-eval task, and draw N of each quick set.",
            show_default="all; 64 of a quick set",
            rich_help_panel=EXTRA,
        ),
    ] = None
    retention: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Unrelated prompts, such as zsRE's or PopQA's, for GRACE's retention rates.",
            rich_help_panel=EXTRA,
        ),
    ] = None
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="`attribute_snippets.json`: reference texts for `consistency.tfidf`.",
            rich_help_panel=EXTRA,
        ),
    ] = None
    specificity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="ECBD or Entity Inferences: a file whose masked sentences are also scored, those of other entities.",
            rich_help_panel=EXTRA,
        ),
    ] = None
    edit_chat: Annotated[
        bool | None,
        typer.Option(
            "--edit-chat/--edit-plain",
            show_default="the row's field chat",
            help="Make all edits in chat form, or none.",
            rich_help_panel=CHAT,
        ),
    ] = None
    both_forms: BothForms = False
    keep_going: KeepGoing = False
    layer: LayerChoice = None
    preset: Preset = "default"
    settings: Settings = None
    corpus: CorpusName = None
    dtype: Dtype = "auto"
    device: Device = "auto"
    contact: Contact = None
    memory: Memory = None

    def span(self, content: FileContent) -> slice:
        """Return the part of the records that is scored.

        ``skip`` counts rows, also those that can't be read; but records if some rows are left out, as ``limit`` does:
        so ``limit`` N and ``skip`` N never share a record.
        """
        start = self.skip
        if not (self.split or self.keep_going or self.known_only):
            start -= len({problem.row for problem in content.problems if problem.row <= self.skip})
        if self.limit is None:
            return slice(start, None)
        return slice(start, start + self.limit)

    def run(self, out: Path, *, overwrite: bool = False) -> Summary:
        """Check the options, load the model, and score; ``overwrite``: delete another run in the folder ``out``."""
        ready = self.ready(out)  # all that can be wrong is found before a run is deleted
        return replace_run(out, partial(ready.run, out), overwrite=overwrite)

    def read(self, labels: LabelSource | None = None) -> FileContent:
        """Read all records of the data set, and the faults of the rows that can't be read.

        Args:
            labels: the source of the labels of ids in own edits.
        """
        from kg_edit.evaluation.datasets import FileContent, read_dataset
        from kg_edit.evaluation.datasets.counterfact import read_references, with_references
        from kg_edit.evaluation.datasets.entity_inferences import read_sentences, with_specificity
        from kg_edit.evaluation.datasets.ripples import part_of

        self._check_references()
        stop = None if self.limit is None else self.skip + self.limit
        used = slice(self.skip, stop)
        if self.split or self.known_only:
            used = slice(None)  # any row may be scored, so each must be readable
        file = read_dataset(
            self.dataset,
            self.data,
            labels=labels,
            keep_going=self.keep_going,
            used=used,
            hint="--keep-going leaves out rows with faults",
            language=check_language(self.language),
        )
        records = tuple(map(self._in_form, part_of(file.records, self.split)))
        if self.references:
            records = with_references(records, read_references(self.references))
        if self.specificity:
            records = with_specificity(records, read_sentences(self.specificity))
        content = FileContent(records, file.problems)
        self._check_effects(content)
        return content

    def _check_references(self) -> None:
        """Refuse reference texts without the one extra metric that reads them, and that metric without the texts."""
        compares = "consistency.tfidf" in self.config.extras
        if compares and not self.references:
            raise ConfigError("consistency.tfidf needs reference texts; give --references attribute_snippets.json")
        if self.references and not compares:
            raise ConfigError(
                "--references has no effect without consistency.tfidf; leave it out, or also give --extra "
                "consistency.tfidf"
            )

    def _in_form(self, record: BenchmarkRecord) -> BenchmarkRecord:
        """Return the record with its edits in plain text or in chat form, as the options ask for."""
        from kg_edit.edits.files import in_form

        return record.model_copy(update={"edits": in_form(record.edits, self.edit_chat, both=self.both_forms)})

    def _check_effects(self, content: FileContent) -> None:
        """Refuse options that have no effect on the records that are scored."""
        records = content.records[self.span(content)]
        if self.skip and not records:
            count = len(content.records)
            raise ConfigError(f"--skip {self.skip} leaves no record: {self.data} has {count}; skip fewer")
        if self.config.ceilings and not any(record.has_ceilings for record in records):
            raise ConfigError(
                "--ceilings has no effect, because no record has portability questions or recalled facts; leave it "
                "out, or use another data set, such as counterfact-plus or ripples"
            )
        if self.config.probes or self.config.extras:
            from kg_edit.evaluation.metrics.sampled_text import EXTRAS
            from kg_edit.evaluation.template_probes import PROBES

            _check_needs("--probes", {name: PROBES[name].needs for name in self.config.probes}, records)
            _check_needs("--extra", {name: EXTRAS[name].needs for name in self.config.extras}, records)

    @property
    def _graph_names(self) -> list[str] | None:
        """The graph of ``graph``, or the packaged one if a control or packaged data ask for one."""
        packaged = None
        if self.control or packaged_graph(str(self.data)):
            packaged = [graph_name(self.data)]
        return self.graph or packaged

    def lazy_graph(self) -> LazyGraph:
        """Return the graph that the method reads and that labels the ids in own edits; it is opened when needed."""
        method = choose_method(self.method, self._graph_names)
        return LazyGraph(method, self.graph, self.contact, default=graph_name(self.data))

    def ready(self, out: Path) -> Ready:
        """Check the options, read the data and load the model; ``out`` is checked, but not written."""
        # All that can be wrong without a model is checked before the model is loaded.
        lazy_graph = self.lazy_graph()
        check_method(lazy_graph.method)
        check_model_name(self.model)
        check_folder(out)
        content = self.read(lazy_graph)
        lazy_graph.refuse_unread()
        lazy_graph.set_language_of(edits_of(content.records))
        self._check_control(lazy_graph.method)
        method_plan = self._plan(lazy_graph, content)
        config = self.config.with_files(
            general=self.general, general_limit=self.general_limit, retention=self.retention, tokenizer=self.model
        )
        if self.known_only:  # the model decides below which records are scored
            candidates = content.records
        else:
            candidates = content.records[self.span(content)]
            method_plan.method.refuse_texts(edits_of(candidates))

        note_choice(self.method, self._graph_names)
        model = load_model(self.model, self.dtype, self.device)
        _refuse_no_chat_template(model, edits_of(candidates), chat=config.chat)
        scored = candidates
        if self.known_only:
            known = self._select_known(model, content)
            scored = known.records[self.span(known)]
            method_plan.method.refuse_texts(edits_of(scored))
        if method_plan.auto:
            method_plan = method_plan.with_layer(model, sweep_edits(content.records, scored))
        editor = method_plan.on(model)
        return Ready(
            options=self, config=config, plan=method_plan, method=editor, model=model, scored=scored, content=content
        )

    def _check_control(self, method: str) -> None:
        """Refuse a control graph for a method that reads none, and no graph where one is required."""
        if self.control and not find_method(method).needs_graph:
            raise ConfigError(f"--control {self.control}: {method} reads no graph; remove --control")
        if self.control == "none" and self.require_graph:
            raise ConfigError("--control none leaves no edit a statement of o*; remove --require-graph")

    def _plan(self, lazy_graph: LazyGraph, content: FileContent) -> MethodPlan:
        """Return the method with its settings and the graph that it may read; what does not fit together is refused."""
        method_plan = plan_method(
            lazy_graph.method,
            preset=self.preset,
            layer=self.layer,
            settings=self.settings,
            corpus=self.corpus,
            graph=lazy_graph.open(),
            require_graph=self.require_graph,
            memory=self.memory,
        )
        graph = graph_for(method_plan.graph, content.records, self.control)
        method_plan = replace(method_plan, graph=guard_graph(graph, method_plan.config, content.records))
        method_plan.select_usable(())  # without the edits: one that can't be made counts as a failure in the scores
        return method_plan

    def _select_known(self, model: LanguageModel, content: FileContent) -> FileContent:
        """Return the records with only the questions that ``--known-only`` keeps."""
        from kg_edit.evaluation.datasets import FileContent
        from kg_edit.evaluation.ripples.known_only import known_only
        from kg_edit.models.loading import cache_folder

        most = None if self.limit is None else self.skip + self.limit
        known = known_only(model, content.records, folder=cache_folder() / "knowledge", most=most)
        if not known.total:
            raise ConfigError("--known-only: the records have no question with a further hop; remove it")
        if not known.records:
            raise ConfigError(
                f"--known-only: none of the {known.total} questions is left, because the model does not know their "
                "other hops; remove --known-only, or use another model"
            )
        log.warning("--known-only: %s", known)
        kept = FileContent(known.records, content.problems)
        if not kept.records[self.span(kept)]:
            raise ConfigError(
                f"--skip {self.skip} leaves none of the {len(kept.records)} records that --known-only leaves; skip "
                "fewer"
            )
        return kept


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An evaluation with its model in memory."""

    options: EvaluateOptions
    config: EvalConfig
    plan: MethodPlan
    method: EditingMethod
    model: LanguageModel
    scored: Sequence[BenchmarkRecord]
    content: FileContent  # of the whole file, whose answers are the wrong ones of portability.choice

    def run(self, out: Path, *, shard: Shard | None = None) -> Summary:
        """Score the records, or a shard of them."""
        from kg_edit.evaluation.run import evaluate
        from kg_edit.evaluation.settings import DataSource

        skipped = tuple(dict.fromkeys(problem.id for problem in self.content.problems))
        config = self.config
        if shard:
            config = config.model_copy(update={"shard": str(shard)})
        summary = evaluate(
            self.method,
            self.model,
            self.scored,
            out=out,
            config=config,
            pool=self.content.records,
            data=DataSource.of(self.options.dataset, self.options.data, skipped=skipped),
        )
        layer_choice = self.plan.layer_choice
        if layer_choice:
            write_json(out / "layer.json", layer_choice)
        warn_of_edits_without_facts(self.method)
        words = summary.base.get("unstructured.rouge_1.greedy")
        if words and words.mean == 0 and self.model.tokenizer.chat_template and not self.config.chat:
            log.warning(
                "the unedited model generates no word of any paragraph: in plain text a chat model often ends its text "
                "after a question; --edit-chat --chat edits and asks in chat form"
            )
        return summary


def _refuse_no_chat_template(model: LanguageModel, edits: Sequence[Edit], *, chat: bool | None) -> None:
    """Refuse a model without a chat template, before any work, if an edit is made or asked in chat form."""
    from kg_edit.methods.run_settings import chat_settings

    chat_settings(model, edits, chat)  # it reads the template


def _check_needs(option: str, needs: Mapping[str, Sequence[str]], records: Sequence[BenchmarkRecord]) -> None:
    """Refuse the probes or extras of an option if no record has what they need; warn if that is so for some of them.

    ``needs`` has, by the name of a probe or an extra, the fields of an edit or groups of probes that it needs.
    """
    from kg_edit.evaluation.template_probes import PROBES, with_probes

    def brings(record: BenchmarkRecord, part: str) -> bool:
        """Return whether a record has probes of a group, or an edit with a field."""
        return bool(record.group(part)) or any(getattr(edit, part, ()) for edit in record.edits)

    def has(record: BenchmarkRecord, name: str) -> bool:
        """Return whether a record has what a probe or an extra needs."""
        if name in PROBES:
            return bool(with_probes(record, [name]).group(name))
        return any(brings(record, part) for part in needs[name])

    unused = []
    needed = set[str]()
    for name in needs:
        if not any(has(record, name) for record in records):
            unused.append(name)
            needed.update(needs[name])
    if not unused:
        return
    parts = sorted(needed)
    lacking = []
    for part in parts:
        if not any(brings(record, part) for record in records):
            lacking.append(part)
    fault = f"{option} {','.join(unused)} has no effect, because no record has "
    fault += " or ".join(lacking) or " and ".join(parts)
    if len(unused) == len(needs):
        raise ConfigError(f"{fault}; leave it out, or use another data set, such as counterfact-plus")
    log.warning(fault)


def sweep_edits(records: Sequence[BenchmarkRecord], scored: Sequence[BenchmarkRecord]) -> tuple[Edit, ...]:
    """Return the edits on which a layer is chosen: those of records that are not scored; if all are scored, of all."""
    ids = {record.id for record in scored}
    unscored = [record for record in records if record.id not in ids]
    if not unscored:
        log.warning("--layer auto uses records that are also scored; with --skip or --limit, it uses the other records")
    return edits_of(unscored or records)
