"""The settings that decide a run's scores (method, records, model, protocol), stored with them and checked on resuming.

The machine and the versions are stored too, but not compared, because the scores should not depend on them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from pydantic import BaseModel, ConfigDict

from kg_common.json_text import digest
from kg_edit.edits.record import BenchmarkRecord, edits_of
from kg_edit.errors import EditFileError, OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.records import asked_of
from kg_edit.evaluation.step import Method
from kg_edit.evaluation.template_probes import CONVERSATIONS
from kg_edit.methods.run_settings import chat_settings, method_settings
from kg_edit.models.chat import render
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.conversations import ANSWERED, thinking_form
from kg_edit.scoring.questions import SHOTS
from kg_edit.scoring.requests import ANSWER_TOKENS, BUDGETS, SURE
from kg_edit.storage.atomic import append_lines, drop_cut_line
from kg_edit.storage.packaged import HUB, packaged_benchmark
from kg_edit.storage.run_differences import Settings
from kg_edit.storage.run_folder import ENVIRONMENTS
from kg_edit.version import __version__, code_sha256

_PROTOCOL = 1  # raise it when a metric changes: runs of different protocols are not comparable


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
        """Return the source in ``path``, with the ids of the rows that could not be read."""
        path = packaged_benchmark(path) or path
        if str(path).startswith(HUB):
            return cls(dataset=dataset, file=str(path), sha256=None, skipped=tuple(skipped))
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(dataset=dataset, file=path.name, sha256=sha256, skipped=tuple(skipped))
        except OSError as error:
            raise EditFileError(f"can't read {path}: {error.strerror}; check the path") from error


def run_settings(
    method: Method,
    model: LanguageModel,
    records: Sequence[BenchmarkRecord],
    config: EvalConfig,
    *,
    pool: Sequence[str],
    data: DataSource | None,
) -> Settings:
    """Return all settings that decide a run's scores: what ``run.json`` has.

    Args:
        method: the method, whose config, files and graph are settings.
        model: the model that is edited.
        records: the records to edit and score.
        config: what is measured, and when.
        pool: the answers from which the wrong choices of portability.choice are drawn.
        data: the source of the records, if it is known.
    """
    conversations: Settings = {}
    if set(CONVERSATIONS).intersection(config.probes):
        conversations["conversations_sha256"] = conversations_digest(model, config.probes)
    question_form = [[(shot.question, shot.answer) for shot in SHOTS], ANSWER_TOKENS]
    return {
        "job": "evaluate",
        **config.settings,
        **method_settings(method, model),
        **record_settings(model, records, chat=config.chat),
        **conversations,
        "protocol": _PROTOCOL,
        "tokenizer_sha256": tokenizer_digest(model),
        "data": None if data is None else data.model_dump(mode="json", exclude={"file"}),
        "pool_sha256": digest(pool),
        "question_form_sha256": digest(question_form),
        "kg_edit": __version__,
    }


def conversations_digest(model: LanguageModel, probes: Sequence[str]) -> str:
    """Return the hash of what decides the conversations of these probes besides the edits: the template, the limits.

    Raises:
        ChatTemplateError: the model has no chat template, or ``probes`` has thinking and it has no switch for that.
    """
    # The template decides how any conversation is written, so a made-up one shows it.
    turns = [
        {"role": "user", "content": SURE},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": SURE},
    ]
    form = None
    if "thinking" in probes:
        form = thinking_form(model)
    return digest([render(model.tokenizer, turns, name=model.name), form, BUDGETS, ANSWERED])


def record_settings(model: LanguageModel, records: Sequence[BenchmarkRecord], *, chat: bool | None) -> Settings:
    """Return the settings that depend on the records.

    To continue a run with more records, `run.py` compares its stored settings with those of its first records.
    """
    settings = dict(chat_settings(model, edits_of(records), chat))
    # Some models do not read the first token of a text. So `asked_of` puts a line break before the prompts of own edits
    # that begin with the subject; it changes nothing else.
    after_line_break = [record.id for record in records if asked_of(model, record, chat=chat) != record]
    if after_line_break:
        settings["after_line_break"] = after_line_break
    settings["ids"] = [record.id for record in records]
    settings["records_sha256"] = digest([record.model_dump(mode="json") for record in records])
    return settings


# "kind" in the provenance of a `Control` -> the value of --control that asks for it
_CONTROLS = {"wrong graph": "wrong", "ShuffledObjects": "shuffled", "NoGraph": "none"}


def method_in_words(settings: Settings) -> str:
    """Return the name of a run's method, and the control if its graph is one: "glame (--control none)".

    In the provenance of a `Control`, "right" is the provenance of the graph that it changes. That may be a control too:
    here answers are withheld from a graph with shuffled objects, and the result is "glame (--control shuffled)".

        {"kind": "Withheld", …, "right": {"kind": "ShuffledObjects", …, "right": {"kind": "private graph", …}}}
    """
    method = str(settings["method"])
    source = settings.get("graph")  # None: the method reads no graph
    while source:
        kind = source.get("kind")
        if kind in _CONTROLS:
            return f"{method} (--control {_CONTROLS[kind]})"
        source = source.get("right")  # None: this one is no control
    return method


def tokenizer_digest(model: LanguageModel) -> str:
    """Return the SHA-256 of the fast tokenizer: vocabulary, merges, special tokens, and the tokens added to a text."""
    fast: Any = model.tokenizer
    content = json.loads(fast.backend_tokenizer.to_str())
    return digest({**content, "padding": None, "truncation": None})  # state of the last call, not of the tokenizer


Environment = dict[str, Any]


def environment(method: Method, model: LanguageModel, data: DataSource | None = None) -> Environment:
    """Return versions, the code's commit, the model's revision on the hub, the covariance and the data's file.

    If the method is a plug-in's, the plug-in's package, version and hash are added.

    Call it after `Method.prepare`, since the covariance is unknown before.
    """
    covariance = None
    provenance = getattr(method, "provenance", None)  # what a method of this package writes into its patches
    if callable(provenance):
        methods = provenance().get("methods")
        if methods:
            covariance = methods[0].get("covariance")
    used: Environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": model.device.type,
        "commit": commit(Path(__file__).parent.parent),
        "code_sha256": code_sha256(),
        "model_revision": getattr(model.model.config, "_commit_hash", None),
        "covariance": covariance,
        "data_file": data.file if data else None,
    }
    plug_in = getattr(method, "plug_in", None)
    if plug_in:
        used["plug_in"] = plug_in
    return used


def commit(folder: Path) -> str | None:
    """Return the git commit of a checkout, with -dirty if tracked files differ; None if ``folder`` is not tracked."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
        return process.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails in another project's checkout
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def note_environment(folder: Path, entry: Environment) -> None:
    """Add ``entry`` to the run's environments, if it is new."""
    drop_cut_line(folder / ENVIRONMENTS)
    if entry not in read_environments(folder):
        append_lines(folder / ENVIRONMENTS, [json.dumps(entry, sort_keys=True)])


def read_environments(folder: Path) -> list[Environment]:
    """Return the distinct environments that worked on a run, in the order of their first use."""
    file = folder / ENVIRONMENTS
    if not file.exists():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise OutputError(f"can't read {file}: {error}; delete the file, then start the run again") from error
