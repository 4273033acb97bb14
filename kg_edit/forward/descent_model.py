"""The model on which a descent runs: the edited one, or a copy of it with fewer bits, on which each step costs less."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import torch

from kg_edit.models.language_model import LanguageModel

DescentDtype = Literal["model", "bfloat16"]
DESCENT_DTYPE = "bfloat16: descend on a copy in bfloat16, twice as fast on processors that have it"
FAST: dict[str, Any] = {"descent_dtype": "bfloat16"}  # the preset of that name


def descent_model(model: LanguageModel, dtype: DescentDtype) -> LanguageModel:
    """``model`` itself, or a frozen copy of it as it stands, patches included, in ``dtype``."""
    if dtype == "model" or model.model.dtype == torch.bfloat16:
        return model
    rough = deepcopy(model.model).to(torch.bfloat16)  # type: ignore[arg-type]
    return replace(model, model=rough.eval().requires_grad_(False))
