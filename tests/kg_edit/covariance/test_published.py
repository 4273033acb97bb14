"""Published covariances: an imported file gives the same C and the same edit as the text from which it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kg_edit.covariance.published import import_covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances, stored_covariances
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, CovarianceError
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


def test_layer_without_an_import_names_the_command(tmp_path: Path) -> None:
    import_covariance(published(tmp_path), tiny("llama"), folder=tmp_path / "store")
    config = CovarianceConfig(corpus="imported:published")
    with pytest.raises(CovarianceError, match=r"of layer 2 .*kg-edit covariance import FILE.npz --layer 2"):
        find_covariances(tiny("llama"), [2], config, folder=tmp_path / "store")


def test_another_file_under_the_same_name_is_refused(tmp_path: Path) -> None:
    import_covariance(published(tmp_path), tiny("llama"), folder=tmp_path / "store")
    other = published(tmp_path, "other.npz", **{"mom2.count": np.asarray(7)})
    with pytest.raises(CovarianceError, match="give another --name"):
        import_covariance(other, tiny("llama"), layer=LAYER, folder=tmp_path / "store")
    assert import_covariance(other, tiny("llama"), layer=LAYER, name="other", folder=tmp_path / "store").count == 7


def test_tokens_of_an_imported_covariance_are_refused() -> None:
    settings = {"covariance": {"corpus": "imported:published", "tokens": 5}}
    with pytest.raises(ConfigError, match=r"setting covariance\.tokens"):
        Rome.config_class.preset("default", settings).refuse_idle()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mom2.mom2": None}, r"lacks 'mom2.mom2'"),
        ({"mom2.count": None}, r"lacks 'mom2.count'"),
        ({"mom2.count": np.asarray(0)}, r"mom2.count is 0; expected the number of tokens"),
        ({"mom2.count": np.asarray([1, 2])}, r"mom2.count is no number"),
        ({"mom2.mom2": np.eye(5, dtype=np.float32)}, r"has the shape \[5, 5\]"),
        ({"mom2.mom2": np.asarray([{}], dtype=object)}, r"has the shape \[1\] and the type object"),
        ({"mom2.mom2": np.full((48, 48), np.nan, np.float32)}, "not finite"),
        ({"mom2.mom2": np.triu(np.ones((48, 48), np.float32))}, "not symmetric"),
        ({"mom2.mom2": -np.eye(48, dtype=np.float32)}, "an entry of the diagonal is negative"),
    ],
)
def test_wrong_file_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match=message):
        import_covariance(published(tmp_path, **changes), tiny("llama"), folder=tmp_path / "store")
    assert not stored_covariances(tmp_path / "store")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(b"PK not a zip"), "not a readable .npz file"),
        (lambda file: file.write_bytes(file.read_bytes()[:3000]), "not a readable .npz file"),
        (lambda file: file.unlink(), "can't read"),
    ],
)
def test_damaged_file_is_refused(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    file = published(tmp_path)
    spoil(file)
    with pytest.raises(CovarianceError, match=message):
        import_covariance(file, tiny("llama"), folder=tmp_path / "store")


def test_name_without_a_module_needs_the_layer(tmp_path: Path) -> None:
    file = published(tmp_path, "stats.npz")
    with pytest.raises(CovarianceError, match=r"does not begin with a module .* give --layer N"):
        import_covariance(file, tiny("llama"), folder=tmp_path / "store")
