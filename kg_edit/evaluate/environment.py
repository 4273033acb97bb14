"""What computed a run's scores: not a setting, as the scores should not depend on it, but what a reader may ask for."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import kg_edit
from kg_edit.errors import OutputError
from kg_edit.evaluate.method import Method
from kg_edit.evaluate.settings import DataSource
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.jsonl import append_lines, drop_cut_line

Environment = dict[str, Any]
_FILE = "environments.jsonl"


def environment(method: Method, model: LanguageModel, data: DataSource | None = None) -> Environment:
    """Versions, the code's commit, the model's revision on the hub, the covariance and the data's file.

    To be asked for once the method is prepared, as only then its covariance is known.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": model.device.type,
        "commit": commit(Path(kg_edit.__file__).parent),
        "model_revision": getattr(model.model.config, "_commit_hash", None),
        "covariance": _covariance(method),
        "data_file": data.file if data else None,
    }


def commit(folder: Path) -> str | None:
    """The git commit of a checkout, with -dirty after it where tracked files differ; None where there is none."""
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")  # an installed copy may lie in anybody's checkout
        return _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def note_environment(folder: Path, found: Environment) -> None:
    """Add ``found`` to the run's environments, if it is a new one.

    Raises:
        OutputError: it can't be written.
    """
    drop_cut_line(folder / _FILE)
    if found not in read_environments(folder):
        append_lines(folder / _FILE, [json.dumps(found, sort_keys=True)])


def read_environments(folder: Path) -> list[Environment]:
    """The distinct environments that worked on a run, in the order of their coming.

    Raises:
        OutputError: the file can't be read.
    """
    file = folder / _FILE
    if not file.exists():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise OutputError(f"can't read {file}: {error}; delete it, and the run notes it anew") from error


def provenance(environments: Sequence[Environment]) -> dict[str, Any]:
    """The first environment's entries, and the others where a run was computed in several."""
    first, *others = environments or [{}]
    return {**first, **({"other_environments": others} if others else {})}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    return done.stdout.strip()


def _covariance(method: Method) -> Any:
    """What a method of this package says of its covariance in the patches that it makes."""
    said = getattr(method, "provenance", None)
    found = said() if callable(said) else {}
    methods = found.get("methods") or [{}]
    return methods[0].get("covariance")
