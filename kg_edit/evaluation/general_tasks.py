"""Side effects of edits on general tasks of EleutherAI's lm-evaluation-harness, asked at the points of a run's curve.

`kg-edit evaluate --general TASKS` names task files, folders of task files, or the harness's own tasks. The harness asks
the model in memory, with the patch applied; the model is not copied. Every document's score is stored, so that the same
documents are compared before and after the edits: the mean difference has a paired bootstrap interval.

A score that is not the mean of its documents' scores (a perplexity, a correlation) has no interval. This module needs
the extra ``kg-edit[lm-eval]``, and imports it only when tasks are opened.

A task file has the task's name, ``task: NAME``, or a group with its members, ``group: NAME`` and ``task: [NAME, …]``.
The members of a group are asked as parts of the group, so they are not named again.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from kg_common.json_text import digest
from kg_edit.errors import ConfigError, ModelError
from kg_edit.evaluation.lm_eval_model import lm_eval_model
from kg_edit.evaluation.statistics import Difference, Estimate, estimates, paired_difference
from kg_edit.models.language_model import LanguageModel

PREFIX = "general."
QUICK = "quick:"
_CLOSE = 1e-6  # how near the mean of documents' scores is to a task's value, if the value is their mean
_YAML = (".yaml", ".yml")
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
    # the unedited model's scores, by its fingerprint, dtype and form: they are asked once for all sequences
    _unedited: dict[tuple[object, ...], dict[str, DocumentScores]] = field(default_factory=dict)

    @classmethod
    def open(cls, tasks: str | Sequence[str], *, limit: int | None = None, tokenizer: str | None = None) -> Self:
        """Open tasks from files, from folders, or from the harness by name; their documents are read now.

        ``tokenizer``: the model's name, for tasks that count tokens.
        """
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError(
                "--general with tasks needs lm-eval, which is not installed: pip install 'kg-edit[lm-eval]'; or give a "
                "text file, to measure perplexity instead"
            )
        from lm_eval.tasks import TaskManager

        if isinstance(tasks, str):
            tasks = [tasks]
        folders, names, needs_own = find_tasks(tasks)
        paths = [str(folder) for folder in folders]
        metadata = {"tokenizer": tokenizer} if tokenizer else None
        try:
            manager = TaskManager(include_path=paths, include_defaults=needs_own, metadata=metadata)
            loaded = _load(manager, names)
            sha256 = {name: _hash_task(task, limit) for name, task in _flatten(loaded)}
        except ConfigError:
            raise
        except Exception as error:  # lm-eval may raise anything for a faulty task file, template or data
            lines = str(error).strip().splitlines() or ["is a data file empty?"]
            raise ConfigError(
                f"the tasks {', '.join(names)} can't be opened: {type(error).__name__}: {lines[0]}; "
                "look at the file and at the data that it names (a task that is not a file needs its data on this disk)"
            ) from error
        return cls(names=tuple(names), manager=manager, sha256=sha256, limit=limit)

    @property
    def settings(self) -> dict[str, Any]:
        """The part of a run's settings that decides the scores of the tasks."""
        return {"sha256": dict(self.sha256), "limit": self.limit}

    def scores(self, model: LanguageModel, *, edited: bool) -> dict[str, DocumentScores]:
        """Return every metric of every task as ``general.TASK.METRIC``, for the model in its present state.

        ``edited`` false: the scores of the unedited model, which are computed once.
        """
        if edited:
            return self._ask(model)
        key = (model.fingerprint, model.model.dtype, model.asked_in)
        if key not in self._unedited:
            self._unedited[key] = self._ask(model)
        return self._unedited[key]

    def _ask(self, model: LanguageModel) -> dict[str, DocumentScores]:
        """Ask the tasks by the harness."""
        import lm_eval

        with lm_eval_model(model, batch_size=_ROWS) as harness, _keep_randomness(model):
            output: Any = lm_eval.simple_evaluate(
                model=harness,
                tasks=list(self.names),
                task_manager=self.manager,
                limit=self.limit,
                bootstrap_iters=0,
            )
        scores = dict[str, DocumentScores]()
        for task, results in output["results"].items():
            samples = output["samples"].get(task, [])
            _refuse_no_numbers(task, samples)
            for metric, (chosen_filter, value) in _read_metrics(results).items():
                of_filter = [sample for sample in samples if sample.get("filter", chosen_filter) == chosen_filter]
                documents = [sample.get(metric) for sample in of_filter]
                scores[f"{PREFIX}{task}.{metric}"] = document_scores(value, documents)
        return scores


def _load(manager: Any, names: Sequence[str]) -> Mapping[Any, Any]:
    """Load the tasks of these names, with all releases of lm-eval."""
    available = set(manager.all_tasks)
    missing = [name for name in names if name not in available]
    if missing:
        raise ConfigError(f"lm-eval has no task {', '.join(map(repr, missing))}; give a task file: NAME.yaml")
    if not hasattr(manager, "load"):  # earlier releases
        tasks: Mapping[Any, Any] = manager.load_task_or_group(names)
        return tasks
    tasks = manager.load(names)["tasks"]
    return tasks


