"""Covariances that are refused: files that were imported, corpora without text, matrices that can't be solved with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kg_edit.covariance import measure
from kg_edit.covariance.corpora import file_corpus
from kg_edit.covariance.files import Identity, Manifest, moment_path, read_manifest, read_moment, write_moment
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.published import import_covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances, stored_covariances
from kg_edit.errors import ConfigError, CovarianceError
from kg_edit.methods.rome.method import Rome
from tests.kg_edit.covariance.test_published import LAYER, published
from tests.kg_edit.tiny import tiny
from tests.refusals import Call, check_refused, put, refusals

IDENTITY = Identity(model="m", module="x", corpus="c", tokens=2)


def import_with(folder: Path, changes: dict[str, Any], *, name: str | None = None) -> object:
    """Import a published file in which some arrays are others, or missing."""
    file = published(folder, name, **changes) if name else published(folder, **changes)
    return import_covariance(file, tiny("llama"), folder=folder / "store")


def import_cut(folder: Path, length: int) -> object:
    file = published(folder)
    file.write_bytes(file.read_bytes()[:length])
    return import_covariance(file, tiny("llama"), folder=folder / "store")


def find_imported(folder: Path, layer: int) -> object:
    config = CovarianceConfig(corpus="imported:published")
    return find_covariances(tiny("llama"), [layer], config, folder=folder / "store")


def measure_sizes() -> object:
    """Covariances of two layers with their own numbers of tokens."""
    identities = {layer: Identity(model="m", module=str(layer), corpus="c", tokens=10 + layer) for layer in (0, 1)}
    return measure.open_sums(tiny("llama"), identities, Path("unused"), ridge=0.0)


def solve(rows: list[list[float]], *, ridge: float = 0.0) -> object:
    return Covariance(moment=torch.tensor(rows), tokens=1, ridge=ridge, id="toy").solve(torch.ones(2))


def written(folder: Path, number: float = 1.0) -> Path:
    manifest = Manifest(**IDENTITY.model_dump(), count=2, chunks=1, model_name="named", size=2)
    return write_moment(folder, torch.full((4,), number), manifest)


def read_renamed(folder: Path) -> object:
    """A file under the name of another covariance."""
    other = moment_path(folder, IDENTITY.model_copy(update={"tokens": 3}))
    written(folder).rename(other)
    return read_manifest(other)


@refusals(
    {
        # Published files
        "no matrix": (lambda folder: import_with(folder, {"mom2.mom2": None}), CovarianceError, "lacks 'mom2.mom2'"),
        "no count": (lambda folder: import_with(folder, {"mom2.count": None}), CovarianceError, "lacks 'mom2.count'"),
        "count of zero": (
            lambda folder: import_with(folder, {"mom2.count": np.asarray(0)}),
            CovarianceError,
            "expected the number of tokens",
        ),
        "several counts": (
            lambda folder: import_with(folder, {"mom2.count": np.asarray([1, 2])}),
            CovarianceError,
            "mom2.count is not a number",
        ),
        "another size": (
            lambda folder: import_with(folder, {"mom2.mom2": np.eye(5, dtype=np.float32)}),
            CovarianceError,
            "has the shape [5, 5]",
        ),
        "objects": (
            lambda folder: import_with(folder, {"mom2.mom2": np.asarray([{}], dtype=object)}),
            CovarianceError,
            "the type object",
        ),
        "not a number": (
            lambda folder: import_with(folder, {"mom2.mom2": np.full((48, 48), np.nan, np.float32)}),
            CovarianceError,
            "not finite",
        ),
        "not symmetric": (
            lambda folder: import_with(folder, {"mom2.mom2": np.triu(np.ones((48, 48), np.float32))}),
            CovarianceError,
            "not symmetric",
        ),
        "negative diagonal": (
            lambda folder: import_with(folder, {"mom2.mom2": -np.eye(48, dtype=np.float32)}),
            CovarianceError,
            "diagonal is negative",
        ),
        "file that was cut": (lambda folder: import_cut(folder, 3000), CovarianceError, "not a readable .npz file"),
        "no zip file": (
            lambda folder: import_covariance(put(folder, "a.npz", "PK"), tiny("llama"), layer=LAYER),
            CovarianceError,
            "not a readable .npz file",
        ),
        "no such file": (
            lambda folder: import_covariance(folder / "none.npz", tiny("llama"), layer=LAYER),
            CovarianceError,
            "can't read",
        ),
        "name without a module": (
            lambda folder: import_with(folder, {}, name="stats.npz"),
            CovarianceError,
            "give --layer N",
        ),
        "layer without an import": (
            lambda folder: find_imported(folder, 2),
            CovarianceError,
            "kg-edit covariance import FILE.npz --layer 2",
        ),
        "tokens of an import": (
            lambda _: Rome.config_class.preset(
                "default", {"covariance": {"corpus": "imported:published", "tokens": 5}}
            ).refuse_idle(),
            ConfigError,
            "covariance.tokens",
        ),
        # Measured ones
        "no such corpus": (lambda folder: file_corpus(folder / "text.txt"), CovarianceError, "can't read"),
        "corpus that is not text": (
            lambda folder: file_corpus(put(folder, "text.txt", b"\xff\xfe\x00")),
            CovarianceError,
            "UTF-8",
        ),
        "layers of several sizes": (lambda _: measure_sizes(), CovarianceError, "give the number of tokens"),
        "file of other tokens": (
            lambda folder: read_moment(written(folder), IDENTITY.model_copy(update={"tokens": 3})),
            CovarianceError,
            "expected tokens = 3, found 2",
        ),
        "file under another name": (read_renamed, CovarianceError, f"contains the covariance {IDENTITY.id}"),
        "half a file": (
            lambda folder: read_manifest(put(folder, "half.safetensors", b"\x08")),
            CovarianceError,
            "half.safetensors is damaged",
        ),
        "infinite moment": (
            lambda folder: written(folder, float("inf")),
            CovarianceError,
            "not finite in this model's dtype",
        ),
        # Solving
        "zero eigenvalue": (lambda _: solve([[4.0, 0.0], [0.0, 0.0]]), CovarianceError, "not positive definite"),
        "negative eigenvalue": (
            lambda _: solve([[1.0, 2.0], [2.0, 1.0]], ridge=1e-3),
            CovarianceError,
            "not positive definite",
        ),
    }
)
def test_mistake_is_refused(
    call: Call, error: type[Exception], keyword: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))
    check_refused(call, tmp_path, error, keyword)
    assert not (tmp_path / "store").exists() or not stored_covariances(tmp_path / "store"), "nothing is imported"


def test_second_import_needs_a_name_of_its_own(tmp_path: Path) -> None:
    store = tmp_path / "store"
    import_covariance(published(tmp_path, "first file.npz"), tiny("llama"), layer=LAYER, folder=store)
    other = published(tmp_path, "other.npz", **{"mom2.count": np.asarray(7)})
    with pytest.raises(CovarianceError, match=r"first file\.npz is stored as .* give another --name"):
        import_covariance(other, tiny("llama"), layer=LAYER, folder=store)
    assert import_covariance(other, tiny("llama"), layer=LAYER, name="other", folder=store).count == 7
