"""The closed form by hand, and against updates computed by the published program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.methods.rome.method import Rome, RomeConfig, rank_one_update
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.factors import Factors

W = torch.tensor([[1.0, 2.0], [0.0, 1.0]])


def covariance(*diagonal: float) -> Covariance:
    return Covariance(moment=torch.diag(torch.tensor(diagonal)), tokens=9, ridge=0.0, id="toy")


def delta(factors: Factors) -> torch.Tensor:
    return factors.left @ factors.right.T


def test_rank_one_update_by_hand() -> None:
    """C = diag(1, 4), k* = (2, 4): C^-1 k* = (2, 1). k = (1, 0), change (3, 5): W' = W + (3, 5)(2, 1)^T / 2."""
    factors = rank_one_update(
        change=torch.tensor([3.0, 5.0]),
        mean_key=torch.tensor([2.0, 4.0]),
        bare_key=torch.tensor([1.0, 0.0]),
        covariance=covariance(1, 4),
        matrix=W,
    )
    torch.testing.assert_close(delta(factors), torch.tensor([[3.0, 1.5], [5.0, 2.5]]))


def test_r_rome_gives_the_value_for_the_mean_key() -> None:
    """R-ROME: (W + D) k* = m*, with m* = W k + change."""
    bare, mean, change = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0]), torch.tensor([3.0, 5.0])
    factors = rank_one_update(
        change=change, mean_key=mean, bare_key=bare, covariance=covariance(1, 4), matrix=W, variant="r-rome"
    )
    torch.testing.assert_close((W + delta(factors)) @ mean, W @ bare + change)


@dataclass(frozen=True)
class Oracle:
    """Updates computed by the published ROME, with its contexts, text and settings."""

    model: LanguageModel
    made: dict[str, Any]
    factors: dict[str, torch.Tensor]

    def edit(self, index: int) -> Edit:
        record = self.made["records"][index]
        texts = {"subject": record["subject"], "prompt": record["prompt"], "target_new": record["target"].strip()}
        return Edit(id=str(record["case_id"]), **texts)

    def update(self, index: int, moment: Covariance) -> Factors:
        """Our ROME's update with the same inputs and a second moment of the keys."""
        layer = self.made["layer"]
        config = RomeConfig.preset("paper", {"layer": layer, "weight_decay": self.made["weight_decay"]})
        rome = Rome(self.model, config, contexts=tuple(self.made["contexts"]), covariance=moment)
        (factors,) = rome.edit([self.edit(index)]).factors.values()
        return factors

    def value(self, index: int) -> torch.Tensor:
        """The published left factor, a multiple of m* - m."""
        return self.factors[f"rome.{index}.v"].flatten()

    def delta(self, index: int) -> torch.Tensor:
        return torch.outer(self.value(index), self.factors[f"rome.{index}.u"].flatten())


@pytest.fixture(scope="module")
def oracle(shared: Path, smollm2: LanguageModel) -> Oracle:
    recorded = json.loads((shared / "oracle" / "factors.json").read_text())["rome"]
    return Oracle(smollm2, recorded, load_file(shared / "oracle" / "factors.safetensors"))


@pytest.fixture(scope="module")
def moment(oracle: Oracle, shared: Path, request: pytest.FixtureRequest) -> Covariance:
    """C on the oracle's text; kept in pytest's own cache, since it takes a minute."""
    lines = (shared / "wikitext2" / "valid.txt").read_text().splitlines(keepends=True)
    folder = request.config.cache.mkdir("oracle")
    text = folder / "text.txt"
    text.write_text("".join([line for line in lines if len(line) > 200][:400]))
    config = CovarianceConfig(corpus=str(text), tokens=63_030, ridge=0.0)
    (c,) = find_covariances(oracle.model, [oracle.made["layer"]], config, folder=folder, progress=False).values()
    return c


@pytest.mark.slow
def test_value_equals_that_of_the_published_program(oracle: Oracle) -> None:
    """m* - m does not depend on C: with any C the left factor is a multiple of the published one."""
    width = oracle.model.down_projection(oracle.made["layer"]).weight.shape[1]
    ours = oracle.update(4, covariance(*[1.0] * width)).left.flatten()  # the shortest subject
    assert torch.cosine_similarity(ours, oracle.value(4), dim=0) > 1 - 1e-6


@pytest.mark.slow
def test_covariance_has_the_published_trace(moment: Covariance) -> None:
    assert moment.tokens == 63_030
    assert float(moment.moment.trace()) == pytest.approx(31.549419, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(8))
def test_update_equals_that_of_the_published_program(oracle: Oracle, moment: Covariance, index: int) -> None:
    published = oracle.delta(index)
    error = (delta(oracle.update(index, moment)) - published).norm() / published.norm()
    assert error < 1e-3
