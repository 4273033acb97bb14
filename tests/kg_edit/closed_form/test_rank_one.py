"""The closed form by hand, and against updates computed by the published program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kg_edit.closed_form.rank_one import rank_one_update
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariance
from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.methods.rank_one.rome import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import Factors

W = torch.tensor([[1.0, 2.0], [0.0, 1.0]])


def covariance(*diagonal: float) -> Covariance:
    return Covariance(moment=torch.diag(torch.tensor(diagonal)), tokens=9, ridge=0.0, id="toy")


def delta(factors: Factors) -> torch.Tensor:
    return factors.left @ factors.right.T


def test_by_hand() -> None:
    """C = diag(1, 4), k* = (2, 4): C^-1 k* = (2, 1). k = (1, 0), change (3, 5): W' = W + (3, 5)(2, 1)^T / 2."""
    factors = rank_one_update(
        change=torch.tensor([3.0, 5.0]),
        mean_key=torch.tensor([2.0, 4.0]),
        bare_key=torch.tensor([1.0, 0.0]),
        covariance=covariance(1, 4),
        weight=W,
    )
    torch.testing.assert_close(delta(factors), torch.tensor([[3.0, 1.5], [5.0, 2.5]]))


def test_r_rome_answers_the_mean_key() -> None:
    """R-ROME: (W + D) k* = m*, with m* = W k + change."""
    bare, mean, change = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0]), torch.tensor([3.0, 5.0])
    factors = rank_one_update(
        change=change, mean_key=mean, bare_key=bare, covariance=covariance(1, 4), weight=W, variant="r-rome"
    )
    torch.testing.assert_close((W + delta(factors)) @ mean, W @ bare + change)


def test_an_orthogonal_key_is_refused() -> None:
    with pytest.raises(PatchError, match="orthogonal"):
        rank_one_update(
            change=torch.ones(2),
            mean_key=torch.tensor([1.0, 0.0]),
            bare_key=torch.tensor([0.0, 1.0]),
            covariance=covariance(1, 1),
            weight=W,
        )


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PatchError, match="not finite"):
        rank_one_update(
            change=torch.tensor([float("nan"), 1.0]),
            mean_key=torch.ones(2),
            bare_key=torch.ones(2),
            covariance=covariance(1, 1),
            weight=W,
        )


@pytest.fixture(scope="module")
def oracle(shared: Path, smollm2: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The published ROME's updates, and our ROME with their contexts, text and settings."""
    made = json.loads((shared / "oracle" / "factors.json").read_text())["rome"]
    lines = (shared / "wikitext2" / "valid.txt").read_text().splitlines(keepends=True)
    text = tmp_path_factory.mktemp("oracle") / "text.txt"
    text.write_text("".join([line for line in lines if len(line) > 200][:400]))
    moment = find_covariance(
        smollm2,
        made["layer"],
        CovarianceConfig(corpus=str(text), tokens=63_030, ridge=0.0),
        folder=text.parent,
        progress=False,
    )
    config = RomeConfig.preset("paper", {"layer": made["layer"], "weight_decay": made["weight_decay"]})
    method = Rome(smollm2, config, contexts=tuple(made["contexts"]), covariance=moment)
    return made["records"], load_file(shared / "oracle" / "factors.safetensors"), method


def test_the_oracle_covariance_has_the_published_size(oracle: Any) -> None:
    _, _, method = oracle
    assert method.covariance.tokens == 63_030
    assert float(method.covariance.moment.trace()) == pytest.approx(31.549419, rel=1e-4)


@pytest.mark.parametrize("index", [*range(3), *(pytest.param(place, marks=pytest.mark.slow) for place in range(3, 8))])
def test_parity_with_the_published_program(oracle: Any, index: int) -> None:
    records, tensors, method = oracle
    record = records[index]
    edit = Edit(
        id=str(record["case_id"]),
        subject=record["subject"],
        prompt=record["prompt"],
        target_new=record["target"].strip(),
    )
    (factors,) = method.edit([edit]).factors.values()
    published = torch.outer(tensors[f"rome.{index}.v"].flatten(), tensors[f"rome.{index}.u"].flatten())
    error = (delta(factors) - published).norm() / published.norm()
    assert error < 1e-3
