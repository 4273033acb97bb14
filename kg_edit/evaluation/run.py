"""Run an evaluation: edit the records of a data set by a method, and score the model before, during and after.

The records form sequences (`kg_edit.evaluation.schedule`); the edits of one sequence accumulate in the model. For each
step of a sequence, a patch is computed, applied and scored, and a line is appended for each record. A run that was
stopped reads its lines first, and does what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from kg_common.json_text import digest
from kg_common.progress import Bar
from kg_common.terminal import number_of
from kg_edit.edits.edit import Edit, refuse_same_ids
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import AnotherRunError, ConfigError, unmade_method
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import Records, as_records
from kg_edit.evaluation.finish import finish
from kg_edit.evaluation.records import EDIT, RunFolder, make_items, read_progress
from kg_edit.evaluation.scorer import UneditedScores
from kg_edit.evaluation.sequences import RecordSequence, SequenceRun
from kg_edit.evaluation.settings import (
    DataSource,
    environment,
    note_environment,
    read_environments,
    record_settings,
    run_settings,
)
from kg_edit.evaluation.step import Method
from kg_edit.evaluation.summary import Summary
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.scoring.questions import Normalised, collect_answers
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_differences import Settings, describe_difference, describe_other_rows
from kg_edit.storage.run_folder import claim, is_run, read_settings
from kg_edit.version import code_sha256

log = logging.getLogger(__name__)


def evaluate(
    method: Method,
    model: LanguageModel | str | Path,
    records: Records,
    *,
    out: str | Path,
    config: EvalConfig | None = None,
    pool: Sequence[Edit | BenchmarkRecord] | None = None,
    data: DataSource | None = None,
) -> Summary:
    """Make the records' edits on ``model``, and score them before and after.

    Writes ``run.json`` (the settings), ``records.jsonl`` (a line for each phase of each record, see `Entry`: every
    score and its evidence), ``general.jsonl`` (the same for general ability), ``environments.jsonl``, the patches of
    sequences and ``summary.json``. If it is started again with the same settings, it resumes, also after ``kill -9``.
    It also resumes if more records were added after the same first ones, of the same ``pool``. A record that fails is
    recorded and counted; its edit leaves the model unchanged.

    Args:
        method: computes the patches, for this ``model``.
        model: the model or its name, asked in evaluation mode; it is the same before and after.
        records: the records to edit and to ask: of a benchmark, edits, rows of their fields, or the path of a file.
        out: the folder of the run.
        config: what is measured, and when; by default each edit alone.
        pool: the records that give the wrong answers of portability.choice; by default ``records``.
        data: the source of the records, for the provenance.

    Returns:
        The means and intervals that ``summary.json`` has.

    Raises:
        ConfigError: two records have the same id, or the method is not made for a model, or for another one.
        ChatTemplateError: an edit is made or asked in chat form, and the tokenizer has no chat template.
        KgEditError: there is no such model, a record can't be read, or the unedited model's general ability can't be
            measured.
        OutputError: ``out`` holds a run with other settings or by other code, can't be written, or another process
            works on it.
    """
    if isinstance(method, str | type):
        raise unmade_method(method)
    config = config or EvalConfig()
    out = Path(out)
    model = as_model(model)
    all_records = as_records(records)
    _refuse_another_model(method, model)
    refuse_same_ids("records", (record.id for record in all_records))
    if pool is None:
        pool = all_records
    choices = collect_answers(pool)
    settings = run_settings(method, model, all_records, config, pool=tuple(choices.values()), data=data)
    if config.retention:
        asked_model = model.in_chat() if config.chat else model
        config.retention.check(asked_model)
    extended = _find_extended_run(out, settings, model, all_records, config)
    with suppress(OSError):  # `claim` then raises the error with its reason
        out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out), keep_untouched(model):
        claim(out, settings, extended=extended, describe_rows=partial(_describe_other_records, out, all_records))
        run = _resume(method, model, config, settings, out)
        _advance_all(run, _split(all_records, choices, config, model), data)
        return finish(out)


def _resume(method: Method, model: LanguageModel, config: EvalConfig, settings: Settings, out: Path) -> SequenceRun:
    """Return the run as its earlier starts have left it; refuse or warn of what they did otherwise."""
    folder = RunFolder(out)
    folder.drop_cut_lines()
    if config.retry_failed:
        folder.drop_failed()
    done, points = read_progress(folder)
    run = SequenceRun(method, model, config, folder, UneditedScores(model, settings), done, points)
    _warn_of_earlier_errors(run)
    if done and not config.other_code:
        _refuse_other_code(out)
    _warn_of_another_plug_in(run)
    return run


def _refuse_another_model(method: Method, model: LanguageModel) -> None:
    """Refuse a method that is made for another model: every edit would be made, and none could be applied."""
    own = getattr(method, "model", model)
    if own.fingerprint == model.fingerprint:
        return
    if own.name == model.name:
        difference_in_words = "to which a patch was merged, or which was trained"
    else:
        difference_in_words = f"not for {model.name!r}"
    raise ConfigError(f"{method.name} is made for {own.name!r}, {difference_in_words}; make it for this model")


def _warn_of_earlier_errors(run: SequenceRun) -> None:
    """Say how many records failed in an earlier start: their errors stay."""
    failed = {name for (name, _), error in run.done.items() if error is not None}
    if failed:
        what = number_of(len(failed), "record")
        words = "%s: the errors of %s are from an earlier run; --retry-failed computes them again"
        log.warning(words, run.folder.path, what)


def _warn_of_another_plug_in(run: SequenceRun) -> None:
    """Say that recorded edits were made with other code of the method's plug-in, if some were."""
    plug_in = getattr(run.method, "plug_in", None)
    edited = {name for name, phase in run.done if phase == EDIT}
    if not plug_in or not edited:
        return
    earlier = [used.get("plug_in") for used in read_environments(run.folder.path)]
    if all(used == plug_in for used in earlier):
        return
    affected = number_of(len(edited), "record")
    if plug_in in earlier:
        affected = "some records"
    words = "%s: %s were made with other code of the package %s; another --out makes all anew"
    log.warning(words, run.folder.path, affected, plug_in["package"])


