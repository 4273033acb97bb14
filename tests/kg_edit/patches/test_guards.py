"""Guards: edits that look as if they would break the model are named, and refused by the ledger without force."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest
import torch

from kg_edit.errors import PatchError
from kg_edit.models.language_model import weight_matrix
from kg_edit.patches import guards
from kg_edit.patches.changes import LowRank, change_norm, edit_norms
from kg_edit.patches.factors import Factors
from kg_edit.patches.guards import MEDIANS, SHARE, SeenEdits, find_disabling, refuse_disabling
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from tests.kg_edit.tiny import tiny


def test_edit_norms_by_hand() -> None:
    pair = Factors(left=torch.tensor([[3.0, 0.0], [4.0, 1.0]]), right=torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    patch = WeightPatch(factors={"w": pair}, provenance={"edits": [{"edit": {"id": "a"}}, {"edit": {"id": "b"}}]})
    assert edit_norms(patch) == pytest.approx((10.0, 1.0))
    assert change_norm(pair) == pytest.approx(float(pair.product.norm()))
    joint = {"edits": [{"edit": {"id": "a"}, "requests": [{"edit": {"id": "further"}}]}]}
    assert edit_norms(WeightPatch(factors={"w": pair}, provenance=joint)) == pytest.approx(
        (float(pair.product.norm()),)
    )
    assert edit_norms(WeightPatch(factors={"w": pair}, provenance={"edits": [{}]})) == (None,), "rank 2, one edit"


def test_norm_of_one_edit_reads_its_own_columns() -> None:
    """A float64 copy of these factors would take 8 TB."""
    factor = np.broadcast_to(np.float32(1.0), (1_000_000, 1_000_000))
    assert change_norm(LowRank(factor, factor), (3,)) == pytest.approx(1_000_000)


def test_each_edit_is_compared_with_the_median_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, factor = list[object](), guards.division_factor
    monkeypatch.setattr(guards, "division_factor", lambda record: counted.append(record) or factor(record))
    sizes = torch.tensor([5.0, 3.0, 90.0, 1.0, 2.0, 3.0, 4.0, 2.0])
    recorded = made_up(edits_of(8))
    factors = Factors(left=torch.ones(1, 8), right=sizes[None])
    several = WeightPatch(factors={"w.weight": factors}, provenance=recorded.provenance)
    (reason,) = find_disabling(several, ())
    assert reason == "e2: its change has the norm 90, 30.0 times the other edits'"
    assert len(counted) == 16, "the records are not read again for each edit"


def test_edits_that_change_nothing_are_no_measure() -> None:
    """The loss of an edit may be low enough before its first step."""
    still = [made_up(edits_of(1, start=start), size=0.0) for start in range(6)]
    assert find_disabling(made_up(edits_of(1, start=6)), still) == ()


def test_edit_norms_of_a_dense_change_are_unknown() -> None:
    """Four edits, trained into a weight of the rank four: the columns of the identity are nobody's."""
    edits = {"edits": [{"edit": {"id": name}, "method": "ft"} for name in "abcd"]}
    for change in (torch.arange(24.0).reshape(4, 6), torch.arange(24.0).reshape(6, 4)):
        assert edit_norms(WeightPatch(factors={"w": Factors.dense(change)}, provenance=edits)) == (None,) * 4
    assert None not in edit_norms(made_up(edits_of(4)))  # as many facts as the weight has rows


