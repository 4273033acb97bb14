"""What evaluations, comparisons, traces and their files refuse: a mistake, the class of its error, the word one needs.

Runs of the same mistake again and again are in `test_run`; what the readers of data sets refuse is in `datasets`.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import Query
from kg_edit.errors import (
    AnotherRunError,
    ChatTemplateError,
    ConfigError,
    EditError,
    EditFileError,
    ModelError,
    OutputError,
    PromptError,
    UnknownNameError,
    UnsupportedModelError,
)
from kg_edit.evaluation.cli.sweep_grid import cells_of, read_sweep
from kg_edit.evaluation.comparison import compare
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.general_tasks import GeneralTasks, find_tasks, split_general
from kg_edit.evaluation.label_drift.classifier import train_classifier
from kg_edit.evaluation.label_drift.run import check_editor, check_labels
from kg_edit.evaluation.label_drift.texts import LabelDrift, LabelledText, read_label_drift, read_texts
from kg_edit.evaluation.lm_eval_model import lm_eval_model
from kg_edit.evaluation.metrics.catalogue import find_extras
from kg_edit.evaluation.quick_tasks import QuickTasks
from kg_edit.evaluation.records import RunFolder
from kg_edit.evaluation.retention import RetentionTest, read_retention_test
from kg_edit.evaluation.ripples.build import Builder
from kg_edit.evaluation.ripples.ripple_edits import Excluded, training_edits
from kg_edit.evaluation.ripples.words import RippleWords
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.schedule import Schedule, Shard
from kg_edit.evaluation.summary import Summary
from kg_edit.evaluation.template_probes import parse_probe_names
from kg_edit.evaluation.tracing.corrupted_run import find_site, subject_tokens
from kg_edit.evaluation.tracing.layer_sweep import choose_layer
from kg_edit.evaluation.tracing.run import locate
from kg_edit.evaluation.tracing.trace import TracedFact, TraceSettings, facts_of, read_known, trace
from kg_edit.methods import find_method
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.rome.method import RomeConfig
from kg_edit.models.prompts import encode
from kg_edit.scoring.perplexity import read_text
from kg_edit.storage.atomic import append_lines
from kg_edit.storage.frames import frame_of
from kg_edit.storage.locks import folder_lock
from tests.kg_edit.evaluation.conftest import CITIES, Nudge, record
from tests.kg_edit.evaluation.label_drift import test_classifier as drifting
from tests.kg_edit.evaluation.label_drift import test_run as drift_runs
from tests.kg_edit.evaluation.ripples.test_build import MINE
from tests.kg_edit.evaluation.ripples.toy import table_of
from tests.kg_edit.evaluation.test_compare import RECORDS, write_run
from tests.kg_edit.evaluation.test_quick_tasks import ROWS as TASKS
from tests.kg_edit.evaluation.test_quick_tasks import folder as task_folder
from tests.kg_edit.evaluation.tracing import test_fact, test_trace
from tests.kg_edit.evaluation.tracing.test_locate_run import FACTS, SETTINGS
from tests.kg_edit.tiny import tiny
from tests.refusals import Call, check_refused, put, refusals

EDITS = tuple(record(number, city) for number, city in enumerate(CITIES))
Row = tuple[Call, type[Exception], str]


def evaluated(
    edits: Sequence[Edit] = EDITS[:2], *, model: str = "llama", made_for: str = "llama", **options: Any
) -> Call:
    """A run of a method that is made for a tiny model; where it is refused, no record was asked."""

    def call(folder: Path) -> object:
        try:
            return evaluate(Nudge(tiny(made_for)), tiny(model), edits, out=folder / "run", config=EvalConfig(**options))
        finally:
            assert not [*(folder / "run").glob("records.jsonl")]

    return call


def of_merged_model(folder: Path) -> object:
    merged = copy.deepcopy(tiny("llama"))
    Nudge(merged).edit(EDITS[:1]).merge_into(merged)
    return evaluate(Nudge(tiny("llama")), merged, EDITS[:1], out=folder)


def below_a_file(folder: Path) -> object:
    return evaluate(Nudge(tiny("llama")), tiny("llama"), EDITS[:1], out=put(folder, "file") / "out")


def without(module: str, call: Callable[[], object]) -> Call:
    """A call in an environment in which a package is not installed."""

    def hidden(_: Path) -> object:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in sys.modules if name.split(".")[0] == module] or [module]:
                patch.setitem(sys.modules, name, None)
            find = importlib.util.find_spec
            patch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find(name))
            return call()

    return hidden


def asked_through_lm_eval() -> None:
    with lm_eval_model(tiny("llama")):
        pass


LONG = RetentionTest((Query(prompt="where " * 3000, answers=(("Rome",),)),))
RUNS: dict[str, Row] = {
    "id given twice": (evaluated([EDITS[0], EDITS[1], EDITS[0]]), ConfigError, "records 1 and 3 have the same id"),
    "method of another model": (
        evaluated(model="gpt2"),
        ConfigError,
        "nudge is made for 'tiny-llama', not for 'tiny-gpt2'",
    ),
    "model that was merged into": (of_merged_model, ConfigError, "to which a patch was merged"),
    "chat without a template": (evaluated(chat=True), ChatTemplateError, "no chat template"),
    "prompt that does not fit": (
        evaluated(model="gpt2", made_for="gpt2", schedule="sequential:2", retention=LONG),
        ModelError,
        "has positions for",
    ),
    "text without a perplexity": (
        evaluated(schedule="sequential:2", general="a"),
        ModelError,
        "give a text of some thousand words",
    ),
    "folder below a file": (below_a_file, OutputError, "/file is a file; give --out a folder"),
    "folder as the file of records": (
        lambda folder: append_lines(folder, ["a line"]),
        OutputError,
        "Is a directory; check the path and its permissions",
    ),
    "file that is no summary": (
        lambda folder: Summary.load(put(folder, "run.json", "{}")),
        OutputError,
        "it is no summary of a run; give the folder of a finished run",
    ),
    "summary that is not there": (
        lambda folder: Summary.load(str(folder / "none")),
        OutputError,
        "give the folder of a finished run",
    ),
    "folder without a run as a table": (lambda folder: RunFolder(folder).to_frame(), OutputError, "has no run"),
    # Packages that are not installed
    "no pandas": (without("pandas", lambda: frame_of([])), ConfigError, "pip install 'kg-edit[pandas]'"),
    "no lm-eval": (without("lm_eval", asked_through_lm_eval), ConfigError, "pip install 'kg-edit[lm-eval]'"),
    "no lm-eval for tasks": (
        without("lm_eval", lambda: GeneralTasks.open(["boolq"])),
        ConfigError,
        "pip install 'kg-edit[lm-eval]'",
    ),
    "no rapidfuzz": (
        without("rapidfuzz", lambda: find_extras(["portability.glame_fuzzy"])),
        ConfigError,
        "pip install 'kg-edit[fuzzy]'",
    ),
}


def schedule(text: str) -> Call:
    return lambda _: Schedule.parse(text)


def shard(text: str) -> Row:
    return (lambda _: Shard.parse(text), ConfigError, "expected i/n with i from 0 to n-1")


def config(**options: object) -> Call:
    return lambda _: EvalConfig.model_validate(options)


SETTINGS_OF_RUNS: dict[str, Row] = {
    "misspelt schedule": (schedule("sequentail:10"), UnknownNameError, "did you mean 'sequential'"),
    "no schedule": (schedule(""), UnknownNameError, "unknown schedule ''"),
    "batch without a number": (schedule("batch"), ConfigError, "batch needs a number of edits, found ''"),
    "batch of none": (schedule("batch:0"), ConfigError, "found '0'"),
    "batch below none": (schedule("batch:-3"), ConfigError, "found '-3'"),
    "number that is a digit only to Python": (schedule("batch:²"), ConfigError, "found '²'"),
    "number in words": (schedule("sequential:many"), ConfigError, "found 'many'"),
    "single with a number": (schedule("single:3"), ConfigError, "single takes no number"),
    "two schedules": (schedule("single,batch:3"), ConfigError, "'batch:3' repeats an earlier part"),
    "two batches": (schedule("batch:3,batch:4"), ConfigError, "'batch:4' repeats an earlier part"),
    "batch beyond its sequence": (schedule("batch:64,sequential:32"), ConfigError, "write batch:32"),
    **{f"shard {text!r}": shard(text) for text in ("", "4/4", "1", "-1/3", "a/b", "0/0", "1/2/3")},
    "evaluation at each edit of a batch": (config(schedule="batch:2", evaluate_every=1), ConfigError, "evaluate every"),
    "evaluation at no edit": (
        config(schedule="sequential:2", evaluate_every=0),
        ConfigError,
        "evaluate every 0 edits",
    ),
    "misspelt extra": (config(extras=("consistency.tfid",)), UnknownNameError, "did you mean 'consistency.tfidf'"),
    "path as a retention test": (config(retention="zsre.json"), ValidationError, "read_retention_test returns"),
    "path as a text": (config(general=__file__), ValidationError, "read_text returns"),
    "misspelt setting": (config(schedul="single"), ValidationError, "Extra inputs are not permitted"),
    "misspelt probe": (lambda _: parse_probe_names(["negatoin"]), UnknownNameError, "negation"),
    "two texts": (lambda _: split_general("a.txt,b.txt"), ConfigError, "one text, found a.txt, b.txt"),
    **{
        f"folders of sets: {text}": (
            lambda _, text=text: split_general(text),
            ConfigError,
            f"--general {text}: give the one folder of the eight sets",
        )
        for text in ("quick", "quick:", "quick:a,quick:b")
    },
    "text that is not there": (lambda folder: read_text(folder / "none"), ConfigError, "can't read"),
    "text without words": (lambda folder: read_text(put(folder, "a", " \n")), ConfigError, "is empty"),
    "text of bytes": (lambda folder: read_text(put(folder, "a", b"\xff\xfe\xff")), ConfigError, "UTF-8"),
    "edits without unrelated prompts": (
        lambda folder: read_retention_test(put(folder, "edits.jsonl", EDITS[0].model_dump_json(include=OWN_FIELDS))),
        EditFileError,
        "no record has a locality or recall prompt",
    ),
}
OWN_FIELDS = {"id", "subject", "prompt", "target_new"}


def compared(first: dict[str, Any] | None = None, *, common: bool = False, **second: Any) -> Call:
    """Two runs that differ in some settings are compared."""

    def call(folder: Path) -> object:
        runs = [
            write_run(folder, "first", seed=1, **(first or {})),
            write_run(folder, "second", **{"seed": 2, **second}),
        ]
        return compare(runs, common=common)

    return call


def compared_after(change: Callable[[str], str], **second: Any) -> Call:
    """The records of the second run are changed by hand."""

    def call(folder: Path) -> object:
        runs = [write_run(folder, "first", seed=1), write_run(folder, "second", **{"seed": 2, **second})]
        records = runs[1] / "records.jsonl"
        records.write_text(change(records.read_text()))
        return compare(runs)

    return call


def one_run(**options: Any) -> Call:
    return lambda folder: compare(write_run(folder, "first", seed=1), **options)


def with_general_task(folder: Path) -> object:
    run = write_run(folder, "first", seed=1)
    put(run, "general.jsonl", '{"sequence": 0, "edits": 0, "scores": {"general.quick.acc": 0.5}}\n')
    return compare(run, metrics="quick.acc")


def same_run_twice(folder: Path) -> object:
    return compare([write_run(folder, "first", seed=1), folder / "." / "first"])


def several_models(folder: Path) -> object:
    runs = [write_run(folder, "first", seed=1), write_run(folder, "second", seed=2, model=OTHER_MODEL)]
    return compare(runs, against="unedited")


OTHER_MODEL = {"name": "other", "fingerprint": "g", "dtype": "torch.bfloat16"}
OTHER_DATA = {"data": {"dataset": "zsre", "sha256": "e"}}
COMPARISONS: dict[str, Row] = {
    "other model, in chat form": (
        compared(model=OTHER_MODEL, chat_form_sha256="c"),
        OutputError,
        "--plain",
    ),
    "unedited model of several": (several_models, ConfigError, "different models"),
    "other protocol": (compared(protocol=2), OutputError, "one version"),
    "other form of questions": (compared(question_form_sha256="r"), OutputError, "question_form"),
    "other tokenizer": (compared(tokenizer_sha256="u"), OutputError, "one tokenizer"),
    "other data": (compared(**OTHER_DATA), OutputError, "--common compares"),
    "other data with no record in common": (
        compared_after(lambda text: text.replace('"sha256": "s', '"sha256": "t'), **OTHER_DATA),
        OutputError,
        "evaluate both on one file",
    ),
    "run of another command": (compared(job="edit"), OutputError, "is not a run of `kg-edit evaluate`"),
    "run of a later version": (compared(version=2), OutputError, "reads only 1; update it"),
    "fewer records": (compared(records=40), OutputError, "20 of the first ('case-40', …) are not in the second"),
    "no record": (compared(records=0, common=True), OutputError, "share no record"),
    "record that was changed": (
        compared_after(lambda text: text.replace('"s7"', '"changed"')),
        OutputError,
        "1 of the first ('case-7') is not in the second, and 1 of the second",
    ),
    "unfinished run": (
        compared(lines=3 * 5 + 1),
        OutputError,
        f"not finished: {RECORDS - 5} of {RECORDS} records",
    ),
    "no metric in common": (
        compared_after(lambda text: re.sub(r'"scores": {[^}]*}', '"scores": {"another.metric": 1.0}', text)),
        ConfigError,
        "no record has a score of the same metric on each side",
    ),
    "misspelt metric": (one_run(metrics=["efficacy.prb"]), UnknownNameError, "did you mean 'efficacy.prob'"),
    "metric of no record": (one_run(metrics=["missing"]), ConfigError, "(unedited, first); leave it out"),
    "metric of the whole model": (with_general_task, ConfigError, "quick.acc is of the whole model"),
    "against another run": (one_run(against="third"), ConfigError, "expected unedited or one of"),
    "against itself": (one_run(against="first"), ConfigError, "first is not compared with itself"),
    "run given twice": (same_run_twice, ConfigError, "given twice"),
    "no run": (lambda _: compare([]), ConfigError, "no run is given"),
    "folder without a run": (lambda folder: compare([folder]), OutputError, "has no run"),
}


def quick_tasks(name: str, *rows: object) -> Call:
    """A set of tasks with these rows."""
    return lambda folder: QuickTasks.open(task_folder(folder, **{name: [*rows]}))  # type: ignore[list-item]


def changed_task(name: str, **change: object) -> Call:
    """A good row, and another one with a wrong field."""
    good = TASKS[name][0]
    return quick_tasks(name, good, {**good, **change})


def two_tasks_of_one_name(folder: Path) -> object:
    files = []
    for name in ("a", "b"):
        (folder / name).mkdir()
        files.append(str(put(folder / name, "known.yaml", "task: known\n")))
    return find_tasks(files)


def task_file(text: str) -> Call:
    return lambda folder: find_tasks([str(put(folder, "bad.yaml", text))])


LACKING = {name: value for name, value in TASKS["sst2"][0].items() if name != "label"}
TASK_SETS: dict[str, Row] = {
    "label beyond the classes": (changed_task("sst2", label=-1), ConfigError, "sst2.jsonl, row 2, field label: found"),
    "blank sentence": (changed_task("sst2", sentence=" "), ConfigError, "field sentence: found the text ' '"),
    "list as a label": (changed_task("sst2", label=["x"]), ConfigError, "field label: found a list; expected one of"),
    "number as a name": (changed_task("nli", label=0), ConfigError, "expected one of entailment, not_entailment"),
    "answer beyond the choices": (changed_task("mmlu", answer=3), ConfigError, "expected one of 0, 1, 2"),
    "empty choice": (changed_task("mmlu", choices=["a", ""]), ConfigError, "expected a list of two texts or more"),
    "letter beyond the options": (changed_task("dialogue", answers="C"), ConfigError, "expected one of A, B"),
    "missing field": (quick_tasks("sst2", LACKING), ConfigError, "row 1, field label: is missing"),
    "no sets": (lambda folder: QuickTasks.open(folder / "none"), ConfigError, "no such file as sst2.jsonl"),
    "set that is cut off": (
        lambda folder: QuickTasks.open(put(folder, "cola.jsonl", '{"sentence": "a"').parent),
        ConfigError,
        "cola.jsonl, line 1, column 17: not JSON",
    ),
    "row that is a number": (
        lambda folder: QuickTasks.open(put(folder, "cola.jsonl", "[3]").parent),
        ConfigError,
        "cola.jsonl, row 1, found the number 3; expected an object",
    ),
    "set without rows": (
        lambda folder: QuickTasks.open(put(folder, "cola.jsonl", "[]").parent),
        ConfigError,
        "has no rows",
    ),
    "two tasks of one name": (two_tasks_of_one_name, ConfigError, "both have the task 'known'"),
    "task that is no YAML": (task_file("task: [one\n"), ConfigError, "can't read the task"),
}


def labelled(*rows: object) -> Call:
    """Texts with labels are read."""
    return lambda folder: read_texts(drift_runs.written(folder, [*rows]))


def drift(rows: object = drift_runs.ROWS, **options: Any) -> Call:
    """Texts with years are split into older and newer ones."""
    return lambda folder: read_label_drift(drift_runs.written(folder, rows), **options)


def editor(name: str, **settings: Any) -> Row:
    config = find_method(name).config_class.preset("default", settings, method=name)
    return (lambda _: check_editor(name, config), ConfigError, "more than the class of a text")


def label_of_no_older_text(folder: Path) -> object:
    rows = [*drift_runs.ROWS, {"text": "x", "label": 7, "year": 2010}]
    return drift_runs.points("grace", read_label_drift(drift_runs.written(folder, rows), since=2000), folder)


def label_of_the_test_alone(_: Path) -> object:
    known, rare = (LabelledText(id=label, text="a text", label=label) for label in ("known", "rare"))
    check_labels(LabelDrift(train=(known,), test=(rare,), stream=(rare,)), {"known"})
    return None


def broken_classifier(_: Path) -> object:
    model = train_classifier(copy.deepcopy(tiny("llama")), drifting.TEXTS, drifting.LABELS)
    model.down_projection(0).weight.data.fill_(torch.nan)
    return model.classes(drifting.TEXTS)


def target_of_no_class(_: Path) -> object:
    return train_classifier(tiny("llama"), drifting.TEXTS, drifting.LABELS).encode(drifting.TEXTS[0], target="Bulls")


DRIFTS: dict[str, Row] = {
    "no label": (labelled({"text": "a"}), EditFileError, "record 1, field label"),
    "blank text": (labelled({"text": " ", "label": 1}), EditFileError, "record 1, field text"),
    "number as a row": (labelled({"text": "a", "label": 1}, 3), EditFileError, "record 2, expected an object"),
    "label of two lines": (labelled({"text": "a", "label": "b\nc"}), EditFileError, "has a line break"),
    "no texts": (labelled(), EditFileError, "has no texts"),
    "id twice": (labelled(*[{"id": "x", "text": "a", "label": 1}] * 2), EditFileError, "two texts have the id 'x'"),
    "text that is an id": (
        labelled({"text": "a", "label": 1}, {"text": "Q5", "label": 1}),
        EditFileError,
        "record 2, field text: 'Q5' is a Wikidata id",
    ),
    "label that is an id": (
        labelled({"text": "a", "label": 1}, {"text": "b", "label": "Q5"}),
        EditFileError,
        "record 2, field label: 'Q5' is a Wikidata id",
    ),
    "no newer texts": (drift(), ConfigError, "newer texts (--stream), or their first year (--since)"),
    "year after all texts": (drift(since=2050), ConfigError, "found 11 older and 0 newer texts"),
    "texts without years": (drift([{"text": "a", "label": 0}], since=2000), ConfigError, "has no year"),
    "table": (
        lambda folder: read_label_drift(put(folder, "a.csv", "text,label\nLeBron,1\n"), since=2000),
        EditFileError,
        "is a table; expected JSON or JSON lines",
    ),
    "label of no older text": (label_of_no_older_text, ConfigError, "the labels 7 are in no older text"),
    "label of the test alone": (label_of_the_test_alone, ConfigError, "only in older texts that test"),
    "method that needs a vocabulary": editor("rome"),
    "loss that needs a vocabulary": editor("ft"),
    "aim that needs a vocabulary": editor("lora", aim="text"),
    "target of no class": (target_of_no_class, PromptError, "expected one of Heat, Lakers"),
    "one class": (
        lambda _: train_classifier(tiny("llama"), drifting.TEXTS[:1], ["Heat"]),
        ConfigError,
        "at least two classes; found Heat",
    ),
    "classifier that computes no number": (broken_classifier, ModelError, "the classifier's output is not finite"),
}


def words(text: str) -> Call:
    """Own words of Ripples' questions are read."""
    return lambda folder: RippleWords.load(put(folder, "words.toml", text))


