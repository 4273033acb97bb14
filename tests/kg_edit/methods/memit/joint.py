"""What the tests of the methods that write a batch at once share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.models.hooks import hidden_state, watch
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from tests.kg_edit.methods.test_methods import graph

CONTEXTS = ("{}", "The quick brown fox. {}", "Paris. {}")
BARE = ("{}",)
EDITS = (
    Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Los Angeles Lakers"),
    Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome"),
    Edit(id="3", subject="The Eiffel Tower", prompt="{} is located in", target_new="London"),
)
SPREAD = ("memit", "alphaedit")
JOINT = (*SPREAD, "emmet")


def moment(size: int, *, seed: int = 5, rank: int | None = None) -> Covariance:
    """A made-up C of full rank, or of ``rank``."""
    rows = torch.randn(size, rank or size, generator=torch.Generator().manual_seed(seed))
    full = torch.zeros(size, size) if rank else torch.eye(size)
    return Covariance(moment=rows @ rows.T / size + full, tokens=1, ridge=0.0, id=f"toy-{seed}")


def joint(name: str, model: LanguageModel, *, contexts: tuple[str, ...] = CONTEXTS, **settings: Any) -> JointMethod:
    """A joint method with made-up covariances, in layers 1 and 2 (or 1); those of AlphaEdit leave half of it free."""
    chosen = find_method(name)
    assert issubclass(chosen, JointMethod)
    defaults: dict[str, Any] = {"layer": 1} if name == "emmet" else {"layers": [1, 2]}
    if name == "alphaedit":
        defaults["threshold"] = 0.02
    size = weight_matrix(model.down_projection(1)).shape[1]
    rank = size // 2 if name == "alphaedit" else None
    return chosen(
        model,
        chosen.config_class.preset("default", {**defaults, "steps": 6, "further_steps": 0, **settings}),  # type: ignore[arg-type]
        graph=graph() if chosen.needs_graph else None,
        contexts=contexts,
        covariances={layer: moment(size, seed=layer, rank=rank) for layer in (1, 2)},
    )


def state_at(model: LanguageModel, edit: Edit, layer: int, *, context: str = "{}") -> tuple[Tensor, Tensor, Tensor]:
    """Key, value and block's output of ``layer`` at the subject's last token."""
    prompt = encode(model.tokenizer, edit.prompt, subject=edit.subject, context=context)
    seen: list[Tensor] = []
    with (
        torch.no_grad(),
        watch(model.down_projection(layer), lambda key, value: seen.extend((key, value))),
        watch(model.block(layer), lambda _, state: seen.append(hidden_state(state))),
    ):
        model.model(torch.tensor([prompt.ids]))
    key, value, block = (state.reshape(len(prompt.ids), -1)[prompt.edited_at] for state in seen)
    return key, value, block


def change(patch: Any, model: LanguageModel, layer: int) -> Tensor:
    """[d, d_ff]."""
    product: Tensor = patch.factors[model.weight_name(layer)].product
    return product
