"""What decides a run's scores: written beside them, and compared before a run goes on."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
import transformers

import kg_edit
from kg_edit.edits import Edit
from kg_edit.evaluate.method import Method
from kg_edit.evaluate.metrics import METRICS
from kg_edit.evaluate.questions import SHOTS
from kg_edit.evaluate.scorer import ANSWER_TOKENS
from kg_edit.language_model import LanguageModel
from kg_edit.run_folder import Settings, digest

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
        "job": "evaluate",
        "schedule": "single",
        **method_settings(method, model),
        "ids": [edit.id for edit in edits],
        "edits_sha256": digest([edit.model_dump(mode="json") for edit in edits]),
        "pool_sha256": digest(pool),
        "ceilings": ceilings,
        "seed": seed,
        "protocols": dict.fromkeys(METRICS, _PROTOCOL),
        "question_form_sha256": digest([SHOTS, ANSWER_TOKENS]),
        "kg_edit": kg_edit.__version__,
    }


def method_settings(method: Method, model: LanguageModel) -> Settings:
    """What decides a method's patches, but for the edits: its settings, its graph and the model."""
    return {
        "method": method.name,
        "config": method.config.model_dump(mode="json"),
        "graph": method.graph_identity,
        "model": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
    }


def versions() -> dict[str, str]:
    """What computed the scores; not a setting, as the scores should not depend on it."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
