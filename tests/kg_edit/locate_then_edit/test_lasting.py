"""The switches for long sequences, by hand: ``remember`` and ``anchor``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance, OtherKeys
from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.descent import Descent, StepLosses
from kg_edit.locate_then_edit.long_run import anchor, mean_value_norm, remember
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.memit.records import Fact, drop_edited_again
from kg_edit.methods.rome.method import rank_one_update
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.emmet.method import Emmet, EmmetConfig
from tests.kg_edit.tiny import tiny

NONE = OtherKeys.none(2)


def covariance(*diagonal: float) -> Covariance:
    return Covariance(moment=torch.diag(torch.tensor(diagonal)), tokens=9, ridge=0.0, id="toy")


def written(method: JointMethod, keys: Tensor, missing: Tensor, protected: Tensor | None) -> Tensor:
    """The update R U^T [d, d_ff]."""
    return missing.double() @ method.directions(1, keys.double(), others=NONE, protected=protected).T


def toy(kind: Any, config: Any) -> JointMethod:
    editor: JointMethod = kind(tiny("gpt2"), config, contexts=("{}",), covariances={1: covariance(1.0, 2.0)})
    return editor


def test_remembering_batches_equal_one_batch() -> None:
    """C = diag(1, 2), lambda 1, k1 = (1, 0), k2 = (1, 1), wanted outputs 2 and 5 of W = 0 (OTE = SE).

    One batch: D (C + k1 k1^T + k2 k2^T) = 2 k1^T + 5 k2^T, that is D [[3, 1], [1, 3]] = (7, 5), so D = (2, 1). In
    sequence: D1 = (1, 0); the second batch is missing 5 - 1 = 4: D2 = 4 k2^T [[3, 1], [1, 3]]^-1 = (1, 1). Without K_p
    the second batch is D2 = 4 k2^T [[2, 1], [1, 3]]^-1 = (1.6, 0.8), which moves the first output from 1 to 2.6.
    """
    method = toy(Memit, MemitConfig(mom2_weight=1.0, remember=1.0, hold=0.0, layers=(1,)))
    first, second = torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [1.0]])
    together = written(method, torch.cat([first, second], 1), torch.tensor([[2.0, 5.0]]), None)
    earlier = written(method, first, torch.tensor([[2.0]]), None)
    later = written(method, second, 5.0 - earlier @ second.double(), first)
    assert together.tolist() == [pytest.approx([2.0, 1.0])] and earlier.tolist() == [pytest.approx([1.0, 0.0])]
    torch.testing.assert_close(earlier + later, together)
    assert written(method, second, torch.tensor([[4.0]]), None).tolist() == [pytest.approx([1.6, 0.8])]


def test_emmet_with_earlier_keys_leaves_their_outputs() -> None:
    """eps = 0: (W' - W) K_p = 0 and (W' - W) K = R. K_p = (1, 0), K = (1, 1), R = 3: D = (0, 3)."""
    method = toy(Emmet, EmmetConfig(layer=1, relaxation=0.0, remember=1.0, hold=0.0))
    update = written(method, torch.tensor([[1.0], [1.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0], [0.0]]))
    assert update.tolist() == [pytest.approx([0.0, 3.0])]


@pytest.mark.parametrize("remember", [1.0, 4.0])
def test_emmet_writes_a_key_that_is_edited_again(remember: float) -> None:
    """K_p has K = (1, 1) itself, up to rounding, and (1, 0), which is held: as without the first."""
    method = toy(Emmet, EmmetConfig(layer=1, relaxation=0.0, remember=remember, hold=0.0))
    protected = remember**0.5 * torch.tensor([[1.001, 1.0], [1.0, 0.0]])
    update = written(method, torch.tensor([[1.0], [1.0]]), torch.tensor([[3.0]]), protected)
    assert update.tolist() == [pytest.approx([0.0, 3.0])]


def test_rank_one_update_with_earlier_keys() -> None:
    """C = I, d_ff = 2, so lambda = 0.2 and K_p K_p^T / lambda = diag(5, 0) for K_p = (1, 0).

    k = k* = (1, 1): u = (C + diag(5, 0))^-1 k = (1/6, 1), k . u = 7/6, W' - W = change u^T 6/7 = (1/7, 6/7) change.
    """
    key = torch.tensor([1.0, 1.0])
    factors = rank_one_update(
        change=torch.tensor([7.0]),
        mean_key=key,
        bare_key=key,
        covariance=covariance(1.0, 1.0),
        matrix=torch.zeros(1, 2),
        earlier_keys=torch.tensor([[1.0], [0.0]]),
    )
    torch.testing.assert_close(factors.product, torch.tensor([[1.0, 6.0]]))


def test_edits_whose_keys_are_not_in_the_patch_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """A patch of another weight protects nothing there, and needs no keys."""
    patch = WeightPatch(factors={"one": Factors(left=torch.ones(2, 1), right=torch.ones(2, 1))})
    assert remember(patch, "other", weight=1.0) is None and not caplog.text
    assert remember(patch, "one", weight=1.0) is None and "no keys of its edits of one" in caplog.text


def test_keys_of_facts_that_are_edited_again_are_not_protected(caplog: pytest.LogCaptureFixture) -> None:
    """K_p has a column for each of the facts "Rome is" and "Oslo is", of which the second is edited again."""
    records = [{"edit": {"subject": subject, "prompt": "{} is"}} for subject in ("Rome", "Oslo")]
    before = WeightPatch(factors={}, provenance={"edits": records})
    again = Edit(subject="Oslo", prompt="{} is", target_new="small")
    facts = [Fact(edit=again, prompts=Request(rewrites=()))]
    assert drop_edited_again(torch.eye(2), before, facts).tolist() == [[1.0], [0.0]] and not caplog.text
    in_chat = [Fact(edit=again.with_form(chat=True), prompts=Request(rewrites=()))]
    assert drop_edited_again(torch.eye(2), before, in_chat).shape == (2, 2), "it has another key there"
    keys = torch.ones(2, 1)  # of one fact alone: of which one is not known
    assert torch.equal(drop_edited_again(keys, before, facts), keys) and "keys of 1" in caplog.text


def test_norm_of_the_anchor_is_without_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 32 values with the norms 1 to 32 the mean of 1 to 31 is 16."""

    def with_norms(objective: Objective, *_: object) -> list[Descent]:
        axis = torch.eye(objective.value.shape[1])[0]
        return [Descent(change=n * axis - m, losses=()) for n, m in enumerate(objective.value, 1)]

    monkeypatch.setattr("kg_edit.locate_then_edit.long_run.descend", with_norms)
    stops = MemitConfig().stops
    assert mean_value_norm(tiny("gpt2"), 1, ("{}",), site="value", clamp=1.0, stops=stops) == 16.0


def test_anchored_value_has_the_norm_of_the_anchor() -> None:
    """m = (3, 0), delta = (0, 4): |v*| = 5. At the anchor 2.5 v* is (1.5, 2), and delta (-1.5, 2)."""
    value, losses = torch.tensor([3.0, 0.0]), (StepLosses(1.0, 1.0, 0.0),)
    descent = Descent(change=torch.tensor([0.0, 4.0]), losses=losses)
    inlier = anchor(descent, value, norm=2.5, most=2.0)  # just at the bound
    assert inlier.change.tolist() == [-1.5, 2.0]
    inlier.check()
    outlier = anchor(descent, value, norm=2.0, most=2.0)
    assert torch.equal(outlier.change, descent.change)
    with pytest.raises(PatchError, match=r"2\.5 times as long as in the unedited model; anchor allows 2"):
        outlier.check()
    with pytest.raises(PatchError, match="not finite"):
        replace(inlier, losses=(StepLosses(float("nan"), 0.0, 0.0),)).check()
