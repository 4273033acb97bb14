"""The predicted share of an edit is what the written weight adds; a share above the limit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.methods.registry import find_method
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.reports.prompts import AskedPrompt
from kg_edit.reports.risk import predict_risks, refuse_risky
from tests.kg_edit.command_line import ROME, Run, cache, edit, kg_edit, place, tiny_folder
from tests.kg_edit.methods.memit.joint import EDITS, joint
from tests.kg_edit.tiny import tiny

__all__ = ["cache", "edit", "kg_edit", "place", "tiny_folder"]  # fixtures
LAYER = 1
SETTINGS = {
    "layer": LAYER,
    "steps": 3,
    "further_steps": 0,
    "context_lengths": [[5, 2]],
    "covariance": {"corpus": "self", "tokens": 500},
}
PROMPT = AskedPrompt(prompt="The capital of France is")


def outputs(model: LanguageModel, text: str, layer: int) -> Tensor:
    """Return the outputs of a block's down-projection at the tokens of a text, [tokens, d]."""
    seen = list[Tensor]()
    with watch(model.down_projection(layer), lambda _, output: seen.append(output[0])), torch.no_grad():
        model.model(torch.tensor([model.encode(text).ids]))
    return seen[0]


def added_by(patch: Patch, model: LanguageModel, text: str, layer: int) -> Tensor:
    """Return how long the change of the down-projection's output is at each token of a text, [tokens]."""
    before = outputs(model, text, layer)
    with patch.applied(model):
        after = outputs(model, text, layer)
    return (after - before).norm(dim=-1)


@pytest.mark.parametrize("family", ["rome", "memit"])
def test_the_share_is_what_the_written_weight_adds(family: str) -> None:
    model = tiny("llama")
    if family == "rome":
        method = find_method("rome").on(model, settings=SETTINGS)
    else:
        method = joint("memit", model, layers=[LAYER])
    fact = EDITS[0]
    (risk,) = predict_risks(method, [fact], [PROMPT])
    (reach,) = risk.prompts
    patch = method.edit([fact])
    at_tokens = added_by(patch, model, PROMPT.text, LAYER)
    at_key = added_by(patch, model, fact.text, LAYER)[model.encode_fact(fact.prompt, subject=fact.subject).edited_at]
    assert reach.share == pytest.approx(float(at_tokens.max() / at_key), rel=1e-3)
    assert reach.token == model.tokenizer.decode([model.encode(PROMPT.text).ids[int(at_tokens.argmax())]])
    assert 0 < reach.share < 10


def test_edits_of_one_subject_are_named_and_others_have_a_share() -> None:
    model = tiny("llama")
    method = find_method("rome").on(model, settings=SETTINGS)
    same = Edit(id="born", subject=EDITS[0].subject, prompt="{} was born in", target_new="Rome")
    first, _, third = predict_risks(method, [EDITS[0], same, EDITS[1]], [])
    assert first.same_subject == ("born",) and third.same_subject == ()
    assert [reach.edit for reach in first.edits] == [EDITS[1].id] and first.largest == first.edits[0].share > 0
    refuse_risky([first], most=first.largest)
    with pytest.raises(ConfigError, match=EDITS[0].id):
        refuse_risky([first], most=first.largest / 2)


def test_a_method_without_keys_can_not_be_predicted() -> None:
    with pytest.raises(ConfigError, match="rome"):
        predict_risks(find_method("ft").on(tiny("llama")), EDITS)


@pytest.mark.slow
def test_dry_run_writes_nothing_and_names_each_edit(edit: Run, place: Path) -> None:
    result = edit(*ROME, "--dry-run", "--log", "file:losses.jsonl")
    assert not (place / "losses.jsonl").exists()
    assert result.code == 0 and "lebron" in result.out and "france" in result.out
    assert not (place / "out").exists()
    refused = edit(*ROME, "--most-reach", "0")
    assert refused.code == 2 and "lebron" in refused.err and not (place / "out").exists()
