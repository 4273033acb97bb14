"""lm-eval asks the edited model: its likelihoods are ours, and without it the extra is named."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from kg_edit.evaluation.lm_eval_model import lm_eval_model
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from kg_edit.patches.base import Patch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.kg_edit.evaluation.conftest import Nudge, record
from tests.kg_edit.tiny import tiny

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'kg-edit[lm-eval]'"
)
PAIR = Pair("LeBron James plays for the", "Miami Heat")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny("llama")


@pytest.fixture
def patch(model: LanguageModel) -> Patch:
    return Nudge(model).edit([record(0, "Paris")])


@needs_lm_eval
def test_lm_eval_likelihoods_equal_ours_unedited_and_edited(patch: Patch, model: LanguageModel) -> None:
    from lm_eval.api.instance import Instance

    request = Instance(request_type="loglikelihood", doc={}, arguments=(PAIR.prompt, f" {PAIR.candidate}"), idx=0)
    tokens = len(encode(model.tokenizer, PAIR.prompt, target=PAIR.candidate).target_ids)
    original, likelihoods = weight_matrix(model.down_projection(1)).detach().clone(), []
    for applied in (None, patch):
        with lm_eval_model(model, applied) as harness:
            ((likelihood, _),) = harness.loglikelihood([request], disable_tqdm=True)
            assert likelihood == pytest.approx(-tokens * score(model, [PAIR])[PAIR].nll, abs=1e-3)
            likelihoods.append(likelihood)
    assert likelihoods[0] != likelihoods[1]
    assert torch.equal(weight_matrix(model.down_projection(1)), original)