def split_general(text: str | None) -> tuple[Path | None, list[str], Path | None]:
    """Split the value of ``--general`` at commas: a text file, lm-eval's tasks, and the folder of the quick sets.

    A ``.yaml`` file and a folder contain tasks, and ``quick:FOLDER`` the sets of `kg_edit.evaluation.quick_tasks`. A
    part without a file ending that is no file is one of the harness's tasks.
    """
    quick = list[str]()
    tasks = list[str]()
    texts = list[str]()
    for part in map(str.strip, (text or "").split(",")):
        if part == "quick" or part.startswith(QUICK):
            quick.append(part)
        elif part and (_is_task_place(Path(part)) or _is_task_name(part)):
            tasks.append(part)
        elif part:
            texts.append(part)
    if len(quick) > 1 or QUICK in quick or "quick" in quick:
        raise ConfigError(f"--general {','.join(quick)}: give the one folder of the eight sets: quick:FOLDER")
    if len(texts) > 1:
        raise ConfigError(f"--general takes one text, found {', '.join(texts)}; task files end in .yaml")
    text_file = Path(texts[0]) if texts else None
    folder = Path(quick[0].removeprefix(QUICK)) if quick else None
    return text_file, tasks, folder


def _is_task_name(part: str) -> bool:
    """Return whether a part is a task of the harness: no file, and without a file ending."""
    path = Path(part)
    return not path.suffix and not path.exists()


def document_scores(value: float, scores: Sequence[Any]) -> DocumentScores:
    """Return a task's value; with its documents' scores if these are finite numbers with the value as their mean."""
    if not np.isfinite(value):
        return DocumentScores(value=None)
    numbers = [float(score) for score in scores if isinstance(score, bool | int | float | np.number)]
    is_complete = len(numbers) == len(scores) and bool(numbers) and bool(np.isfinite(numbers).all())
    if is_complete and abs(float(np.mean(numbers)) - value) < _CLOSE:
        return DocumentScores(value=value, documents=tuple(numbers))
    return DocumentScores(value=value)


def compare_points(
    points: Iterable[tuple[Mapping[str, DocumentScores], Mapping[str, DocumentScores]]], *, seed: int
) -> dict[str, GeneralChange]:
    """Return each metric before and after the edits.

    ``points`` has one pair (before, after) for each sequence of edits; documents' scores are averaged over the
    sequences. The second part of a pair lacks what the edited model could not be asked (`GeneralChange`).
    """
    pairs = list(points)
    names = dict[str, None]()  # in order, each once
    for before, _ in pairs:
        names |= dict.fromkeys(before)
    changed = dict[str, GeneralChange]()
    for name in names:
        with_name = [(before[name], after) for before, after in pairs if name in before]
        changed[name] = _measure_change(name, with_name, seed)
    return changed


def _measure_change(
    name: str, points: Sequence[tuple[DocumentScores, Mapping[str, DocumentScores]]], seed: int
) -> GeneralChange:
    """Return the change of one metric.

    Args:
        name: the metric.
        points: of each sequence, the score before the edits, and all scores after them by metric.
        seed: of the intervals.
    """
    failed = 0
    before: list[DocumentScores] = []
    after: list[DocumentScores] = []
    for unedited, edited in points:
        before.append(unedited)
        if name in edited:
            after.append(edited[name])
            continue
        failed += 1
        if name.rpartition(".")[2] in _SHARES:  # a model that could not be asked has no right answer
            after.append(DocumentScores(value=0.0, documents=(0.0,) * len(unedited.documents)))
    is_complete = len(after) == len(before)
    if not is_complete:
        return GeneralChange(n=0, before=_average(before), after=_average([]), failed=failed)
    if not all(scores.documents for scores in (*before, *after)):  # perplexities have no scores of documents
        return GeneralChange(n=0, before=_average(before), after=_average(after), failed=failed)
    # The mean over sequences of each document's score: [documents].
    first = np.mean([scores.documents for scores in before], axis=0)
    second = np.mean([scores.documents for scores in after], axis=0)
    return GeneralChange(
        n=len(first),
        before=_estimate(first, seed),
        after=_estimate(second, seed),
        difference=paired_difference(first, second, seed=seed),
        failed=failed,
    )


def _estimate(scores: Any, seed: int) -> Estimate:
    """Return the mean of the documents' scores [documents] with its interval."""
    rows = [{"score": float(score)} for score in scores]
    return estimates(rows, names=["score"], seed=seed)["score"]


def _average(sequences: Sequence[DocumentScores]) -> Estimate:
    """Return the mean over sequences of a value that has no interval."""
    values = [scores.value for scores in sequences if scores.value is not None]
    mean = float(np.mean(values)) if values else None
    return Estimate(mean=mean, ci95_low=None, ci95_high=None)


@contextmanager
def _keep_randomness(model: LanguageModel) -> Iterator[None]:
    """Restore all random generators after the block, because the harness seeds them."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=model.cuda_devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _flatten(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the tasks by name, including those inside groups."""
    for name, task in loaded.items():
        if isinstance(task, Mapping):
            yield from _flatten(task)
        else:
            yield str(name), task


