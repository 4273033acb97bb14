"""The settings that decide a run's scores (method, records, model, protocol), stored with them and checked on resuming.

`Method` is the interface that a method needs to be evaluated. The machine and the versions are stored too, but not
compared, because the scores should not depend on them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
import transformers
from pydantic import BaseModel, ConfigDict

from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.edit import Edit
from kg_edit.errors import EditFileError, OutputError
from kg_edit.evaluate.general_tasks import GeneralTasks
from kg_edit.evaluate.metrics.catalogue import RECORD_METRICS
from kg_edit.evaluate.metrics.edit import CHAT_METRICS
from kg_edit.evaluate.metrics.hallucination import HALLUCINATION_METRICS
from kg_edit.evaluate.metrics.multihop import MULTIHOP_METRICS
from kg_edit.evaluate.metrics.ripples import RIPPLES_METRICS
from kg_edit.evaluate.retention import RetentionTest
from kg_edit.evaluate.schedule import CURVE_RECORDS, WHOLE, CurvePlan, Shard
from kg_edit.evaluate.scorer import ANSWER_TOKENS
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.questions import SHOTS
from kg_edit.storage.atomic import append_lines, drop_cut_line
from kg_edit.storage.packaged import HUB, packaged_benchmark
from kg_edit.storage.run_folder import Settings, digest, input_files
from kg_edit.text.matching import is_abbreviation
from kg_edit.version import __version__

_PROTOCOL = 2  # raise it when a metric changes: runs of different protocols are not comparable


class Method(Protocol):
    """The interface of a method: a name, its settings, and a function from edits to a patch."""

    @property
    def name(self) -> str:
        """The method's name in results."""

    @property
    def config(self) -> BaseModel:
        """All settings of the method; they are stored with the scores."""

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """The identity, as JSON, of the knowledge graph that the method reads; None if it reads none."""

    def prepare(self) -> None:
        """Do the work that all edits share once, so that no edit's time includes it."""

    def update(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        """Return the patch that adds ``edits`` to the model with the patch ``before``; the model is not changed."""


@runtime_checkable
class EditsEach(Protocol):
    """A method that can compute many edits at once, each as if it were the only one."""

    def edit_each(self, edits: Sequence[Edit]) -> Sequence[Patch | Exception]:
        """Return a patch for each edit alone, or the error if it can't be made; the model is not changed."""


class DataSource(BaseModel):
    """The source of the records: the benchmark's name, its file's name and SHA-256, and the ids of unreadable rows.

    A data set from a hub has no file hash; but the records' own hash is part of every run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    file: str
    sha256: str | None
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: str, path: Path, *, skipped: Sequence[str] = ()) -> Self:
        """The source in ``path``, with the ids of the rows that could not be read.

        Raises:
            EditFileError: the file can't be read.
        """
        path = packaged_benchmark(path) or path
        if str(path).startswith(HUB):
            return cls(dataset=dataset, file=str(path), sha256=None, skipped=tuple(skipped))
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(dataset=dataset, file=path.name, sha256=sha256, skipped=tuple(skipped))
        except OSError as error:
            raise EditFileError(f"can't read {path}: {error.strerror}; check the path") from error


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run measures, in which schedule; the arguments of `kg_edit.evaluate.run.evaluate` have the same names."""

    plan: CurvePlan
    shard: Shard = WHOLE
    general: str | None = None
    tasks: GeneralTasks | None = None
    retention: RetentionTest | None = None
    data: DataSource | None = None
    ceilings: bool = False
    extras: tuple[str, ...] = ()
    chat: bool | None = None
    seed: int = 0

    @property
    def has_points(self) -> bool:
        """Whether the points of the curve have more than the records' scores: general ability, retention or tasks."""
        return self.general is not None or self.retention is not None or self.tasks is not None

    def settings(self) -> Settings:
        """The options that are part of a run's settings, as JSON; ``data`` and ``chat`` are added with the records."""
        plan = self.plan
        return {
            "schedule": str(plan.schedule),
            **({"evaluate_every": plan.every, "curve_records": CURVE_RECORDS} if plan.schedule.has_steps else {}),
            **({} if plan.sample is None else {"score_sample": plan.sample}),
            **({} if self.general is None else {"general_sha256": digest(self.general)}),
            **({} if self.tasks is None else self.tasks.settings),
            **({} if self.retention is None else {"retention_sha256": self.retention.digest}),
            **({} if self.shard == WHOLE else {"shard": str(self.shard)}),
            "ceilings": self.ceilings,
            **({"extras": list(self.extras)} if self.extras else {}),
            "seed": self.seed,
        }


def run_settings(
    method: Method,
    model: LanguageModel,
    records: Sequence[BenchmarkRecord],
    pool: Sequence[str],
    options: RunOptions,
) -> Settings:
    """All settings that decide a run's scores."""
    data = options.data
    return {
        "job": "evaluate",
        **options.settings(),
        **method_settings(method, model),
        **record_settings(model, records, chat=options.chat),
        "tokenizer_sha256": tokenizer_digest(model),
        **({} if data is None else {"data": data.model_dump(mode="json", exclude={"file"})}),
        "pool_sha256": digest(pool),
        "question_form_sha256": digest([[(shot.question, shot.answer) for shot in SHOTS], ANSWER_TOKENS]),
        "kg_edit": __version__,
    }


def record_settings(model: LanguageModel, records: Sequence[BenchmarkRecord], *, chat: bool | None) -> Settings:
    """The settings that depend on the records. A run that grows had those of its first records."""
    return {
        **chat_settings(model, (edit for record in records for edit in record.edits), chat),
        "ids": [record.id for record in records],
        "records_sha256": records_digest(records),
        "protocols": dict.fromkeys(_metrics_of(records, in_chat=any_in_chat(records, chat)), _PROTOCOL),
        **({"abbreviations": "as written"} if any(map(is_abbreviation, _answers(records))) else {}),
    }


def any_in_chat(records: Sequence[BenchmarkRecord], chat: bool | None) -> bool:
    """Whether a record is asked in chat form; ``chat`` None: each in the form in which its edits are made."""
    return any(edit.forms[0] for record in records for edit in record.edits) if chat is None else chat


def chat_settings(model: LanguageModel, edits: Iterable[Edit], chat: bool | None = None) -> Settings:
    """The settings that decide how edits are made and asked in chat form; {} if none is, as in runs of earlier
    versions.

    Raises:
        ChatTemplateError: an edit uses chat form, and the tokenizer has no chat template.
    """
    if not (chat or any(edit.chat for edit in edits)):
        return {}
    asked = {} if chat is None else {"asked_in": "chat" if chat else "plain"}
    return {**asked, "chat_form_sha256": model.chat_form.sha256}


def records_digest(records: Sequence[BenchmarkRecord]) -> str:
    """The SHA-256, in hex, of the records' JSON, in their order."""
    return digest([record.model_dump(mode="json") for record in records])


def _answers(records: Sequence[BenchmarkRecord]) -> Iterator[str]:
    """All names that count as answers; of abbreviations among them earlier versions did not compare the capitals."""
    for record in records:
        for edit in record.edits:
            yield edit.target_new
            yield from (name for question in edit.portability for name in (question.answer, *question.aliases))
        for query in (query for probe in record.probes for query in (*probe.queries, *probe.conditions)):
            yield from (name for names in query.answers for name in names)


def _metrics_of(records: Sequence[BenchmarkRecord], *, in_chat: bool) -> list[str]:
    """All metrics; newer ones only if a record can have them, so that the settings of other runs do not change."""
    groups = {probe.family for record in records for probe in record.probes}
    ripples = any(group.startswith("ripples-") for group in groups)
    absent = {*(() if ripples else RIPPLES_METRICS), *(() if in_chat else CHAT_METRICS)}
    absent |= set() if "multihop" in groups else set(MULTIHOP_METRICS)
    absent |= set() if groups & {"hallucination", "accurate"} else set(HALLUCINATION_METRICS)
    absent |= set() if "specificity" in groups else {"specificity.nll"}
    return [name for name in RECORD_METRICS if name not in absent]


def method_settings(method: Method, model: LanguageModel) -> Settings:
    """The settings that decide a method's patches besides the edits: its config, its files, its graph and the model."""
    files = input_files(method.config)
    return {
        "method": method.name,
        "config": method.config.model_dump(mode="json"),
        **({"files_sha256": files} if files else {}),
        "graph": method.graph_identity,
        "model": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
    }


def tokenizer_digest(model: LanguageModel) -> str:
    """The SHA-256 of the fast tokenizer: vocabulary, merges, special tokens, and the tokens that it adds to a text."""
    fast: Any = model.tokenizer
    said = json.loads(fast.backend_tokenizer.to_str())
    return digest({**said, "padding": None, "truncation": None})  # state of the last call, not part of the tokenizer


Environment = dict[str, Any]
_FILE = "environments.jsonl"


def environment(method: Method, model: LanguageModel, data: DataSource | None = None) -> Environment:
    """Versions, the code's commit, the model's revision on the hub, the covariance and the data's file.

    Call it after `Method.prepare`, since the covariance is unknown before.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": model.device.type,
        "commit": commit(Path(__file__).parent.parent),
        "model_revision": getattr(model.model.config, "_commit_hash", None),
        "covariance": _covariance(method),
        "data_file": data.file if data else None,
    }


def commit(folder: Path) -> str | None:
    """The git commit of a checkout, with -dirty if tracked files differ; None if ``folder`` is not tracked."""
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")  # not so in another project's checkout
        return _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def note_environment(folder: Path, found: Environment) -> None:
    """Add ``found`` to the run's environments, if it is new.

    Raises:
        OutputError: it can't be written.
    """
    drop_cut_line(folder / _FILE)
    if found not in read_environments(folder):
        append_lines(folder / _FILE, [json.dumps(found, sort_keys=True)])


def read_environments(folder: Path) -> list[Environment]:
    """The distinct environments that worked on a run, in the order of their first use.

    Raises:
        OutputError: the file can't be read.
    """
    file = folder / _FILE
    if not file.exists():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise OutputError(f"can't read {file}: {error}; delete the file, then start the run again") from error


def provenance(environments: Sequence[Environment]) -> dict[str, Any]:
    """The entries of the first environment; the others are added under ``other_environments`` if there are any."""
    first, *others = environments or [{}]
    return {**first, **({"other_environments": others} if others else {})}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    return done.stdout.strip()


def _covariance(method: Method) -> Any:
    """The covariance that a method of this package records in its patches."""
    said = getattr(method, "provenance", None)
    found = said() if callable(said) else {}
    methods = found.get("methods") or [{}]
    return methods[0].get("covariance")
