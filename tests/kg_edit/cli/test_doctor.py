"""The doctor: what it finds on every family, and on the packaged model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kg_edit.cli.doctor import examine
from kg_edit.errors import ModelError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.tiny import families, same_weights, tiny, weights_of


@pytest.mark.parametrize("family", families(everyday=("gptj",)))
def test_every_family_passes_the_self_test(family: str) -> None:
    model = tiny(family)
    weights = weights_of(model)
    checks = dict(examine(model))
    assert checks["restored"] == "bit for bit"
    assert checks["blocks"].startswith("4 at ")
    assert float(checks["value"].rpartition(" ")[2]) > 0  # on random weights the loss itself may not fall
    assert same_weights(model, weights)


@pytest.mark.slow
def test_examine_uses_the_given_layer() -> None:
    assert "layers.2." in dict(examine(tiny("llama"), layer=2))["edited weight"]
    with pytest.raises(ModelError, match="there is no layer 7: "):
        list(examine(tiny("llama"), layer=7))


@pytest.mark.slow
@pytest.mark.parametrize("bos", [True, False])
def test_examine_tells_whether_a_bos_is_added(bos: bool) -> None:
    checks = dict(examine(tiny("llama", bos=bos)))
    assert checks["tokenizer"].endswith("adds a BOS" if bos else "adds no BOS")


@pytest.mark.slow
def test_self_test_edits_smollm2(smollm2: LanguageModel) -> None:
    checks = dict(examine(smollm2))
    before, after = checks["continuation"].split(" -> ")
    assert "Paris" in before and "Rome" in after
    assert checks["edited weight"] == "model.layers.6.mlp.down_proj.weight, [576, 1536]"
    assert checks["restored"] == "bit for bit"


def test_self_test_fails_if_the_value_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightPatch, "_add_to", lambda *_: None)
    with pytest.raises(ModelError, match=r"the value moved by 0\.000 instead of"):
        dict(examine(tiny("llama")))


def test_self_test_fails_if_weights_are_not_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt_neox")
    stored = weights_of(model)

    @contextmanager
    def left(patch: WeightPatch, model: LanguageModel) -> Iterator[LanguageModel]:
        patch._add_to(patch.modules(model))
        yield model

    monkeypatch.setattr(Patch, "applied", left)
    with pytest.raises(ModelError, match="were not restored bit for bit"):
        dict(examine(model))
    model.model.load_state_dict(stored)
