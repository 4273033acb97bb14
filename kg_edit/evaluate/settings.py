"""What decides a run's scores: written beside them, and compared before a run goes on."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from typing import Any

import torch
import transformers

import kg_edit
from kg_edit.edits import Edit
from kg_edit.evaluate.method import Method
from kg_edit.evaluate.metrics import METRICS
from kg_edit.evaluate.questions import SHOTS
from kg_edit.evaluate.scorer import ANSWER_TOKENS
from kg_edit.language_model import LanguageModel

Settings = dict[str, Any]

_PROTOCOL = 1  # raise it when a metric changes: runs of different protocols are not comparable
# What an unedited model's scores of a record and its choices depend on.
UNEDITED = ("model", "protocols", "question_form_sha256", "kg_edit")


def run_settings(
    method: Method,
    model: LanguageModel,
    edits: Sequence[Edit],
    pool: Sequence[str],
    *,
    ceilings: bool,
    seed: int,
) -> Settings:
    """All that decides a run's scores."""
    return {
        "schedule": "single",
        "method": method.name,
        "config": method.config.model_dump(mode="json"),
        "model": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
        "ids": [edit.id for edit in edits],
        "edits_sha256": digest([edit.model_dump(mode="json") for edit in edits]),
        "pool_sha256": digest(pool),
        "ceilings": ceilings,
        "seed": seed,
        "protocols": dict.fromkeys(METRICS, _PROTOCOL),
        "question_form_sha256": digest([SHOTS, ANSWER_TOKENS]),
        "kg_edit": kg_edit.__version__,
    }


def versions() -> dict[str, str]:
    """What computed the scores; not a setting, as the scores should not depend on it."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def difference(there: Any, here: Any, name: str = "") -> str | None:
    """Name the first field that differs, and both its values; None if there is none."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*here, *there])
        found = (difference(there.get(key), here.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, found), None)
    return None if there == here else f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
