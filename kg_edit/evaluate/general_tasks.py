"""Side effects of edits on general tasks of EleutherAI's lm-evaluation-harness, asked at the points of a run's curve.

`kg-edit evaluate --general TASKS` names task files, folders of task files, or the harness's own tasks. The harness asks
the model in memory, with the patch applied; the model is not copied. Every document's score is kept, so that the same
documents are compared before and after the edits: the mean difference has a paired bootstrap interval.

A score that is not the mean of its documents' scores (a perplexity, a correlation) is kept without an interval. This
module needs the extra ``kg-edit[lm-eval]``, and imports it only when tasks are opened.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from kg_edit.errors import ConfigError, ModelError
from kg_edit.evaluate.statistics import Difference, Estimate, estimates, paired_difference
from kg_edit.evaluate.task_files import is_task_place, wanted_tasks
from kg_edit.export.merged_model import lm_eval_model
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.run_folder import digest

PREFIX = "general."
_CLOSE = 1e-6
_ROWS = 16  # in a forward pass
_SHARES = frozenset({"acc", "acc_norm", "exact_match", "em", "f1"})  # lm-eval's shares of right answers


class DocumentScores(BaseModel):
    """A metric of a task: its ``value``, and the documents' scores if the value is their mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    documents: tuple[float, ...] = ()


class GeneralChange(BaseModel):
    """A metric of a task before and after the edits, over ``n`` documents.

    ``before`` and ``after`` have 95 % bootstrap intervals over documents; ``difference`` (after - before) has a paired
    one. A metric that is no mean over documents has neither intervals nor a difference. ``failed`` counts the sequences
    of edits whose model could not be asked: its documents count as 0 if the metric is a share of right answers; other
    metrics then have no ``after``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    before: Estimate
    after: Estimate
    difference: Difference | None = None
    failed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class GeneralTasks:
    """Opened tasks: lm-eval's ``manager``, and the ``names`` of the tasks in it.

    ``limit``: use only this many first documents of each task. ``sha256``: for each task, the hash of its documents and
    of the form in which they are asked.
    """

    names: tuple[str, ...]
    manager: Any
    sha256: Mapping[str, str]
    limit: int | None = None
    _unedited: dict[tuple[object, ...], dict[str, DocumentScores]] = field(default_factory=dict)

    @classmethod
    def open(cls, wanted: Sequence[str], *, limit: int | None = None, tokenizer: str | None = None) -> Self:
        """Open tasks from files, from folders, or from the harness by name; their documents are read now.

        ``tokenizer``: the model's name, for tasks that count tokens (those of `kg-edit data tasks`).

        Raises:
            ConfigError: lm-eval is not installed, there is no such file or task, or its data can't be read.
        """
        _check_installed()
        from lm_eval.tasks import TaskManager

        folders, names, own = wanted_tasks(wanted)
        try:
            manager = TaskManager(
                include_path=[str(path) for path in folders],
                include_defaults=own,
                metadata={"tokenizer": tokenizer} if tokenizer else None,
            )
            known = set(manager.all_tasks)
            if missing := [name for name in names if name not in known]:
                raise ConfigError(f"lm-eval has no task {', '.join(map(repr, missing))}; give a task file: NAME.yaml")
            said = {name: _digest(task, limit) for name, task in _loaded(manager, names).items()}
        except ConfigError:
            raise
        except Exception as error:  # lm-eval may raise anything for a faulty task file, template or data
            raise ConfigError(
                f"the tasks {', '.join(names)} can't be opened: {_reason(error)}; "
                "look at the file and at the data that it names (a task that is not a file needs its data on this disk)"
            ) from error
        return cls(names=tuple(names), manager=manager, sha256=said, limit=limit)

    @property
    def settings(self) -> dict[str, Any]:
        """The part of a run's settings that decides the scores of the tasks."""
        return {"sha256": dict(self.sha256), "limit": self.limit}

    def scores(self, model: LanguageModel, *, edited: bool) -> dict[str, DocumentScores]:
        """Return every metric of every task as ``general.TASK.METRIC``, for the model in its present state.

        ``edited`` false: the scores of the unedited model, which are computed once and kept.

        Raises:
            ModelError: the model's output is not finite.
        """
        if edited:
            return dict(self._asked(model))
        key = (model.fingerprint, model.model.dtype, model.chat)
        if key not in self._unedited:
            self._unedited[key] = dict(self._asked(model))
        return self._unedited[key]

    def _asked(self, model: LanguageModel) -> Iterator[tuple[str, DocumentScores]]:
        import lm_eval

        with lm_eval_model(model, batch_size=_ROWS) as harness, _own_randomness(model):
            found: Any = lm_eval.simple_evaluate(
                model=harness,
                tasks=list(self.names),
                task_manager=self.manager,
                limit=self.limit,
                bootstrap_iters=0,
            )
        for task, results in found["results"].items():
            samples = found["samples"].get(task, [])
            _refuse_no_numbers(task, samples)
            for (metric, kept), value in _metrics(results).items():
                scores = [one.get(metric) for one in samples if one.get("filter", kept) == kept]
                yield f"{PREFIX}{task}.{metric}", document_scores(value, scores)