def builder(folder: Path) -> Builder:
    return Builder(model=tiny("llama"), table=table_of(folder), folder=folder / "known")


RIPPLES: dict[str, Row] = {
    "misspelt key": (words("askd = []"), ConfigError, "askd"),
    "nouns that are a number": (words("nouns = 3"), ConfigError, "field nouns: found the number 3"),
    "relation without a noun": (words('asked = ["P734"]'), ConfigError, "field asked: P734 has no noun"),
    "words that are no TOML": (words("asked = ["), ConfigError, "not TOML"),
    "edit without an id": (
        lambda folder: builder(folder).build_for([MINE.model_copy(update={"target_new_id": None})]),
        ConfigError,
        "no edit has relation_id and target_new_id",
    ),
    "target of another graph": (
        lambda folder: builder(folder).build_for([MINE.model_copy(update={"target_new_id": "Q77777"})]),
        ConfigError,
        "no label for any edit's target_new_id",
    ),
    "model that knows nothing": (
        lambda folder: builder(folder).build(["P17"], n=3),
        ConfigError,
        "the model knows nothing about any o*",
    ),
    "unknown relation": (
        lambda folder: builder(folder).build(["P99999"], n=3),
        ConfigError,
        "relation P99999 has no noun or no template",
    ),
    "unknown relation to train on": (
        lambda folder: training_edits(table_of(folder), ["P9999"], n=1, seed=0, excluded=Excluded()),
        ConfigError,
        "relation P9999 has no noun or no template",
    ),
}


