"""EMMET: every key of a batch is answered with its value; R-ROME's key as a method of its own."""

from __future__ import annotations

import pytest
import torch

from kg_edit.errors import PatchError
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.emmet.method import Emmet, EmmetConfig
from tests.kg_edit.methods.memit.joint import BARE, CONTEXTS, EDITS, change, joint, state_at
from tests.kg_edit.tiny import families, tiny


@pytest.mark.slow
@pytest.mark.parametrize("family", families(("llama", "gpt2")))
def test_every_value_of_a_batch_is_exact(family: str) -> None:
    """In every family, as only the MLP's own output is asked for."""
    model = tiny(family)
    patch = joint("emmet", model, contexts=BARE, relaxation=0.0).edit(EDITS)
    assert isinstance(patch, WeightPatch)
    for number, edit in enumerate(EDITS):
        record, value = patch.edits[number], patch.state["value"][:, number]
        assert record["nll_after"] < record["nll_before"]
        assert record["norms"]["change"] <= 2.001 * record["norms"]["value"]
        with patch.applied(model):
            _, edited, _ = state_at(model, edit, 1)
        assert (edited - value).norm() < 1e-4 * value.norm()


@pytest.mark.slow
def test_two_facts_of_one_subject_need_relaxation() -> None:
    model = tiny("llama")
    other = {"id": "4", "prompt": "{} is paid by", "target_new": "Miami Heat"}  # the same key
    twice = (*EDITS, EDITS[0].model_copy(update=other))
    with pytest.raises(PatchError, match="are linearly dependent") as caught:
        joint("emmet", model, relaxation=0.0).edit(twice)
    assert "in a batch of 4 edits, '1' to '4'" in caught.value.__notes__
    relaxed = joint("emmet", model).edit(twice)  # the default
    assert change(relaxed, model, 1).norm() < 10 * change(joint("emmet", model).edit(EDITS), model, 1).norm()


@pytest.mark.slow
def test_relaxation_is_relative_to_c() -> None:
    """The same relaxation whatever the scale of C. `hold` adds keys whose weight does not scale with C, so it is 0."""
    model = tiny("llama")
    small = joint("emmet", model, relaxation=0.5, hold=0.0)
    moments = {
        layer: type(covariance)(moment=1000 * covariance.moment, tokens=1, ridge=0.0, id=covariance.id)
        for layer, covariance in small.covariances.items()
    }
    large = Emmet(model, small.config, contexts=CONTEXTS, covariances=moments)
    expected = change(small.edit(EDITS), model, 1)
    torch.testing.assert_close(change(large.edit(EDITS), model, 1), expected, rtol=1e-3, atol=1e-6)
    exact = change(joint("emmet", model, relaxation=0.0, hold=0.0).edit(EDITS), model, 1)
    assert expected.norm() < 0.9 * exact.norm()


def test_layer_is_one_setting() -> None:
    model = tiny("llama")
    assert joint("emmet", model).layers == (1,)
    default = Emmet(model, EmmetConfig())
    assert default.layers == (1,) and default.layer == 1
    assert EmmetConfig.preset("paper").relaxation == 0.0
