"""Score a method on a data set, one edit at a time: before, after, and with the facts told in the prompt instead."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from pydantic import BaseModel
from tqdm import tqdm

import kg_edit
from kg_edit.edits import Edit
from kg_edit.errors import KgEditError
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.metrics import METRICS
from kg_edit.evaluate.questions import SHOTS, answers, choices
from kg_edit.evaluate.records import RunFolder, RunRecord
from kg_edit.evaluate.scorer import ANSWER_TOKENS, ceiling_cases, score_cases
from kg_edit.evaluate.summary import SECTIONS, Summary, summarise
from kg_edit.language_model import LanguageModel
from kg_edit.patch import Patch

_PROTOCOL = 1  # raise it when a metric changes: runs of different protocols are not comparable


class Method(Protocol):
    """What computes patches: a name, its settings, and edits to a patch."""

    @property
    def name(self) -> str:
        """What the method is called in results."""

    @property
    def config(self) -> BaseModel:
        """All its settings."""

    def edit(self, edits: Sequence[Edit]) -> Patch:
        """The patch that makes ``edits``; leaves the model as it is."""


def evaluate(
    method: Method,
    model: LanguageModel,
    edits: Sequence[Edit],
    *,
    out: Path,
    pool: Sequence[Edit] | None = None,
    ceilings: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Summary:
    """Make each edit alone on ``model``, and score it before and after (schedule "single").

    Writes ``run.json`` (the settings), ``records.jsonl`` (a line a record: every score and what decided it) and
    ``summary.json``. Started again with the same settings it goes on where it was; an edit that fails is recorded and
    counted, and left out of all means.

    Args:
        method: what computes the patches, for this ``model``.
        model: the model, the same before and after.
        edits: the records.
        out: the folder of the run.
        pool: the records whose answers stand beside the right one in portability.choice; by default ``edits``.
        ceilings: also score the portability questions with the facts told in the prompt.
        seed: of the choices and of the bootstrap.
        progress: show a progress bar on stderr.

    Raises:
        OutputError: ``out`` holds a run with other settings, or can't be written.
    """
    folder, records = RunFolder(out), answers(edits if pool is None else pool)
    settings = _settings(method, model, edits, list(records.values()), ceilings=ceilings, seed=seed)
    folder.start(settings)
    done = {record.id for record in folder.read()}
    left = [edit for edit in edits if edit.id not in done]
    for edit in tqdm(left, desc=method.name, initial=len(done), total=len(edits), disable=not progress):
        case = Case(edit=edit, choices=choices(edit, records, seed=seed))
        folder.append(_evaluate_one(method, model, case, ceilings=ceilings))
    sections = tuple(SECTIONS) if ceilings else ("base", "edited")
    summary = summarise(folder.read(), sections=sections, seed=seed, provenance={**settings, **_versions()})
    summary.save(out / "summary.json")
    return summary


def _evaluate_one(method: Method, model: LanguageModel, case: Case, *, ceilings: bool) -> RunRecord:
    unedited = {"base": case, **(ceiling_cases(case) if ceilings else {})}
    try:
        sections = dict(zip(unedited, score_cases(model, tuple(unedited.values())), strict=True))
        start = time.perf_counter()
        patch = method.edit([case.edit])
        seconds = time.perf_counter() - start
        with patch.applied(model):
            (sections["edited"],) = score_cases(model, [case])
    except KgEditError as error:
        return RunRecord(id=case.edit.id, error=f"{type(error).__name__}: {error}")
    return RunRecord(id=case.edit.id, seconds=seconds, choices=case.choices, sections=sections)


def _settings(
    method: Method,
    model: LanguageModel,
    edits: Sequence[Edit],
    pool: Sequence[str],
    *,
    ceilings: bool,
    seed: int,
) -> dict[str, Any]:
    """All that decides a run's scores."""
    return {
        "schedule": "single",
        "method": method.name,
        "config": method.config.model_dump(mode="json"),
        "model": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
        "ids": [edit.id for edit in edits],
        "edits_sha256": _digest([edit.model_dump(mode="json") for edit in edits]),
        "pool_sha256": _digest(pool),
        "ceilings": ceilings,
        "seed": seed,
        "protocols": dict.fromkeys(METRICS, _PROTOCOL),
        "question_form_sha256": _digest([SHOTS, ANSWER_TOKENS]),
        "kg_edit": kg_edit.__version__,
    }


def _versions() -> Mapping[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
