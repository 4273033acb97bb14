"""Score a method on a data set, one edit at a time: before, after, and with the facts told in the prompt instead."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from kg_edit.edits import Edit
from kg_edit.errors import ConfigError, KgEditError
from kg_edit.evaluate.baseline import Baseline, edit_digest
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.method import Method
from kg_edit.evaluate.questions import answers, choices
from kg_edit.evaluate.records import RunFolder, RunRecord, Section
from kg_edit.evaluate.scorer import ceiling_cases, score_cases
from kg_edit.evaluate.settings import run_settings, versions
from kg_edit.evaluate.summary import SECTIONS, Summary, summarise
from kg_edit.language_model import LanguageModel
from kg_edit.run_folder import claim
from wikidata_cache.errors import AmbiguousLabelError, EntityNotInGraphError, UnknownLabelError

# What counts as a failed edit; a graph that can't be reached ends the run instead, which goes on later.
FAILURES = (KgEditError, EntityNotInGraphError, UnknownLabelError, AmbiguousLabelError)


def evaluate(
    method: Method,
    model: LanguageModel,
    edits: Sequence[Edit],
    *,
    out: Path,
    pool: Sequence[Edit] | None = None,
    baseline: Path | None = None,
    ceilings: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Summary:
    """Make each edit alone on ``model``, and score it before and after (schedule "single").

    Writes ``run.json`` (the settings), ``records.jsonl`` (a line a record: every score and what decided it) and
    ``summary.json``. Started again with the same settings it goes on where it was. An edit that fails is recorded and
    counted; it leaves the model as it is, so it is scored as the unedited model.

    Args:
        method: what computes the patches, for this ``model``.
        model: the model, the same before and after.
        edits: the records.
        out: the folder of the run.
        pool: the records whose answers stand beside the right one in portability.choice; by default ``edits``.
        baseline: the folder of another run on the same model, from which scores before the edit are taken.
        ceilings: also score the portability questions with the facts told in the prompt.
        seed: of the choices and of the bootstrap.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: two edits have the same id.
        OutputError: ``out`` holds a run with other settings, or can't be written; ``baseline`` can't be used.
    """
    if len({edit.id for edit in edits}) < len(edits):
        raise ConfigError("two edits have the same id, so their records can't be told apart; give each its own")
    folder, known = RunFolder(out), answers(edits if pool is None else pool)
    settings = run_settings(method, model, edits, tuple(known.values()), ceilings=ceilings, seed=seed)
    before = Baseline.read(baseline, settings) if baseline else Baseline()
    claim(out, settings)
    folder.drop_cut_line()
    done = {record.id for record in folder.read()}
    left = [edit for edit in edits if edit.id not in done]
    if left:
        method.prepare()
    for edit in tqdm(left, desc=method.name, initial=len(done), total=len(edits), disable=None if progress else True):
        case = Case(edit=edit, choices=choices(edit, known, seed=seed))
        folder.append(_evaluate_one(method, model, case, before.sections(case), ceilings=ceilings))
    sections = tuple(SECTIONS) if ceilings else ("base", "edited")
    summary = summarise(folder.read(), sections=sections, seed=seed, provenance={**settings, **versions()})
    summary.save(out / "summary.json")
    return summary


def _evaluate_one(
    method: Method, model: LanguageModel, case: Case, known: dict[str, Section], *, ceilings: bool
) -> RunRecord:
    record = RunRecord(id=case.edit.id, edit_sha256=edit_digest(case), choices=case.choices)
    sections: dict[str, Section] = {}
    try:
        sections |= _unedited(model, case, known, ceilings=ceilings)
        start = time.perf_counter()
        patch = method.edit([case.edit])
        seconds = time.perf_counter() - start
        with patch.applied(model):
            (edited,) = score_cases(model, [case])
    except FAILURES as error:
        if "base" in sections:  # left out, the hard records would only make the means better
            sections["edited"] = sections["base"].model_copy(deep=True)
        return record.model_copy(update={"error": f"{type(error).__name__}: {error}", "sections": sections})
    return record.model_copy(update={"seconds": seconds, "sections": sections | {"edited": edited}})


def _unedited(model: LanguageModel, case: Case, known: dict[str, Section], *, ceilings: bool) -> dict[str, Section]:
    """The sections of the model as it is: those that are ``known``, and the rest scored."""
    unedited = {"base": case, **(ceiling_cases(case) if ceilings else {})}
    asked = {name: part for name, part in unedited.items() if name not in known}
    sections = {name: known[name] for name in unedited if name in known}
    return sections | dict(zip(asked, score_cases(model, tuple(asked.values())), strict=True))
