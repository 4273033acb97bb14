"""KG_EDIT_ENGINE=plain makes the same patches as the fast engine, and runs none of its files that compute the loss."""

from __future__ import annotations

import pytest

from kg_edit.engine import chosen_engine
from kg_edit.engine.fast_loss import find_engine
from kg_edit.errors import ConfigError
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.methods.test_methods import EDIT, graph
from tests.kg_edit.tiny import tiny

EDITS = [EDIT, EDIT.model_copy(update={"id": "2", "prompt": "{} lives in", "subject": "Dwyane Wade"})]
PLAIN = [
    (family, name)
    for family in ("llama", "gpt2", "gemma2", "bloom", "qwen3_5_text")
    for name in ("rome", "glame", "memit")
] + [("llama", name) for name in ("emmet", "alphaedit", "r-rome", "glame-batch", "rome-kg", "memit-kg", "eamet")]


def patch_of(name: str, model: LanguageModel) -> WeightPatch:
    method = find_method(name)
    layers = {"layers": [1]} if name == "memit" else {}  # changes of several blocks don't add up in Gemma
    config = method.config_class.preset("default", QUICK[name] | layers)
    patch = method(model, config, graph=graph() if method.needs_graph else None).edit(
        EDITS if method.joint else EDITS[:1]
    )
    assert isinstance(patch, WeightPatch)
    return patch


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *keep_first(PLAIN[:15], keep=2, unpack=True),
        *keep_first(PLAIN[15:], unpack=True),
    ],
)
def test_plain_and_fast_make_the_same_patch(family: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = patch_of(name, tiny(family))
    monkeypatch.setenv("KG_EDIT_ENGINE", "plain")
    plain = patch_of(name, tiny(family))
    assert plain.factors.keys() == fast.factors.keys()
    for weight, factors in plain.factors.items():
        change = factors.product
        assert (change - fast.factors[weight].product).norm() < 2e-3 * change.norm()
    for one, other in zip(plain.edits, fast.edits, strict=True):
        assert one["loss_before"] == pytest.approx(other["loss_before"], rel=1e-5)
        assert one["steps"] == other["steps"]


def test_engine_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KG_EDIT_ENGINE", raising=False)
    assert chosen_engine() == "fast" and find_engine(tiny("llama"), 1) is not None
    monkeypatch.setenv("KG_EDIT_ENGINE", "plain")
    assert find_engine(tiny("llama"), 1) is None
    monkeypatch.setenv("KG_EDIT_ENGINE", "quick")
    with pytest.raises(ConfigError, match="plain"):
        find_engine(tiny("llama"), 1)
