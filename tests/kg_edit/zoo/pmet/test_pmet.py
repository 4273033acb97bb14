"""PMET: changes of both outputs of a block reach the logits as in the whole model; only the MLP's is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kg_edit.engine.fast_loss import Engine
from kg_edit.errors import UnsupportedModelError
from kg_edit.locate_then_edit.objective import Objective
from kg_edit.models.hooks import hidden_state
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.pmet.method import BothOutputs, Pmet
from tests.kg_edit.methods.memit.joint import BARE, EDITS, joint, state_at
from tests.kg_edit.tiny import families, tiny

LAYER = 1


def rows_of(model: LanguageModel) -> list[Prompt]:
    return [encode(model.tokenizer, edit.prompt, subject=edit.subject, target=edit.target_new) for edit in EDITS]


def whole_forward(model: LanguageModel, row: Prompt, change: Tensor) -> tuple[Tensor, Tensor]:
    """Both outputs [2, d] at the subject's last token, and the logits of the target's tokens, of the whole model."""
    seen = dict[str, Tensor]()

    def adding(name: str, part: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            state = hidden_state(output)
            flat = state.reshape(len(row.ids), -1).clone()
            seen[name] = flat[row.edited_at].clone()
            flat[row.edited_at] += part
            moved = flat.reshape(state.shape)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return hook

    value, attended = change
    with (
        torch.no_grad(),
        model.down_projection(LAYER).register_forward_hook(adding("value", value)),
        model.attention(LAYER).register_forward_hook(adding("attended", attended)),
    ):
        logits = model.model(torch.tensor([row.ids])).logits[0, row.target_start - 1 : -1]
    return torch.stack([seen["value"], seen["attended"]]), logits


@pytest.mark.parametrize("family", families(("llama", "gptj", "falcon")))
def test_both_changes_reach_the_logits_as_in_the_whole_model(family: str) -> None:
    model, none = tiny(family), torch.zeros(2, 32)
    if model.is_recurrent:
        with pytest.raises(UnsupportedModelError, match="recurrent"):
            BothOutputs(model, LAYER, rows_of(model))
        return
    rows, change = rows_of(model), torch.randn(len(EDITS), 2, 32, generator=torch.Generator().manual_seed(1))
    forward = BothOutputs(model, LAYER, rows)
    clean = [whole_forward(model, row, none) for row in rows]
    changed = torch.cat([whole_forward(model, row, part)[1] for row, part in zip(rows, change, strict=True)])
    torch.testing.assert_close(forward.values, torch.stack([values for values, _ in clean]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forward.logits(), torch.cat([logits for _, logits in clean]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(forward.logits(change), changed, rtol=1e-4, atol=1e-4)
    last = forward.logits(change)[-len(rows[2].target_ids) :]
    torch.testing.assert_close(forward.subset([2]).logits(change[2:]), last, rtol=1e-4, atol=1e-4)


def test_each_change_has_its_own_limit_and_penalty() -> None:
    model = tiny("llama")
    method = joint("pmet", model, learning_rate=50.0, clamp_norm_factor=0.5)
    assert isinstance(method, Pmet) and method.parameter_count == 2 * model.width
    requests = [method.make_fact(edit).prompts for edit in EDITS]
    loss = Objective(model, 2, requests, kl_weight=0.0, penalty=method.penalty, engine=Engine(forward=BothOutputs))
    assert loss.value.shape == (3, 2, 32)
    parameters, _ = method.propose(EDITS, loss.value)
    parameters.change().sum().backward()
    parameters.learn()
    limits = 0.5 * loss.value.norm(dim=-1)
    torch.testing.assert_close(parameters.change().detach().norm(dim=-1), limits)
    penalty = 0.5 * (limits / loss.value.norm(dim=-1).square()).sum(-1)
    torch.testing.assert_close(method.penalty(parameters.change(), loss.value).detach(), penalty)


@pytest.mark.parametrize("dtype", ["model", "bfloat16"])
def test_only_the_mlps_value_is_written(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer's MLP then has v* in the bare prompt; the attention's change lowers the loss of the descent."""
    monkeypatch.setattr("kg_edit.locate_then_edit.descent.computes_in_bfloat16", lambda: True)
    model = tiny("llama")
    method = joint("pmet", model, contexts=BARE, layers=[1], mom2_weight=1e-6, hold=0.0, descent_dtype=dtype)
    patch = method.edit(EDITS)
    assert isinstance(patch, WeightPatch) and patch.state["value"].shape == (32, 3)
    for edit, v_star, record in zip(EDITS, patch.state["value"].T, patch.edits, strict=True):
        assert record["norms"]["change"] <= 2.001 * record["norms"]["value"]
        _, m, _ = state_at(model, edit, 1)
        assert record["norms"]["value"] == pytest.approx(float(m.norm()), rel=1e-4), "of the model, not of a rough copy"
        with patch.applied(model):
            _, value, _ = state_at(model, edit, 1)
        torch.testing.assert_close(value, v_star, rtol=1e-3, atol=1e-3)