def sweep(text: str) -> Call:
    return lambda folder: cells_of(read_sweep(put(folder, "sweep.toml", text)))


GRID = "[grid]\nlayer = [1]"
SWEEPS: dict[str, Row] = {
    "misspelt key": (sweep("grid = {layer = [1]}\nmethd = 'rome'"), ConfigError, "did you mean 'method'"),
    "misspelt key of the data": (sweep(f"[data]\nfiel = 'x'\n{GRID}"), ConfigError, "did you mean 'file'"),
    "no grid": (sweep("method = 'rome'"), ConfigError, "grid: is missing"),
    "axis without a value": (sweep("[grid]\nlayer = []"), ConfigError, "no value"),
    "value twice": (sweep("[grid]\nlayer = [1, 1]"), ConfigError, "twice"),
    "value twice, once as text": (sweep("[grid]\nlayer = [1, '1']"), ConfigError, "twice"),
    "axis twice": (
        sweep("[grid]\n'covariance.seed' = [1]\ncovariance.seed = [2]"),
        ConfigError,
        "covariance.seed is given twice; keep one",
    ),
    "axis that is no list": (sweep("[grid]\nlayer = 3"), ConfigError, "a list"),
    "file that is no TOML": (sweep("[grid"), ConfigError, "not valid TOML"),
    "file that is not there": (lambda folder: read_sweep(folder / "absent.toml"), ConfigError, "--example"),
    "misspelt metric": (sweep(f"metrics = ['efficacy.pro']\n{GRID}"), UnknownNameError, "did you mean 'efficacy.prob'"),
    "metric of a sequence": (sweep(f"metrics = ['retention.TRR']\n{GRID}"), ConfigError, "no cell of a sweep has ret"),
    "metric of an extra": (
        sweep(f"metrics = ['fluency.ngram_entropy']\n{GRID}"),
        ConfigError,
        "no cell of a sweep has fluency.ngram_entropy",
    ),
    "misspelt axis": (sweep("method = 'rome'\n[grid]\nlayr = [1]"), UnknownNameError, "did you mean 'layer'"),
    "misspelt method": (sweep("[grid]\nmethod = ['roem']"), UnknownNameError, "did you mean 'rome'"),
    "misspelt preset": (sweep("method = 'rome'\n[grid]\npreset = ['papr']"), UnknownNameError, "did you mean 'paper'"),
    "impossible value": (sweep("method = 'rome'\n[grid]\nsteps = [0]"), ConfigError, "steps"),
    "axis that is a setting too": (
        sweep(f"method = 'rome'\n{GRID}\n[settings]\nlayer = 3"),
        ConfigError,
        "keep one",
    ),
    "axis below a setting": (
        sweep("method = 'rome'\n[grid]\ncovariance.tokens = [1, 2]\n[settings]\ncovariance = 'self'"),
        ConfigError,
        "[settings] sets covariance as a whole; keep one",
    ),
    "axis below an axis": (
        sweep("method = 'rome'\n[grid]\nlayer = [1]\n'layer.x' = [2]"),
        ConfigError,
        "layer and layer.x are both axes",
    ),
}


