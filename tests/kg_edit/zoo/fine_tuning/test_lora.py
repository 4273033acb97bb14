"""LoRA: nothing of PEFT stays behind, and the patch is what PEFT trained."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from torch import nn

from kg_edit.edits.edit import Edit
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.fine_tuning.lora import ADAPTER, Lora, LoraConfig, adapted, seeded, target_modules, wrapped
from tests.kg_edit.tiny import families, tiny

EDIT = Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Miami Heat")
CONFIG = LoraConfig(rank=3, alpha=12, seed=1)


def method(model: LanguageModel, **settings: Any) -> Lora:
    return Lora.on(model, settings={"steps": 5, "rank": 3, "learning_rate": 5e-3, **settings})


def anatomy(model: nn.Module) -> list[Any]:
    """Every module by identity, with the names of all that it holds."""
    return [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()]


@pytest.mark.parametrize("family", families(("llama", "gpt2")))
def test_patch_gives_the_logits_of_the_peft_model(family: str) -> None:
    """And the model is made of the very same modules afterwards."""
    model = tiny(family)
    before, ids = anatomy(model.model), torch.tensor([model.encode(EDIT.text).ids])
    with torch.no_grad():
        clean = model.model(ids).logits
        with keep_untouched(model), adapted(model, target_modules(model), CONFIG) as adapters:
            for seed, parameter in enumerate(adapters.parameters):
                parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(seed))
            tuned = model.model(ids).logits
            factors = adapters.factors()
        assert anatomy(model.model) == before and not hasattr(model.model, "peft_config")
        assert torch.equal(model.model(ids).logits, clean)
        with WeightPatch(factors=factors).applied(model):
            torch.testing.assert_close(model.model(ids).logits, tuned, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(tuned, clean, atol=1e-2)
    assert all(pair.rank == 3 for pair in factors.values())


@pytest.mark.parametrize("when", ["adapters", "training"])
def test_an_interrupted_edit_leaves_the_hooks_of_a_patch(when: str) -> None:
    """Ctrl-C while PEFT makes the adapters or while they are trained; the hook is that of an earlier patch."""
    model = copy.deepcopy(tiny("llama"))  # PEFT freezes its weights
    names = target_modules(model)
    modules = {name: model.model.get_submodule(name) for name in names}
    seen = list[str]()

    def wrap(base: nn.Module) -> Any:
        tuner = peft.LoraModel(base, peft.LoraConfig(target_modules=names), ADAPTER)
        if when == "adapters":
            raise KeyboardInterrupt
        return tuner

    with modules[names[0]].register_forward_hook(lambda *_: seen.append("hook")):
        with pytest.raises(KeyboardInterrupt), wrapped(model, modules, wrap, 0):
            raise KeyboardInterrupt
        assert model.model.get_submodule(names[0]) is modules[names[0]]
        model.model(torch.tensor([[1, 2]]))
        assert seen == ["hook"]
    model.model(torch.tensor([[1, 2]]))
    assert seen == ["hook"], "the hook can still be removed"


def test_target_modules_follow_the_settings() -> None:
    llama = tiny("llama")
    assert target_modules(llama, layers=[2]) == [f"model.layers.2.self_attn.{side}_proj" for side in "qkvo"]
    chosen = target_modules(llama, ["q_proj", "mlp.down_proj"], [0, 1])
    assert chosen == [f"model.layers.{at}.{name}" for at in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")]
    recurrent = target_modules(tiny("lfm2"), layers=[1, 2])
    assert recurrent[:2] == ["model.layers.1.conv.in_proj", "model.layers.1.conv.out_proj"]
    assert recurrent[2:] == [f"model.layers.2.self_attn.{side}_proj" for side in ("q", "k", "v", "out")]
    assert target_modules(tiny("gpt2"), layers=[0]) == ["transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj"]
    patch = method(llama, modules=["v_proj"], layers=[1]).edit([EDIT])
    assert isinstance(patch, WeightPatch) and list(patch.factors) == ["model.layers.1.self_attn.v_proj.weight"]


def test_dropout_is_seeded_and_only_on_the_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    state, others = torch.get_rng_state(), list[int]()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", others.append)
    first, again = (method(model, dropout=0.5).edit([EDIT]).edits[0] for _ in range(2))
    assert first == again and first["loss_after"] != method(model).edit([EDIT]).edits[0]["loss_after"]
    assert first["loss_before"] == method(model).edit([EDIT]).edits[0]["loss_before"]  # B is 0, and nothing else drops
    assert torch.equal(torch.get_rng_state(), state) and not others, "no generator of a device without the model"


def test_seeded_leaves_other_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = list[int]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = torch.rand(3)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with seeded(tiny("llama"), 7):
        assert torch.equal(torch.rand(3), expected)
    assert seeds == []