_FORM = ("num_fewshot", "description", "target_delimiter", "fewshot_delimiter", "generation_kwargs", "filter_list")


def _hash_task(task: Any, limit: int | None) -> str:
    """Return the SHA-256 of a task: of its documents with texts, targets and choices, and of how they are asked."""
    parts = [task.doc_to_text, task.doc_to_target]
    if task.OUTPUT_TYPE == "multiple_choice":
        parts.append(task.doc_to_choice)
    documents = []
    for document in list(task.eval_docs)[:limit]:
        asked = [str(part(document)) for part in parts]
        documents.append([str(document), *asked])
    form = [str(getattr(task.config, name, None)) for name in _FORM]
    examples = list[str]()
    if task.config.num_fewshot:
        examples = [str(example) for example in task.fewshot_docs() or ()]
    return digest([str(task.VERSION), str(task.OUTPUT_TYPE), form, examples, sorted(task.aggregation()), documents])


def _refuse_no_numbers(task: str, samples: Iterable[Mapping[str, Any]]) -> None:
    """Raise ModelError if a likelihood is NaN, because the largest of several NaN would be any answer."""
    for sample in samples:
        for reply in sample.get("filtered_resps", ()):
            likelihood = reply
            if isinstance(reply, tuple | list) and reply:
                likelihood = reply[0]
            if isinstance(likelihood, float) and np.isnan(likelihood):
                raise ModelError(
                    f"the model's output on the task {task} is not finite; make a weaker edit, or load the model in "
                    "float32"
                )


def _read_metrics(results: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Return the first filter of each metric of a task and its value, without standard errors ("acc,none": 0.5)."""
    metrics: dict[str, tuple[str, float]] = {}
    for name, value in results.items():
        metric, comma, filter_name = name.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float | np.number):
            metrics.setdefault(metric, (filter_name, float(value)))
    return metrics


@dataclass(frozen=True)
class _TaskFile:
    """The name of a file's task or group ("" for a part of other files), and the names of the group's members."""

    path: Path
    name: str
    members: tuple[str, ...] = ()


def find_tasks(tasks: Sequence[str]) -> tuple[list[Path], list[str], bool]:
    """Return the folders with task files, the tasks' names, and whether the harness's own tasks are needed too.

    ``tasks`` has task files, folders of them, and names of the harness's own tasks.
    """
    # dicts: in order, each once
    folders = dict[Path, None]()
    names = dict[str, None]()
    needs_own = False
    for part in tasks:
        path = Path(part)
        if _is_task_place(path):
            folder = path if path.is_dir() else path.parent
            folders[folder] = None
            names |= dict.fromkeys(_list_names(path))
        else:
            names[part] = None
            needs_own = True
    _refuse_same_names(folders, names)
    return list(folders), list(names), needs_own


def _refuse_same_names(folders: Iterable[Path], names: Collection[str]) -> None:
    """Refuse two files with one of the ``names``, of which the harness would ask only one."""
    files = dict[Path, None]()  # in order, each once
    for folder in folders:
        files |= dict.fromkeys(file.resolve() for file in _list_files(folder))
    first: dict[str, Path] = {}
    for path in files:
        try:
            name = _read_task_file(path).name
        except ConfigError:  # another file of the folder
            continue
        if name in names and name in first:
            raise ConfigError(f"{first[name]} and {path} both have the task {name!r}; give each a different name")
        first.setdefault(name, path)


def _is_task_place(path: Path) -> bool:
    """Return whether a path is a task file or a folder, and no task of the harness."""
    return path.is_dir() or path.suffix.casefold() in _YAML


def _list_names(path: Path) -> list[str]:
    """Return the task of a file, or all tasks and groups of a folder, without the members of its groups."""
    paths = _list_files(path) if path.is_dir() else [path]
    files = [_read_task_file(file) for file in paths]
    inside = set[str]()
    for file in files:
        inside.update(file.members)
    names = [file.name for file in files if file.name and file.name not in inside]
    if not names:
        raise ConfigError(f"{path} is not a task of lm-eval: expected a .yaml file with a line 'task: NAME'")
    return names


def _list_files(folder: Path) -> list[Path]:
    files = list[Path]()
    for ending in _YAML:
        files += folder.glob(f"*{ending}")
    return sorted(files)


def _read_task_file(path: Path) -> _TaskFile:
    """Read a file's names."""
    import yaml

    try:  # the base loader reads all values as text, and runs nothing for tags such as !function
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"can't read the task {path}: {reason}; give a file of lm-eval: NAME.yaml") from error
    fields = content if isinstance(content, dict) else {}
    task = fields.get("task")
    group = fields.get("group")
    if isinstance(group, str):
        return _TaskFile(path, group, tuple(_list_members(task)))
    if isinstance(task, str):
        return _TaskFile(path, task)
    return _TaskFile(path, "")


def _list_members(task: Any) -> Iterator[str]:
    """Yield the names in a group's ``task``: texts, ``{task: NAME, …}``, and groups inside of it."""
    members = task if isinstance(task, list) else [task]
    for member in members:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            if "group" in member:
                yield str(member["group"])
            yield from _list_members(member.get("task"))
