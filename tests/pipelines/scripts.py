"""What the tests of the scripts share: a script as a module, settings as options."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.summary import Summary
from kg_edit.methods import EditingMethod
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.evaluation.conftest import Nudge

FOLDER = Path(__file__).resolve().parents[2] / "pipelines"
STUDIES = FOLDER.with_name("studies")
QUICK = {"steps": 3, "further_steps": 2, "covariance": {"corpus": "self", "tokens": 500}}
# the tokens of a random model are much alike: an update that held them all would be too large, and be refused
RANK_ONE, JOINT = {**QUICK, "context_lengths": [[5, 2]], "hold": 0.01}, {**QUICK, "context_tokens": 4, "layers": [0, 1]}
Script = Callable[..., int]


def file_of(name: str) -> Path:
    """Return the file of a pipeline or of a study."""
    pipeline = FOLDER / f"{name}.py"
    return pipeline if pipeline.exists() else STUDIES / f"{name}.py"


def module(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"pipelines_{name}", file_of(name))
    assert spec and spec.loader
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # a dataclass looks itself up there
    spec.loader.exec_module(script)
    return script


def settings_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings as options."""
    flat = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    for name in settings.keys() - flat.keys():
        flat |= {f"{name}.{key}": value for key, value in settings[name].items()}
    return tuple(part for name, value in flat.items() for part in ("--set", f"{name}={json.dumps(value)}"))


def nudged(method: EditingMethod, model: LanguageModel, records: Any, **options: Any) -> Summary:
    """`evaluate` with edits by a change that costs nothing."""
    return evaluate(Nudge(model), model, records, **options)