def known(*rows: object) -> Call:
    """A list of known facts is read."""
    return lambda folder: read_known(test_fact.written(folder, *rows))


def traced(facts: Sequence[TracedFact] = FACTS, *, model: str = "llama", **settings: Any) -> Call:
    """Facts are traced; a mistake leaves no folder."""

    def call(folder: Path) -> object:
        try:
            return locate(tiny(model), facts, SETTINGS.model_copy(update=settings), out=folder / "run", progress=False)
        finally:
            assert not [*(folder / "run").glob("records.jsonl")]

    return call


def traced_again(folder: Path) -> object:
    locate(tiny("llama"), FACTS[:1], SETTINGS, out=folder, progress=False)
    return locate(tiny("llama"), FACTS[:1], TraceSettings(samples=3), out=folder, progress=False)


def traced_at_once(folder: Path) -> object:
    with folder_lock(folder):
        return locate(tiny("llama"), FACTS[:1], SETTINGS, out=folder, progress=False)


def traced_fact(*, fact: dict[str, Any], **settings: Any) -> Call:
    return lambda _: trace(
        tiny("llama"), test_trace.FACT.model_copy(update=fact), TraceSettings(samples=2, **settings), level=1.0
    )


def attention_by_another_name(_: Path) -> object:
    model = tiny("llama")
    spec = replace(model.spec, attention="attn")
    return find_site(replace(model, spec=spec), "attention", 0)


