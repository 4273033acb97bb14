"""Files of covariances that somebody else has made: refused in words, before memory is taken for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kg_edit.covariance.files import Identity, Manifest, Position, moment_path, read_moment
from kg_edit.covariance.hub import FolderPlace, pull
from kg_edit.covariance.moment import flat_size, moment_problem
from kg_edit.covariance.store import (
    CovarianceConfig,
    find_covariances,
    measure_covariances,
    measure_shard,
    merge_shards,
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


def test_measured_file_is_read_and_pulled(tmp_path: Path) -> None:
    forged(tmp_path / "place", {"upper": FLAT})
    moment, _ = read_moment(moment_path(tmp_path / "place", IDENTITY), IDENTITY, size=SIZE)
    torch.testing.assert_close(moment, MOMENT)
    assert pull(FolderPlace(tmp_path / "place"), tmp_path / "store")


def test_complete_covariance_among_shards_is_not_called_damaged(tmp_path: Path) -> None:
    path = forged(tmp_path, {"upper": FLAT})
    with pytest.raises(CovarianceError, match=r"is the complete covariance of layers\.1; expected the sums") as raised:
        merge_shards([path], tmp_path)
    assert "delete" not in str(raised.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]"])
def test_manifest_that_is_no_object_is_refused(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"upper": FLAT}, tmp_path / "a.safetensors", metadata={"manifest": text})
    assert stored_covariances(tmp_path) == []
    assert "a.safetensors is damaged" in caplog.text


@pytest.mark.parametrize("wrong", [{"identities": {}}, {"parts": 0}, {"count": "many"}])
def test_impossible_position_is_refused_on_one_line(wrong: dict[str, object], tmp_path: Path) -> None:
    right = Position(identities={1: IDENTITY}, sizes={1: SIZE}, model_name="a", ridge=0.1, parts=2)
    path = tmp_path / "sums.safetensors"
    fields = json.dumps(right.model_dump(mode="json") | wrong)
    save_file({"total.1": FLAT}, path, metadata={"manifest": fields})
    with pytest.raises(CovarianceError, match=rf"is damaged \(field {next(iter(wrong))}") as raised:
        merge_shards([path], tmp_path)
    assert "\n" not in str(raised.value)


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


@pytest.mark.parametrize(
    ("tensors", "fields", "message"),
    [
        ({"upper": FLAT[:-1]}, {}, "expected a matrix of size 300"),
        ({"upper": FLAT.reshape(1, -1)}, {}, "expected a matrix of size"),
        ({"upper": FLAT}, {"size": 10**12}, "expected a matrix of size"),
        ({"upper": FLAT}, {"size": -1}, "expected a matrix of size"),
        ({"upper": FLAT}, {"size": 299}, "expected a matrix of size 299"),
        ({"lower": FLAT}, {}, "it contains lower"),
        ({"upper": FLAT, "other": FLAT.clone()}, {}, "it contains other, upper"),
        ({"upper": FLAT.to(torch.complex64)}, {}, "of the type"),
        ({"upper": FLAT.to(torch.int32)}, {}, "of the type"),
        ({"upper": FLAT}, {"count": 2}, "the mean of 2 tokens; expected 3"),
        ({"upper": FLAT}, {"count": -5}, "the mean of -5 tokens"),
        ({"upper": FLAT}, {"chunks": 0}, "the mean of"),
        (changed(lambda c: c.neg_()), {}, "diagonal is negative"),
        (changed(lambda c: c[0].mul_(9)), {}, "larger than both"),
        (changed(lambda c: c[5].fill_(float("nan"))), {}, "not finite"),
    ],
)
def test_pull_refuses_impossible_covariances(
    tmp_path: Path, tensors: dict[str, torch.Tensor], fields: dict[str, object], message: str
) -> None:
    if message == "larger than both":
        tensors["upper"][1] = 1e6
    forged(tmp_path / "place", tensors, **fields)
    with pytest.raises(CovarianceError, match=message):
        pull(FolderPlace(tmp_path / "place"), tmp_path / "store")
    assert not list((tmp_path / "store").glob("*.*"))


def test_moment_of_zeros_is_accepted() -> None:
    assert moment_problem(torch.zeros(flat_size(SIZE)), SIZE) is None


def test_wrong_size_is_refused_before_memory_is_used(tmp_path: Path) -> None:
    """A file of 50 MB would become a matrix of 100 MB."""
    model, config = tiny("llama"), CovarianceConfig(tokens=200)
    (measured,) = measure_covariances(model, [1], config, folder=tmp_path, progress=False).values()
    size = 5_000
    forged(tmp_path, {"upper": torch.zeros(flat_size(size))}, identity=measured.identity, count=300, size=size)
    with (
        adds_at_most(60),
        pytest.raises(CovarianceError, match=r"has the size 5000, but .* of this model has \d+ inputs"),
    ):
        find_covariances(model, [1], config, folder=tmp_path, progress=False)


@pytest.mark.slow
def test_shard_file_of_another_size_is_refused(tmp_path: Path) -> None:
    model, config = tiny("llama"), CovarianceConfig(tokens=200)
    path = measure_shard(model, [1], config, part=0, parts=2, folder=tmp_path, progress=False)
    assert isinstance(path, Path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    wrong = json.loads(metadata["manifest"]) | {"sizes": {"1": 10**11}}
    for name, changes in (("half.1", torch.zeros(3)), ("probes.1", torch.zeros(2, 3)), ("total.1", torch.zeros(3))):
        save_file({**tensors, name: changes}, path, metadata=metadata)
        with pytest.raises(CovarianceError, match="is damaged"):
            measure_shard(model, [1], config, part=0, parts=2, folder=tmp_path, progress=False)
    save_file(tensors, path, metadata={"manifest": json.dumps(wrong)})
    with pytest.raises(CovarianceError, match="is damaged"):
        measure_shard(model, [1], config, part=0, parts=2, folder=tmp_path, progress=False)
