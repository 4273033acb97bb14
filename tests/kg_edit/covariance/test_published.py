"""Published covariances: an imported file gives the same C and the same edit as the text from which it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kg_edit.covariance.published import import_covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances, stored_covariances
from kg_edit.edits.edit import Edit
from kg_edit.methods.rome.method import Rome
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny

LAYER = 1
NAME = "model.layers.1.mlp.down_proj_float32_mom2_100000.npz"
CORPUS = QUICK["rome"]["covariance"]


def published(folder: Path, name: str = NAME, **changes: Any) -> Path:
    """A file as ROME's program writes it (its `runningstats.CombinedStat`): the sum of k k^T and the count."""
    measured = find_covariances(
        tiny("llama"), [LAYER], CovarianceConfig(**CORPUS), folder=folder / "own", progress=False
    )[LAYER]
    arrays: dict[str, Any] = {
        "sample_size": np.asarray(100_000),
        "mom2.constructor": np.asarray("util.runningstats.SecondMoment()"),
        "mom2.count": np.asarray(measured.tokens),
        "mom2.mom2": (measured.moment * measured.tokens).numpy(),
    }
    arrays |= changes
    np.savez(folder / name, **{key: value for key, value in arrays.items() if value is not None})
    return folder / name


def test_imported_covariance_is_the_published_one(tmp_path: Path) -> None:
    file = published(tmp_path)
    manifest = import_covariance(file, tiny("llama"), folder=tmp_path / "store")
    assert manifest.module == "model.layers.1.mlp.down_proj" and manifest.source.startswith(f"{NAME} sha256=")
    assert import_covariance(file, tiny("llama"), folder=tmp_path / "store") == manifest, (
        "a second time changes nothing"
    )
    config = CovarianceConfig(corpus="imported:published")
    imported = find_covariances(tiny("llama"), [LAYER], config, folder=tmp_path / "store")[LAYER]
    measured = find_covariances(tiny("llama"), [LAYER], CovarianceConfig(**CORPUS), folder=tmp_path / "own")[LAYER]
    assert imported.tokens == measured.tokens
    torch.testing.assert_close(imported.moment, measured.moment, rtol=1e-5, atol=1e-8)
    assert [stored.corpus for stored in stored_covariances(tmp_path / "store")] == ["imported:published"]


def test_edit_with_an_imported_covariance_equals_the_edit_with_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))
    import_covariance(published(tmp_path), tiny("llama"))  # into the store that edits read
    edit = Edit(subject="The lazy dog", prompt="{} lives in", target_new="London")
    factors = []
    for covariance in (CORPUS, {"corpus": "imported:published"}):
        method = Rome.on(tiny("llama"), settings={**QUICK["rome"], "covariance": covariance})
        (factor,) = method.edit([edit]).factors.values()
        factors.append(factor.left @ factor.right.T)
    torch.testing.assert_close(factors[1], factors[0], rtol=1e-3, atol=1e-5)