def chosen_layer(config: MethodConfig, edits: Sequence[Edit] = EDITS[:1]) -> Call:
    return lambda _: choose_layer(lambda _: pytest.fail("a method was made"), tiny("llama"), config, edits)


FACT = test_fact.ROW
TRACES: dict[str, Row] = {
    "no rows": (known(), EditFileError, "found no rows; expected one known fact in each row"),
    "row that is a list": (known(FACT, ["x"]), EditFileError, "known.json, record 2, found a list"),
    "number as a subject": (known(FACT, {**FACT, "subject": 7}), EditFileError, "record 2, field subject: found the"),
    "prompt without its subject": (
        known(FACT, {**FACT, "prompt": "It is owned by"}),
        EditFileError,
        "does not contain the subject",
    ),
    "misspelt field": (known(FACT, {**FACT, "atribute": "x"}), EditFileError, "did you mean 'attribute'"),
    "table": (
        lambda folder: read_known(put(folder, "known.csv", "subject,prompt,attribute\nBerlin,Berlin is in,Germany\n")),
        EditFileError,
        "expected .json or .jsonl, with rows of subject, prompt, attribute",
    ),
    "edit without a subject": (
        lambda _: facts_of([Edit(id="ada", prompt="What did Ada do?", target_text="Ada wrote notes.")]),
        EditError,
        "edit 'ada' has no subject",
    ),
    "folder of another run": (traced_again, AnotherRunError, "contains another run"),
    "folder of another process": (traced_at_once, OutputError, "another process works on"),
    "model without the sites": (
        traced(model="lfm2", kind="attention"),
        UnsupportedModelError,
        "trace --kind mlp or hidden",
    ),
    "id twice": (traced([*FACTS[:2], FACTS[0]]), ConfigError, "facts 1 and 3 have the same id 'a'"),
    "window of more layers": (traced(window=9), ConfigError, "make it smaller"),
    "fact without an answer": (
        traced_fact(answer="true", fact={"answer": None}),
        ConfigError,
        "has no answer to trace",
    ),
    "fact without a subject": (traced_fact(fact={"subject": ""}), PromptError, ""),
    "prompt without a subject": (
        lambda _: subject_tokens(encode(tiny("llama").tokenizer, "no subject")),
        PromptError,
        "without a subject",
    ),
    "attention by another name": (
        attention_by_another_name,
        UnsupportedModelError,
        "model.layers.0.attn; give its path",
    ),
    "no samples": (lambda _: TraceSettings(samples=0), ValidationError, "greater than 0"),
    "no window": (lambda _: TraceSettings(window=0), ValidationError, "greater than 0"),
    # The layer that is chosen by trying
    "method without a layer": (chosen_layer(MethodConfig()), ConfigError, "no setting layer"),
    **{
        f"layers of {name}": (
            chosen_layer(find_method(name).config_class()),
            ConfigError,
            "this method changes none; give --layer N",
        )
        for name in ("grace", "memoir", "t-patcher")
    },
    "layer that is set": (chosen_layer(RomeConfig(layer=0)), ConfigError, "layer is set twice: to 0 and to auto"),
    "layer without edits": (chosen_layer(RomeConfig(), ()), ConfigError, "there are no edits for trying layers"),
}


@refusals(
    {
        f"{group}: {mistake}": row
        for group, rows in {
            "run": RUNS,
            "setting": SETTINGS_OF_RUNS,
            "comparison": COMPARISONS,
            "tasks": TASK_SETS,
            "drift": DRIFTS,
            "ripples": RIPPLES,
            "sweep": SWEEPS,
            "trace": TRACES,
        }.items()
        for mistake, row in rows.items()
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
