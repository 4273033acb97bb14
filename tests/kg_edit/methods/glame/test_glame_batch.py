"""GLAME for batches: graph-made values, written as MEMIT writes them."""

from __future__ import annotations

from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.methods.memit.joint import BARE, joint, state_at
from tests.kg_edit.methods.test_methods import EDIT, SECOND
from tests.kg_edit.tiny import tiny

EDITS = (EDIT, SECOND)


def test_values_come_from_the_graph_and_are_reached() -> None:
    model = tiny("llama")
    patch = joint("glame-batch", model, contexts=BARE, mom2_weight=1e-8).edit(EDITS)
    assert isinstance(patch, WeightPatch)
    assert patch.factors.keys() == {model.weight_name(1), model.weight_name(2)}
    for number, edit in enumerate(EDITS):
        record, z = patch.edits[number], patch.state["value"][:, number]
        assert record["nodes"] >= 2 and record["loss_after"] < record["loss_before"]
        assert 0 < record["norms"]["change"] <= 0.7501 * record["norms"]["value"]
        with patch.applied(model):
            *_, edited = state_at(model, edit, 2)
        assert (edited - z).norm() < 1e-3 * z.norm()