def test_ledger_refuses_an_edit_far_above_the_others(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(made_up(edits_of(6)))
    ledger.add(made_up(edits_of(1, start=6), size=0.99 * MEDIANS))
    strong = made_up(edits_of(1, start=7), size=1.1 * MEDIANS)
    with pytest.raises(PatchError, match=r"break the model: e7: its change has the norm .*4\.4 times.*--force"):
        ledger.add(strong)
    assert len(ledger.events) == 2
    ledger.add(strong, force=True)


def test_a_refused_edit_is_not_compared_with_later_ones() -> None:
    seen = SeenEdits([made_up(edits_of(6))])
    norms = {group: list(values) for group, values in seen.norms.items()}
    with pytest.raises(PatchError, match="break the model"):
        seen.add_checked(made_up(edits_of(1, start=7), size=1.1 * MEDIANS))
    assert seen.norms == norms


def test_norm_is_compared_with_five_edits_of_the_same_method_and_weight() -> None:
    strong, others = made_up(edits_of(1, start=7), size=1000.0), made_up(edits_of(6))
    assert find_disabling(strong, [others]) != () and find_disabling(strong, [made_up(edits_of(5))]) != ()
    assert find_disabling(strong, [made_up(edits_of(4))]) == (), "a median of four means nothing"
    renamed = [{**record, "method": "another"} for record in others.edits]
    of_another = WeightPatch(factors=others.factors, provenance={**others.provenance, "edits": renamed})
    assert find_disabling(strong, [of_another]) == ()
    elsewhere = made_up(edits_of(1, start=7), size=1000.0, weight="other.weight")
    assert find_disabling(elsewhere, [others]) == ()
    assert find_disabling(elsewhere, [made_up(edits_of(6), weight="other.weight")]) != ()


def test_recorded_weight_norms_are_compared_without_the_model() -> None:
    patch = made_up(edits_of(2), size=3.0)
    recorded = WeightPatch(factors=patch.factors, provenance={**patch.provenance, "weight_norms": {"w.weight": 2.0}})
    assert find_disabling(patch, []) == ()
    (reason,) = find_disabling(recorded, [])
    assert reason.endswith("the change of w.weight is 1.5 times as large as the weight itself (limit 1)")
    assert (patch + recorded).provenance["weight_norms"] == {"w.weight": 2.0}, "a sum records the norms of its parts"
    close = WeightPatch(factors=patch.factors, provenance={**patch.provenance, "weight_norms": {"w.weight": 2.99}})
    (reason,) = find_disabling(close, [])
    assert "is 1.01 times as large as the weight itself (limit 1)" in reason, "never as large as the limit"
    norms = {"w.weight": 2.999997}  # a millionth less than the change
    closer = WeightPatch(factors=patch.factors, provenance={**patch.provenance, "weight_norms": norms})
    (reason,) = find_disabling(closer, [])
    assert "is 1.01 times as large as the weight itself (limit 1)" in reason


def test_refusal_of_an_edit_with_facts_of_a_graph_says_how_to_write_fewer() -> None:
    patch = made_up(edits_of(1), size=3.0)
    norms = {**patch.provenance, "weight_norms": {"w.weight": 2.0}}
    with pytest.raises(PatchError, match="make its change smaller, or add it anyway"):
        refuse_disabling(WeightPatch(factors=patch.factors, provenance=norms), [])
    (record,) = patch.edits
    facts = {**norms, "edits": [{**record, "requests": [record, record]}]}
    with pytest.raises(
        PatchError, match=r"it has 2 facts of the graph; fewer: --set statements=1 --set composed=0\), or"
    ):
        refuse_disabling(WeightPatch(factors=patch.factors, provenance=facts), [])


def test_edits_of_other_weights_do_not_hide_a_large_change() -> None:
    """Columns of edits in different weights can't be told apart, but a weight has no more edits than columns."""
    norms = {"w.weight": 2.0, "other.weight": 2.0}
    parts = [
        made_up(edits_of(1), size=3.0),
        *(made_up(edits_of(1, start=n), weight="other.weight") for n in range(1, 7)),
    ]
    total = reduce(
        add, [WeightPatch(factors=p.factors, provenance={**p.provenance, "weight_norms": norms}) for p in parts]
    )
    (reason,) = find_disabling(total, [])
    assert reason.endswith("the change of w.weight is 1.5 times as large as the weight itself (limit 1)")


def test_division_factor_far_below_the_others_is_named() -> None:
    def with_norms(patch: WeightPatch, update: float) -> WeightPatch:
        records = [{**record, "norms": {"change": 2.0, "update": update}} for record in patch.edits]
        return WeightPatch(factors=patch.factors, provenance={**patch.provenance, "edits": records})

    others, weak = with_norms(made_up(edits_of(6)), 1.0), with_norms(made_up(edits_of(1, start=7)), 10.0)
    (reason,) = find_disabling(weak, [others])
    assert reason == "e7: its division factor is 0.2, the other edits' median 2"
    assert find_disabling(with_norms(made_up(edits_of(1, start=7)), 3.0), [others]) == ()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_change_larger_than_the_weight_is_named(family: str) -> None:
    model = tiny(family)
    weight, name = weight_matrix(model.down_projection(1)), model.weight_name(1)
    left, right = torch.zeros(weight.shape[0], 1), torch.zeros(weight.shape[1], 1)
    left[0], right[0] = 1.0, float(weight.detach().norm())
    provenance = {"edits": [{"edit": {"id": "e1"}, "method": "rome"}]}
    for share, refused in ((0.9 * SHARE, False), (1.1 * SHARE, True)):
        patch = WeightPatch(factors={name: Factors(left=share * left, right=right)}, provenance=provenance)
        reasons = find_disabling(patch, [], model)
        assert bool(reasons) == refused
        assert all(f"the change of {name} is {share:.2g} times" in reason for reason in reasons)
