"""Files of covariances that somebody else has made: refused in words, before memory is taken for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kg_edit.covariance.files import Identity, Manifest, moment_path, read_moment
from kg_edit.covariance.moment import flat_size, moment_problem
from kg_edit.covariance.store import (
    CovarianceConfig,
    find_covariances,
    measure_covariances,
    stored_covariances,
)
from kg_edit.errors import CovarianceError
from tests.kg_edit.tiny import tiny
from tests.peak_memory import adds_at_most

IDENTITY = Identity(model="a", module="layers.1", corpus="self", tokens=3)
SIZE = 300  # more than one block
KEYS = torch.randn(1000, SIZE, generator=torch.Generator().manual_seed(0))
MOMENT = KEYS.T @ KEYS / 1000
FLAT = torch.cat([MOMENT[:256].reshape(-1), MOMENT[256:, 256:].reshape(-1)])


def forged(folder: Path, tensors: dict[str, torch.Tensor], *, identity: Identity = IDENTITY, **fields: object) -> Path:
    """A covariance's two files with some fields or tensors of our own."""
    every = {"count": 3, "chunks": 1, "model_name": "named", "size": SIZE} | fields
    manifest = Manifest(**identity.model_dump(), **every)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    path = moment_path(folder, identity)
    save_file(tensors, path, metadata={"manifest": manifest.model_dump_json()})
    path.with_suffix(".json").write_text(manifest.model_dump_json())
    return path


def rewrite(path: Path, **fields: object) -> None:
    """Write the manifest inside a covariance's file anew, with some fields of our own."""
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["manifest"]) | fields
    save_file({"upper": FLAT}, path, metadata={"manifest": json.dumps(manifest)})


def changed(change: Callable[[torch.Tensor], object]) -> dict[str, torch.Tensor]:
    copy = FLAT.clone()
    change(copy)
    return {"upper": copy}


def test_measured_file_is_read(tmp_path: Path) -> None:
    forged(tmp_path / "place", {"upper": FLAT})
    moment, _ = read_moment(moment_path(tmp_path / "place", IDENTITY), IDENTITY, size=SIZE)
    torch.testing.assert_close(moment, MOMENT)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]"])
def test_manifest_that_is_no_object_is_refused(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"upper": FLAT}, tmp_path / "a.safetensors", metadata={"manifest": text})
    assert stored_covariances(tmp_path) == []
    assert "a.safetensors is damaged" in caplog.text


def test_file_of_a_later_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    later = IDENTITY.model_copy(update={"version": 2})
    path = forged(tmp_path, {"upper": FLAT}, identity=later)
    with pytest.raises(CovarianceError, match=r"has version 2 of the format; this kg-edit reads version 1: update it"):
        read_moment(path, later)
    rewrite(path, unknown="a field of that version")
    with pytest.raises(CovarianceError, match=r"has version 2 of the format"):
        read_moment(path, later)


def test_files_of_another_format_are_counted_and_not_called_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for tokens in (1, 2):
        old = IDENTITY.model_copy(update={"tokens": tokens})
        rewrite(forged(tmp_path, {"upper": FLAT}, identity=old), format="kg-edit-covariance/2")
    forged(tmp_path, {"upper": FLAT})
    assert [manifest.tokens for manifest in stored_covariances(tmp_path)] == [3]
    (line,) = caplog.messages
    assert line.startswith("2 files of another format (kg-edit-covariance/2)") and "damaged" not in line


def test_moment_of_zeros_is_accepted() -> None:
    assert moment_problem(torch.zeros(flat_size(SIZE)), SIZE) is None


def test_wrong_size_is_refused_before_memory_is_used(tmp_path: Path) -> None:
    """A file of 50 MB would become a matrix of 100 MB."""
    model, config = tiny("llama"), CovarianceConfig(tokens=200)
    (measured,) = measure_covariances(model, [1], config, folder=tmp_path, progress=False).values()
    size = 5_000
    identity = Identity(**measured.model_dump(include=set(Identity.model_fields)))
    forged(tmp_path, {"upper": torch.zeros(flat_size(size))}, identity=identity, count=300, size=size)
    with (
        adds_at_most(60),
        pytest.raises(CovarianceError, match=r"has the size 5000, but .* of this model has \d+ inputs"),
    ):
        find_covariances(model, [1], config, folder=tmp_path, progress=False)
