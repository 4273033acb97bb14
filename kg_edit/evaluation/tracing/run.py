"""The work of `kg-edit locate`: trace facts and write a folder with traces, averages and heat maps; resumable."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from kg_common.json_text import digest
from kg_common.progress import Bar
from kg_common.terminal import number_of
from kg_edit.edits.edit import refuse_same_ids
from kg_edit.errors import ConfigError, KgEditError, UnsupportedModelError
from kg_edit.evaluation.settings import tokenizer_digest
from kg_edit.evaluation.tracing.corrupted_run import FACTOR, noise_level
from kg_edit.evaluation.tracing.summary import LocateSummary, draw_summary, draw_trace
from kg_edit.evaluation.tracing.trace import Trace, TracedFact, TraceSettings, is_known, prompt_of, trace
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines, write_json
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_differences import Settings
from kg_edit.storage.run_folder import claim
from kg_edit.version import __version__

RECORDS = "records.jsonl"
SUMMARY = "summary.json"
PICTURE = "heatmap.svg"
_OWN_PICTURES = 8  # the first facts get a heat map of their own


class Entry(BaseModel):
    """A line of ``records.jsonl``: a fact's trace, or why there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    id: str
    trace: Trace | None = None
    unknown: bool = False  # the model predicts something else, so there is nothing to trace
    error: str | None = None


def locate(
    model: LanguageModel,
    facts: Sequence[TracedFact],
    settings: TraceSettings | None = None,
    *,
    out: Path,
    known_only: bool = False,
    progress: bool = True,
) -> LocateSummary:
    """Trace ``facts`` and write ``out``: run.json, records.jsonl (one line for each fact), summary.json, heat maps.

    If it is started again with the same settings, it continues where it stopped. A fact that can't be traced is
    recorded and counted.

    Args:
        model: the model; it is not changed.
        facts: the facts to trace; the noise level is measured on all their subjects.
        settings: the sites to restore, and the noise.
        out: the folder of the run.
        known_only: leave out facts whose answer does not begin with the model's own next token.
        progress: show a progress bar on stderr.
    """
    settings = settings or TraceSettings()
    refuse_same_ids("facts", (fact.id for fact in facts))
    layers = len(model.blocks)
    if settings.window is not None and settings.window > layers:
        raise ConfigError(f"the window has {settings.window} layers, but {model.name} has {layers}; make it smaller")
    # Found before an earlier run is replaced (--overwrite)
    if settings.answer == "true" and all(fact.answer is None for fact in facts):
        raise ConfigError(
            "no fact has an answer to trace; give the edits a target_true, or trace the model's own next token with "
            "--answer predicted"
        )
    decides = _write_settings(model, facts, settings, known_only=known_only)
    with suppress(OSError):  # `claim` then raises the error with its reason
        out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        claim(out, decides)
        drop_cut_line(out / RECORDS)
        done = {entry.id: entry for entry in read_lines(out / RECORDS, Entry)}
        remaining = [fact for fact in facts if fact.id not in done]
        level = 0.0
        if remaining:
            level = _measure_noise_level(model, facts)
        with Bar(title="tracing", unit="fact", total=len(facts), done=len(done), shown=progress) as bar:
            for fact in remaining:
                entry = _trace_fact(model, fact, settings, level=level, known_only=known_only, bar=bar)
                done[fact.id] = entry
                append_lines(out / RECORDS, [entry.model_dump_json(exclude_none=True)])
                bar.update()
        entries = [done[fact.id] for fact in facts]
        return _summarise(entries, out, model=model, seed=settings.seed)


def _write_settings(
    model: LanguageModel, facts: Sequence[TracedFact], settings: TraceSettings, *, known_only: bool
) -> Settings:
    """Return the content of run.json: everything that decides the traces."""
    return {
        "job": "locate",
        "model": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
        "tokenizer_sha256": tokenizer_digest(model),
        "trace": settings.model_dump(mode="json"),
        "noise_factor": FACTOR,
        "known_only": known_only,
        "facts": len(facts),
        "facts_sha256": digest([fact.model_dump(mode="json") for fact in facts]),
        "kg_edit": __version__,
    }


def _measure_noise_level(model: LanguageModel, facts: Sequence[TracedFact]) -> float:
    """Return the level of the noise, which is one for all facts.

    A fact whose subject can't be found is left out here; it fails later, when it is traced.
    """
    prompts = list[Prompt]()
    for fact in facts:
        with suppress(KgEditError):
            prompts.append(prompt_of(model, fact))
    return noise_level(model, prompts) if prompts else 0.0


def _trace_fact(
    model: LanguageModel, fact: TracedFact, settings: TraceSettings, *, level: float, known_only: bool, bar: Bar
) -> Entry:
    """Trace a fact, or say why it can't be traced."""
    try:
        if known_only and is_known(model, fact) is False:  # None: it has no answer, and is traced
            return Entry(id=fact.id, unknown=True)
        return Entry(id=fact.id, trace=trace(model, fact, settings, level=level, note=bar.note))
    except UnsupportedModelError:  # true of every fact
        raise
    except KgEditError as error:
        return Entry(id=fact.id, error=f"{type(error).__name__}: {error}")


def _summarise(entries: Sequence[Entry], out: Path, *, model: LanguageModel, seed: int) -> LocateSummary:
    """Write the summary and the heat maps of a run's facts."""
    failed = {entry.id: entry.error for entry in entries if entry.error is not None}
    unknown = [entry.id for entry in entries if entry.unknown]
    traces = [entry.trace for entry in entries if entry.trace is not None]
    if not traces:
        (out / RECORDS).unlink(missing_ok=True)  # the folder is then free for other facts
        reason = "the model knows none of them"
        if failed:
            reason, *_ = failed.values()
        raise ConfigError(
            f"none of {number_of(len(entries), 'fact')} could be traced: {reason}; give other facts, or more"
        )
    summary = LocateSummary.of(traces, failed=failed, unknown=unknown, seed=seed)
    write_json(out / SUMMARY, summary.model_dump(mode="json"))
    draw_summary(summary, out / PICTURE, model=model.name)
    for number, traced in enumerate(traces[:_OWN_PICTURES]):
        draw_trace(traced, out / f"heatmap-{number:02d}.svg")
    return summary
