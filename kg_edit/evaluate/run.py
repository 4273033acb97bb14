"""Run an evaluation: make the edits of a data set by a method, and score the model before, during and after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from kg_edit.datasets.record import BenchmarkRecord, as_record
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.evaluate.finish import cut, finish
from kg_edit.evaluate.general_tasks import GeneralTasks
from kg_edit.evaluate.groups import in_groups
from kg_edit.evaluate.metrics.catalogue import find_extras
from kg_edit.evaluate.records import RunFolder, found_in, items
from kg_edit.evaluate.retention import RetentionTest
from kg_edit.evaluate.schedule import WHOLE, CurvePlan, Schedule, Shard
from kg_edit.evaluate.scorer import UneditedScores
from kg_edit.evaluate.sequence import Job, SequenceRun
from kg_edit.evaluate.settings import (
    DataSource,
    Method,
    RunOptions,
    environment,
    note_environment,
    record_settings,
    run_settings,
)
from kg_edit.evaluate.summary import Summary
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.questions import Form, answers
from kg_edit.storage.run_folder import (
    Settings,
    by_content,
    claim,
    difference,
    folder_lock,
    is_run,
    read_settings,
)


def evaluate(
    method: Method,
    model: LanguageModel,
    records: Sequence[Edit | BenchmarkRecord],
    *,
    out: Path,
    pool: Sequence[Edit | BenchmarkRecord] | None = None,
    schedule: str = "single",
    every: int | None = None,
    sample: int | None = None,
    general: str | None = None,
    tasks: GeneralTasks | None = None,
    retention: RetentionTest | None = None,
    shard: Shard = WHOLE,
    data: DataSource | None = None,
    cache: Path | None = None,
    ceilings: bool = False,
    extras: Sequence[str] = (),
    chat: bool | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Summary:
    """Make the records' edits on ``model`` as ``schedule`` says, and score them before and after.

    Writes ``run.json`` (the settings), ``records.jsonl`` (a line for each phase of each record, see `Entry`: every
    score and its evidence), ``general.jsonl`` (the same for general ability), ``environments.jsonl``, the patches of
    sequences and ``summary.json``. If it is started again with the same settings, it continues where it stopped, also
    after ``kill -9``. It also continues if more records were added after the same first ones. A record that fails is
    recorded and counted; its edit leaves the model unchanged.

    Args:
        method: computes the patches, for this ``model``.
        model: the model, asked in evaluation mode; it is the same before and after.
        records: the records to edit and to ask.
        out: the folder of the run.
        pool: the records that give the wrong answers of portability.choice; by default ``records``.
        schedule: single, batch:N, sequential:N or batch:B,sequential:N, counted in records; see `Schedule`.
        every: the number of edits between two points of the curve, if edits accumulate; by default about ten points.
        sample: score only at the points of the curve, and there at most so many records, evenly spread over those
            edited so far; by default each record is scored after its own step and at the end.
        general: a text; the model's perplexity on it is measured at each point of the curve.
        tasks: tasks of lm-eval; the model is asked them at each point of the curve.
        retention: unrelated prompts; GRACE's retention rates are measured at each point of the curve.
        shard: the part of the run to do here; see `merge`.
        data: the source of the records, for the provenance.
        cache: the folder for scores of unedited models; by default a folder in the user's cache.
        ceilings: also score the portability questions with the facts told in the prompt.
        extras: the names of costly metrics to score as well; see `EXTRAS`.
        chat: ask every prompt as a user's turn, or none; by default in the form in which a record's edits are made.
        seed: the seed of the choices and of the bootstrap.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: two records have the same id; the schedule or ``every`` is not possible; an extra needs a package
            that is not installed.
        UnknownNameError: there is no such schedule, or extra metric.
        ChatTemplateError: an edit is made or asked in chat form, and the tokenizer has no chat template.
        OutputError: ``out`` holds a run with other settings, can't be written, or another process works on it.
    """
    options = RunOptions(
        plan=check_schedule(schedule, every, sample=sample),
        shard=shard,
        general=general,
        tasks=tasks,
        retention=retention,
        data=data,
        ceilings=ceilings,
        extras=find_extras(extras),
        chat=chat,
        seed=seed,
    )
    all_records = _distinct(records)
    known = answers(all_records if pool is None else pool)
    settings = run_settings(method, model, all_records, tuple(known.values()), options)
    if retention:
        retention.check(model.in_chat() if chat else model)
    of_records = partial(record_settings, model, chat=chat)
    claim(out, settings, grown=grown_from(out, settings, all_records, options.plan, of=of_records))
    with folder_lock(out), untouched(model):
        job = _job(method, model, RunFolder(out), options, UneditedScores(settings, folder=cache))
        _run(job, _sequences(job, all_records, known), progress=progress)
        return finish(out)


def grown_from(
    out: Path,
    settings: Settings,
    records: Sequence[BenchmarkRecord],
    plan: CurvePlan,
    *,
    of: Callable[[Sequence[BenchmarkRecord]], Settings],
) -> Settings | None:
    """The settings of the run in ``out``, if this run extends it: the same run whose records are the first ones of
    this. ``of``: the settings that depend on the records.

    None if the results of the earlier records could change: for shards, and if the last sequence was not full.
    """
    if "shard" in settings or not is_run(out):
        return None
    there = read_settings(out)
    ids = there.get("ids", [])
    known = isinstance(ids, list) and 0 < len(ids) < len(records) and len(ids) % plan.schedule.sequence == 0
    if not known or [record.id for record in records[: len(ids)]] != ids:
        return None
    fixed = {name: settings[name] for name in settings.keys() - of(records).keys()}
    first = {**fixed, **of(records[: len(ids)])}
    return there if difference(by_content(there), by_content(first)) is None else None


def _job(method: Method, model: LanguageModel, folder: RunFolder, options: RunOptions, unedited: UneditedScores) -> Job:
    """The job of a run, with the phases and points that are already done."""
    folder.drop_cut_lines()
    done, points = found_in(folder)
    return Job(method=method, model=model, folder=folder, options=options, unedited=unedited, done=done, points=points)


def _sequences(job: Job, records: Sequence[BenchmarkRecord], known: Mapping[Form, str]) -> list[SequenceRun]:
    """The sequences of this shard; ``known`` are the answers that wrong choices are drawn from."""
    options, parts = job.options, list(enumerate(cut(records, job.options.plan.schedule.sequence)))
    return [
        SequenceRun(
            job=job,
            number=number,
            items=items(part, known, seed=options.seed, extras=options.extras, chat=options.chat),
        )
        for number, part in options.shard.deal(parts)
    ]


def _run(job: Job, runs: Sequence[SequenceRun], *, progress: bool) -> None:
    left = [run for run in runs if not run.is_done]
    total, rest = (sum(len(run.items) for run in some) for some in (runs, left))
    if left:
        job.method.prepare()
        note_environment(job.folder.path, environment(job.method, job.model, job.options.data))
    with tqdm(desc=job.method.name, initial=total - rest, total=total, disable=None if progress else True) as bar:

        def begin(first: int, count: int) -> None:
            bar.set_postfix_str(f"records {total - rest + first + 1} to {total - rest + first + count}")

        alone = job.options.plan.schedule.sequence == 1
        for run in in_groups(job, left, begin) if alone else left:
            run.run(bar.update)


def check_schedule(schedule: str, every: int | None = None, *, sample: int | None = None) -> CurvePlan:
    """Parse a schedule and return its plan: a point of the curve after every ``every`` edits, ``sample`` records there.

    Raises:
        UnknownNameError: there is no such schedule.
        ConfigError: a number in it is not possible, or ``every`` or ``sample`` makes no sense under it.
    """
    found = Schedule.parse(schedule)
    for what, number in ((f"evaluate every {every} edits", every), (f"score a sample of {sample} records", sample)):
        if number is not None and (number < 1 or not found.has_steps):
            raise ConfigError(
                f"{what} under the schedule {found}: expected a number of at least 1, and a schedule under which "
                "edits accumulate, such as sequential:100"
            )
    return CurvePlan.of(found, every, sample=sample)


def _distinct(records: Sequence[Edit | BenchmarkRecord]) -> tuple[BenchmarkRecord, ...]:
    found = tuple(map(as_record, records))
    if len({record.id for record in found}) < len(found):
        raise ConfigError("two records have the same id, so they can't be told apart; give each its own")
    return found
