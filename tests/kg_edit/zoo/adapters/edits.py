"""Three edits for tiny models, and what an edited model predicts."""

from __future__ import annotations

from typing import TypeVar

import torch

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_patch import Adapter, AdapterPatch
from kg_edit.patches.base import Patch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair

EDITS = (
    Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Miami"),
    Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="London"),
    Edit(id="3", subject="the river Thames", prompt="Where does {} flow? To", target_new="Paris"),
)
Kind = TypeVar("Kind", bound=Adapter)
UNRELATED = "The quick brown fox jumps over"


def predicts(model: LanguageModel, edit: Edit) -> bool:
    """Whether every token of the target is the likeliest, given those before."""
    pair = Pair(edit.text, edit.target_new)
    return score(model, [pair])[pair].accuracy == 1


@torch.no_grad()
def logits(model: LanguageModel, text: str) -> torch.Tensor:
    token_logits: torch.Tensor = model.model(torch.tensor([model.encode(text).ids])).logits[0]
    return token_logits


def adapter_of(patch: Patch, kind: type[Kind]) -> Kind:
    """The one adapter of a patch."""
    assert isinstance(patch, AdapterPatch)
    (adapter,) = patch.adapters.values()
    assert isinstance(adapter, kind)
    return adapter