def split_general(text: str | None) -> tuple[Path | None, tuple[str, ...]]:
    """Split the value of ``--general`` at commas into a text file (for the perplexity) and tasks.

    A ``.yaml`` file and a folder contain tasks. A part without a file ending that is no file is one of the harness's
    tasks.

    Raises:
        ConfigError: there are two text files.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    tasks = [part for part in parts if _is_task(part)]
    texts = [part for part in parts if part not in tasks]
    if len(texts) > 1:
        raise ConfigError(f"--general takes one text, found {', '.join(texts)}; task files end in .yaml")
    return Path(texts[0]) if texts else None, tuple(tasks)


def document_scores(value: float, scores: Sequence[Any]) -> DocumentScores:
    """A task's value; with its documents' scores if these are finite numbers with the value as their mean."""
    numbers = [float(one) for one in scores if isinstance(one, bool | int | float | np.number)]
    whole = len(numbers) == len(scores) and bool(numbers) and bool(np.isfinite(numbers).all())
    is_mean = whole and abs(float(np.mean(numbers)) - value) < _CLOSE
    return DocumentScores(value=value if np.isfinite(value) else None, documents=tuple(numbers) if is_mean else ())


def changes(
    points: Iterable[tuple[Mapping[str, DocumentScores], Mapping[str, DocumentScores]]], *, seed: int
) -> dict[str, GeneralChange]:
    """Each metric before and after the edits.

    ``points`` has one pair (before, after) for each sequence of edits; documents' scores are averaged over the
    sequences. The second part of a pair is empty if the edited model could not be asked (`GeneralChange`).
    """
    pairs = list(points)
    names = dict.fromkeys(name for before, _ in pairs for name in before)
    return {name: _change(name, [(one[name], two) for one, two in pairs if name in one], seed) for name in names}


def _change(
    name: str, points: Sequence[tuple[DocumentScores, Mapping[str, DocumentScores]]], seed: int
) -> GeneralChange:
    failed, before = sum(not two for _, two in points), [one for one, _ in points]
    found = [two[name] if two else _of_a_broken_model(name, one) for one, two in points]
    after = [scores for scores in found if scores is not None]
    if len(after) < len(before) or not all(one.documents for one in (*before, *after)):
        known = after if len(after) == len(before) else []
        return GeneralChange(n=0, before=_bare(before), after=_bare(known), failed=failed)
    first, second = (np.mean([one.documents for one in side], axis=0) for side in (before, after))
    return GeneralChange(
        n=len(first),
        before=_estimate(first, seed),
        after=_estimate(second, seed),
        difference=paired_difference(first, second, seed=seed),
        failed=failed,
    )


def _of_a_broken_model(name: str, unedited: DocumentScores) -> DocumentScores | None:
    """The scores of a model that could not be asked: 0 if the metric is a share of right answers, else None."""
    if name.rpartition(".")[2] not in _SHARES:
        return None
    return DocumentScores(value=0.0, documents=(0.0,) * len(unedited.documents))


def _estimate(scores: Any, seed: int) -> Estimate:
    return estimates([{"it": float(one)} for one in scores], names=["it"], seed=seed)["it"]


def _bare(several: Sequence[DocumentScores]) -> Estimate:
    values = [one.value for one in several if one.value is not None]
    return Estimate(mean=float(np.mean(values)) if values else None, ci95_low=None, ci95_high=None)


@contextmanager
def _own_randomness(model: LanguageModel) -> Iterator[None]:
    """Restore all random generators after the block, because the harness seeds them."""
    plain, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=model.cuda_devices):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)


def _check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "--general with tasks needs lm-eval, which is not installed: pip install 'kg-edit[lm-eval]'; or give a "
            "text file, to measure perplexity instead"
        )


def _is_task(part: str) -> bool:
    path = Path(part)
    return is_task_place(path) or not (path.suffix or path.exists())


def _reason(error: Exception) -> str:
    """The first line of an error; an error without a message is mostly that of a file without rows."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else f"{type(error).__name__} (is a data file empty?)"


def _loaded(manager: Any, names: Sequence[str]) -> dict[str, Any]:
    """Load the tasks with these names, and the tasks of groups with these names, by name."""
    if hasattr(manager, "load"):
        return dict(manager.load(list(names))["tasks"])
    return dict(_tasks(manager.load_task_or_group(list(names))))  # the name in earlier releases


def _tasks(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the tasks by name, including those inside groups."""
    for name, task in loaded.items():
        if isinstance(task, Mapping):
            yield from _tasks(task)
        else:
            yield str(name), task


_FORM = ("num_fewshot", "description", "target_delimiter", "fewshot_delimiter", "generation_kwargs", "filter_list")


def _digest(task: Any, limit: int | None) -> str:
    """SHA-256 of a task: its documents with texts, targets and choices, and the form in which they are asked."""
    parts = [task.doc_to_text, task.doc_to_target]
    if task.OUTPUT_TYPE == "multiple_choice":
        parts.append(task.doc_to_choice)
    asked = [[str(one), *(str(part(one)) for part in parts)] for one in list(task.eval_docs)[:limit]]
    form = [str(getattr(task.config, name, None)) for name in _FORM]
    shown = [str(one) for one in task.fewshot_docs() or ()] if task.config.num_fewshot else []
    return digest([str(task.VERSION), str(task.OUTPUT_TYPE), form, shown, sorted(task.aggregation()), asked])


def _refuse_no_numbers(task: str, samples: Iterable[Mapping[str, Any]]) -> None:
    """Raise ModelError if a likelihood is NaN, because the largest of several NaN would be any answer."""
    for sample in samples:
        for reply in sample.get("filtered_resps", ()):
            likelihood = reply[0] if isinstance(reply, tuple | list) and reply else reply
            if isinstance(likelihood, float) and np.isnan(likelihood):
                raise ModelError(
                    f"the model's output on the task {task} is not finite; make a weaker edit, or load the model in "
                    "float32"
                )


def _metrics(results: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """The values of a task by (metric, filter), without standard errors; only the first filter of each metric."""
    found: dict[str, tuple[str, float]] = {}
    for name, value in results.items():
        metric, comma, kept = name.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float | np.number):
            found.setdefault(metric, (kept, float(value)))
    return {(metric, kept): value for metric, (kept, value) in found.items()}
