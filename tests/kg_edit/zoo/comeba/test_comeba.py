"""COMEBA: MEMIT's updates behind a gate that opens for the edited keys, batch after batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.adapter_patch import AdapterPatch
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.comeba.adapter import GatedUpdate, GateSettings
from kg_edit.zoo.comeba.method import Comeba, ComebaConfig
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.adapters.edits import EDITS

SETTINGS = dict(QUICK["memit"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path_factory.getbasetemp() / "comeba"))


def comeba(model: LanguageModel, **settings: Any) -> Comeba:
    return Comeba(model, ComebaConfig.preset("default", {**SETTINGS, "texts": 4, **settings}))


def updates_of(patch: Patch) -> dict[str, GatedUpdate]:
    assert isinstance(patch, AdapterPatch)
    return {name: adapter for (_, name), adapter in patch.adapters.items() if isinstance(adapter, GatedUpdate)}


def gated(*, keys: list[float], others: list[float], **settings: Any) -> GatedUpdate:
    """An update 2 x of a weight [1, 1]."""
    return GatedUpdate(
        update=Factors(left=torch.tensor([[2.0]]), right=torch.tensor([[1.0]])),
        keys=torch.tensor(keys)[:, None],
        others=torch.tensor(others)[:, None],
        settings=GateSettings(**{"share": 1.0, **settings}),
    )


def test_gate_by_hand() -> None:
    """|D x| of the others is 2 and 6: mean 4, deviation 2 sqrt 2; a key of 10 is 16 / (2 sqrt 2) out."""
    update = gated(keys=[10.0], others=[1.0, 3.0], alpha=99.0)
    assert update.scale == pytest.approx((4.0, 8**0.5))
    assert update.threshold == pytest.approx(16 / 8**0.5)
    assert gated(keys=[10.0], others=[1.0, 3.0], alpha=2.2).threshold == pytest.approx(2.2)
    assert gated(keys=[10.0], others=[1.0, 3.0], alpha=99.0, share=0.5).threshold == pytest.approx(8 / 8**0.5)
    assert gated(keys=[], others=[1.0, 3.0], alpha=3.0).threshold == 3.0


def test_key_below_the_mean_passes_its_own_gate() -> None:
    """|D k| = 2 is 2 below the mean 4: z = -2 / (2 sqrt 2), and alpha is a tenth of |z| further below."""
    update = gated(keys=[1.0, 10.0], others=[1.0, 3.0], alpha=2.2, share=0.9)
    assert update.threshold == pytest.approx(-1.1 * 2 / 8**0.5)


@pytest.mark.slow
def test_update_is_that_of_memit() -> None:
    model = tiny("llama")
    plain = Memit(model, MemitConfig.preset("default", SETTINGS)).edit(EDITS)
    assert isinstance(plain, WeightPatch)
    for name, gate in updates_of(comeba(model).edit(EDITS)).items():
        torch.testing.assert_close(gate.change, plain.factors[name].product.float(), rtol=1e-3, atol=1e-5)


def test_only_tokens_near_the_keys_are_changed() -> None:
    model = tiny("llama")
    patch = comeba(model).edit(EDITS)
    (name, gate), *_ = updates_of(patch).items()
    module = model.model.get_submodule(name.removesuffix(".weight"))
    inputs = torch.cat([gate.keys, torch.zeros(1, gate.shape[1])])
    clean = module(inputs)
    with patch.applied(model):
        changed = module(inputs)
    moved = (changed - clean).norm(dim=-1) > 1e-6
    assert moved.tolist() == [True, True, True, False]


def test_earlier_keys_have_the_weight_of_remember() -> None:
    model = tiny("llama")
    first = comeba(model).edit(EDITS[:1])
    once, twice = (comeba(model, remember=weight).read_earlier_keys(1, first) for weight in (1.0, 4.0))
    assert once is not None and twice is not None and once.shape[1] == 1
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.slow
def test_later_batches_are_written_on_top_of_earlier_ones(tmp_path: Path) -> None:
    model = tiny("llama")
    chosen = comeba(model)
    first = chosen.edit(EDITS[:1])
    both = chosen.edit(EDITS[1:], start=first)
    again = Patch.load(both.save(tmp_path / "patch.safetensors"))
    for name, gate in updates_of(again).items():
        assert len(gate.keys) == 3 and gate.threshold == pytest.approx(updates_of(both)[name].threshold)
    assert [record["batch"] for record in both.edits] == [1, 2, 2]
    for forgotten in ("read_earlier_keys", "_find_earlier_updates"):
        other = comeba(model)
        vars(other)[forgotten] = (lambda *_: None) if forgotten == "read_earlier_keys" else (lambda *_: {})
        for name, gate in updates_of(other.edit(EDITS[1:], start=first)).items():
            moved = (gate.change - updates_of(both)[name].change).norm()
            assert moved > 0.02 * (gate.change - updates_of(first)[name].change).norm(), f"{name} without {forgotten}"
