"""AdaLoRA: the patch is what PEFT trained, ranks are shared out, and nothing of PEFT stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.methods.fine_tuning.rows import RowLosses
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.fine_tuning.adalora import AdaLora, AdaLoraConfig, svd_adapted
from kg_edit.zoo.fine_tuning.lora import target_modules
from tests.everyday import keep_first
from tests.kg_edit.tiny import tiny
from tests.kg_edit.zoo.fine_tuning.test_lora import anatomy

EDIT = Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Miami Heat")
QUICK = {"steps": 12, "rank": 1, "initial_rank": 3, "warm_up": 2, "final": 2, "learning_rate": 0.02, "stop_below": 0.0}


def method(model: LanguageModel, **settings: Any) -> AdaLora:
    return AdaLora.on(model, settings={**QUICK, **settings})


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2"]))
def test_patch_gives_the_logits_of_the_peft_model(family: str) -> None:
    model = tiny(family)
    before, ids = anatomy(model.model), torch.tensor([model.encode(EDIT.text).ids])
    with torch.no_grad():
        clean = model.model(ids).logits
        config = AdaLoraConfig(**QUICK)
        with keep_untouched(model), svd_adapted(model, target_modules(model), config) as adapters:
            for seed, parameter in enumerate(adapters.parameters):
                parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
            next(iter(adapters.layers.values())).lora_E["edit"].data[1] = 0  # a triplet that is gone
            tuned, factors = model.model(ids).logits, adapters.factors()
        assert anatomy(model.model) == before and not hasattr(model.model, "peft_config")
        with WeightPatch(factors=factors).applied(model):
            torch.testing.assert_close(model.model(ids).logits, tuned, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(tuned, clean, atol=1e-2)
    ranks = [pair.rank for pair in factors.values()]
    assert ranks == [2, *[3] * (len(ranks) - 1)]


def test_all_triplets_may_stay() -> None:
    """As in the preset ``paper``; PEFT fails where it has none to remove."""
    model = tiny("llama")
    patch = method(model, rank=3).edit([EDIT])
    assert patch.edits[0]["rank"] == 3 * len(target_modules(model))


@pytest.mark.slow
def test_ranks_go_to_the_weights_that_matter() -> None:
    """Of three triplets a weight one is left on the average, where they matter most."""
    model = tiny("llama")
    patch = method(model).edit([EDIT])
    assert isinstance(patch, WeightPatch)
    (record,) = patch.edits
    assert record["steps"] == 12 and record["loss_after"] < record["loss_before"]
    kept = [int((pair.right != 0).any(0).sum()) for pair in patch.factors.values()]
    assert record["rank"] == sum(kept) <= len(kept), "an empty triplet, which a weight without any has, does not count"
    assert len(set(kept)) > 1
    early = method(model, stop_below=0.9 * record["loss_before"]).edit([EDIT])
    assert early.edits[0]["steps"] < 12 and early.edits[0]["rank"] > record["rank"], "it ended before all were gone"


@pytest.mark.slow
def test_penalty_keeps_p_and_q_near_orthonormal() -> None:
    free, held = (distance_after(tiny("llama"), orthogonality=weight) for weight in (0.0, 5.0))
    assert held < free - 0.05


def distance_after(model: LanguageModel, *, orthogonality: float) -> float:
    """How far from orthonormal P and Q are after a descent on the edit."""
    chosen = method(model, orthogonality=orthogonality, learning_rate=0.05)
    with keep_untouched(model), svd_adapted(model, chosen.targets, chosen.config) as adapters:
        losses = RowLosses(model, 0, [chosen.encode_edit(EDIT)])
        chosen.config.descent.run(
            adapters.parameters,
            lambda: losses().mean(),
            penalty=lambda: orthogonality * adapters.distance(),
        )
        return float(adapters.distance().detach())
