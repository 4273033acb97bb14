"""lm-eval asks the edited model: its likelihoods are ours, and a task of its own runs offline."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.errors import ConfigError
from kg_edit.export.merged_model import lm_eval_model
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from kg_edit.patches.base import Patch
from kg_edit.scoring.likelihood import Pair, score
from tests.kg_edit.evaluation.conftest import Nudge, record
from tests.kg_edit.tiny import tiny

needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'kg-edit[lm-eval]'"
)
PAIR = Pair("LeBron James plays for the", "Miami Heat")
TASK = """
task: cities
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["Paris", "Rome"]
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny("llama")


@pytest.fixture
def patch(model: LanguageModel) -> Patch:
    return Nudge(model).update([record(0, "Paris")])


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


@needs_lm_eval
def test_lm_eval_task_from_files_runs_offline(
    patch: Patch, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import lm_eval
    from lm_eval.tasks import TaskManager

    rows = [{"question": f"Where does player {number} live?", "answer": number % 2} for number in range(6)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cities.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with lm_eval_model(model, patch) as harness:
        results: Any = lm_eval.simple_evaluate(model=harness, tasks=["cities"], task_manager=tasks, bootstrap_iters=0)
    pairs = [[Pair(row["question"], city) for city in ("Paris", "Rome")] for row in rows]
    with patch.applied(model):
        scores = score(model, [pair for both in pairs for pair in both])
    sums = [
        [scores[p].nll * len(encode(model.tokenizer, p.prompt, target=p.candidate).target_ids) for p in both]
        for both in pairs
    ]
    right = [min((0, 1), key=both.__getitem__) == row["answer"] for both, row in zip(sums, rows, strict=True)]
    assert results["results"]["cities"]["acc,none"] == pytest.approx(sum(right) / 6)


def test_lm_eval_error_names_the_extra(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(ConfigError, match=r"pip install 'kg-edit\[lm-eval\]'"), lm_eval_model(model):
        pass
