"""The second moment and its store: exact, resumable, found by content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from kg_edit.covariance.corpora import SelfCorpus
from kg_edit.covariance.files import Identity, Manifest, moment_path, write_moment
from kg_edit.covariance.moment import Covariance, SecondMoment, flat_size, square
from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.errors import CovarianceError
from kg_edit.models.hooks import watch
from tests.everyday import keep_first
from tests.kg_edit.tiny import TEXT, tiny


def mean_of(running: SecondMoment) -> torch.Tensor:
    """E[k k^T] of what was added, [size, size]."""
    return square(running.mean(), running.size)


def test_second_moment_equals_hand_computation() -> None:
    running = SecondMoment(2)
    running.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    running.add(torch.tensor([[[0.0, 1.0]]]))
    torch.testing.assert_close(mean_of(running), torch.tensor([[10.0, 2.0], [2.0, 5.0]], dtype=torch.float64) / 3)


def test_solve_adds_the_ridge() -> None:
    moment = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    covariance = Covariance(moment=moment, tokens=1, ridge=0.5, id="toy")  # ridge * mean diagonal = 1
    torch.testing.assert_close(covariance.solve(torch.tensor([5.0, 3.0])), torch.tensor([1.0, 3.0]).double())
    with pytest.raises(CovarianceError, match="not positive definite"):
        Covariance(moment=moment, tokens=1, ridge=0.0, id="toy").solve(torch.ones(2))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(f"{line} {number}" for number in range(70) for line in TEXT[:3]) + "\n")
    return path


@pytest.mark.parametrize("family", keep_first(["llama", "opt", "falcon-alibi"]))
def test_batched_moment_equals_one_by_one(family: str, corpus: Path, tmp_path: Path) -> None:
    model = tiny(family)
    size = model.down_projection(1).weight.shape[1]
    running = SecondMoment(int(size))
    with torch.no_grad(), watch(model.down_projection(1), lambda key, _: running.add(key)):
        for line in corpus.read_text().splitlines(keepends=True):
            model.model(torch.tensor([model.tokenizer(line)["input_ids"]]))
    covariance = find_covariances(
        model, [1], CovarianceConfig(corpus=str(corpus), tokens=running.count), folder=tmp_path, progress=False
    )[1]
    assert covariance.tokens == running.count
    torch.testing.assert_close(covariance.moment, mean_of(running).float(), rtol=1e-4, atol=1e-5)


def test_covariance_is_measured_once(corpus: Path, tmp_path: Path) -> None:
    model, config = tiny("llama"), CovarianceConfig(corpus=str(corpus), tokens=500)
    first = find_covariances(model, [1], config, folder=tmp_path / "c", progress=False)[1]
    calls: list[int] = []
    with watch(model.down_projection(1), lambda *_: calls.append(1)):
        again = find_covariances(model, [1], config, folder=tmp_path / "c", progress=False)[1]
    assert calls == []
    assert again.id == first.id
    assert torch.equal(again.moment, first.moment)
    (file,) = (tmp_path / "c").glob("*.safetensors")
    with safe_open(file, framework="pt") as stored:
        manifest = json.loads(stored.metadata()["manifest"])
    assert manifest == json.loads(file.with_suffix(".json").read_text())
    assert manifest["module"] == "model.layers.1.mlp.down_proj"
    assert manifest["count"] == first.tokens


@pytest.mark.parametrize(
    "change",
    keep_first([{"tokens": 501}, {"model": "qwen2"}, {"corpus": "self"}, {"layer": 2}], keep=2),
    ids=lambda change: next(iter(change)),
)
def test_covariance_id_depends_on_its_inputs(change: dict[str, object], corpus: Path, tmp_path: Path) -> None:
    def identity(**options: object) -> str:
        config = CovarianceConfig(corpus=str(options["corpus"]), tokens=int(str(options["tokens"])))
        layer = int(str(options["layer"]))
        return find_covariances(tiny(str(options["model"])), [layer], config, folder=tmp_path, progress=False)[layer].id

    usual = {"tokens": 500, "corpus": corpus, "layer": 1, "model": "llama"}
    assert identity(**usual) != identity(**{**usual, **change})


@pytest.mark.slow
def test_self_corpus_leaves_the_global_generator(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    SelfCorpus(seed=1).sample_keys(tiny("llama"), 0, [1], lambda *_: None)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 700])
def test_triangle_equals_the_whole_matrix(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    keys = torch.randint(-3, 4, (40, size), generator=generator).float()  # whole numbers: sums are exact
    running = SecondMoment(size)
    for batch in keys.split([1, 30, 9]):
        running.add(batch)
    assert torch.equal(mean_of(running) * 40, (keys.T @ keys).double())
    assert torch.equal(mean_of(running), mean_of(running).T)
    assert len(running.total) == flat_size(size)
    assert size < 257 or len(running.total) < size * size


def test_waiting_keys_are_bounded() -> None:
    running = SecondMoment(3)
    for _ in range(5):
        running.add(torch.ones(1000, 3))
    assert running.total.max() == 3000, "products are made of 2048 rows or more"
    assert torch.equal(mean_of(running), torch.ones(3, 3).double())


def test_half_precision_keys_are_added_in_full() -> None:
    running = SecondMoment(1)
    for value in (256.0, 1.0):  # their squares' sum, 65537, is no bfloat16, nor a float16
        running.add(torch.tensor([[value]], dtype=torch.bfloat16))
    assert mean_of(running).item() == 65537 / 2


def test_killed_write_leaves_no_moment_without_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity(model="m", module="w", corpus="c", tokens=1)
    manifest = Manifest(**identity.model_dump(), count=1, chunks=1, model_name="tiny", size=2)

    def killed(path: Path, value: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("kg_edit.covariance.files.write_json", killed)
        write_moment(tmp_path, torch.ones(flat_size(2)), manifest)
    assert not moment_path(tmp_path, identity).exists()
    assert write_moment(tmp_path, torch.ones(flat_size(2)), manifest).with_suffix(".json").exists()