def _split(
    records: Sequence[BenchmarkRecord], choices: Mapping[Normalised, str], config: EvalConfig, model: LanguageModel
) -> Sequence[RecordSequence]:
    """Return the sequences of this run or shard.

    A sequence is never split between shards, because its edits share one model.
    """
    size = config.plan.schedule.sequence
    sequences = []
    for number, start in enumerate(range(0, len(records), size)):
        part = make_items(records[start : start + size], choices, config, model=model)
        sequences.append(RecordSequence(number, part))
    return config.part.deal(sequences)


def _advance_all(run: SequenceRun, sequences: Sequence[RecordSequence], data: DataSource | None) -> None:
    """Do what is missing of the sequences, in groups as large as `SequenceRun.choose_group_size` allows."""
    out = run.folder.path
    todo = [sequence for sequence in sequences if not run.is_done(sequence)]
    if todo:
        run.method.prepare()
        note_environment(out, environment(run.method, run.model, data))
    total = _count_records(sequences)
    done = total - _count_records(todo)
    if 0 < done < total:
        log.info("%s has %d of %d records; the others follow", out, done, total)

    is_single = run.config.plan.schedule.sequence == 1
    with Bar(title=run.method.name, unit="record", total=total, done=done) as bar:
        start = 0  # the first of `todo` that is not advanced yet
        asked = 0  # the first of `todo` that the unedited model was not asked about
        largest = 0  # bytes of the largest patch so far
        while start < len(todo):
            end = min(start + run.choose_group_size(start, largest), len(todo))
            # A pass of the unedited model takes more records at once than a small group has, so it is asked ahead.
            if is_single and asked < end:
                asked = start + run.most_together
                run.ask_unedited([sequence.items[0] for sequence in todo[start:asked]])
            largest = max(largest, run.advance(todo[start:end], bar))
            start = end


def _count_records(sequences: Sequence[RecordSequence]) -> int:
    """Return the number of records of all sequences."""
    return sum(len(sequence.items) for sequence in sequences)


def _refuse_other_code(out: Path) -> None:
    """Refuse to continue a run that other code of kg-edit computed: one mean would mix both."""
    earlier = {used.get("code_sha256") for used in read_environments(out)}
    if earlier - {code_sha256()}:
        raise AnotherRunError(
            f"{out} has records of other code of kg-edit (--other-code, in Python other_code=True, continues it)",
            "give another --out to make all anew",
        )


def _find_extended_run(
    out: Path, settings: Settings, model: LanguageModel, records: Sequence[BenchmarkRecord], config: EvalConfig
) -> Settings | None:
    """Return the settings of the run in ``out``, if this run extends it: the same run on the first of these records.

    None if the results of the earlier records could change: for shards, and if the last sequence was not full.
    """
    if config.shard or not is_run(out):
        return None
    stored = read_settings(out)
    ids = stored.get("ids", [])
    if not isinstance(ids, list) or not 0 < len(ids) < len(records):
        return None
    last_is_full = len(ids) % config.plan.schedule.sequence == 0
    first_records = records[: len(ids)]
    if not last_is_full or [record.id for record in first_records] != ids:
        return None
    of_records = record_settings(model, records, chat=config.chat).keys()
    others = {name: value for name, value in settings.items() if name not in of_records}
    expected = {**others, **record_settings(model, first_records, chat=config.chat)}
    if describe_difference(stored, expected) is not None:
        return None
    return stored


def _describe_other_records(out: Path, records: Sequence[BenchmarkRecord]) -> str:
    """Say how the records of the run in ``out`` differ from ``records``."""
    new = dict[str, dict[str, str]]()
    for record in records:
        new[record.id] = {"record_sha256": digest(record.model_dump(mode="json"))}
    recorded = {entry.id: {"record_sha256": entry.sha256} for entry in RunFolder(out).entries()}
    stored = dict[str, dict[str, str]]()
    for name in read_settings(out)["ids"]:
        # A record of the same id that has no line yet counts as equal.
        stored[name] = recorded.get(name) or new.get(name, {})
    return describe_other_rows("records", stored, new, counts=(len(stored), len(new)))
