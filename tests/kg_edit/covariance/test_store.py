"""Shards: dealt out, killed and resumed, merged into the whole; nothing but all shards of one run is merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from kg_edit.covariance.corpora import SelfCorpus
from kg_edit.covariance.files import Manifest
from kg_edit.covariance.keys import See
from kg_edit.covariance.store import CovarianceConfig, find_covariances, measure_shard, merge_shards, stored_covariances
from kg_edit.errors import CovarianceError
from kg_edit.models.language_model import LanguageModel
from tests.everyday import keep_first
from tests.kg_edit.tiny import TEXT, tiny

pytestmark = pytest.mark.usefixtures("short_texts")

LAYERS = (1, 2)
TOKENS = 4 * 8 * SelfCorpus.rows


def shard(
    folder: Path, part: int, parts: int, *, corpus: str = "self", seed: int = 0, tokens: int = TOKENS
) -> dict[int, Manifest] | Path:
    config = CovarianceConfig(corpus=corpus, tokens=tokens, seed=seed)
    return measure_shard(tiny("llama"), LAYERS, config, part=part, parts=parts, folder=folder, progress=False)


def file_of(folder: Path, part: int, parts: int, *, seed: int = 0, tokens: int = TOKENS) -> Path:
    file = shard(folder, part, parts, seed=seed, tokens=tokens)
    assert isinstance(file, Path)
    return file


@pytest.mark.parametrize("corpus", ["self", "file"])
@pytest.mark.parametrize("parts", keep_first([2, 3, 7], keep=1))
def test_merged_shards_equal_the_whole(parts: int, corpus: str, tmp_path: Path) -> None:
    if corpus == "file":
        corpus = str(tmp_path / "text.txt")
        Path(corpus).write_text("\n".join(TEXT * 25))
    config = CovarianceConfig(corpus=corpus, tokens=TOKENS)
    unsharded = find_covariances(tiny("llama"), LAYERS, config, folder=tmp_path / "whole", progress=False)
    *first, last = [shard(tmp_path / "parts", part, parts, corpus=corpus) for part in reversed(range(parts))]
    assert all(isinstance(path, Path) and not path.exists() for path in first), "merged shards are deleted"
    assert isinstance(last, dict)
    merged = find_covariances(tiny("llama"), LAYERS, config, folder=tmp_path / "parts", progress=False)
    for layer in LAYERS:
        assert (merged[layer].id, merged[layer].tokens) == (unsharded[layer].id, unsharded[layer].tokens)
        torch.testing.assert_close(merged[layer].moment, unsharded[layer].moment, rtol=1e-6, atol=0)
    for one, other in zip(*map(stored_covariances, (tmp_path / "whole", tmp_path / "parts")), strict=True):
        assert one.model_copy(update={"doublings": ()}) == other.model_copy(update={"doublings": ()})
        (found_doubling,) = other.doublings
        expected = one.doublings[-1]
        assert (found_doubling.tokens_before, found_doubling.tokens) == (expected.tokens_before, expected.tokens)
        assert found_doubling.median_degrees == pytest.approx(expected.median_degrees, rel=1e-3)
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        path.name for path in (tmp_path / "parts").iterdir()
    }


def test_shards_of_several_machines_are_merged(tmp_path: Path) -> None:
    files = [file_of(tmp_path / str(part), part, 2) for part in range(2)]
    merged = merge_shards(files, tmp_path / "merged")
    assert {layer: manifest.count for layer, manifest in merged.items()} == dict.fromkeys(LAYERS, TOKENS)
    assert all(path.is_file() for path in files), "who gives files keeps them"
    assert len(stored_covariances(tmp_path / "merged")) == 2


def test_two_shards_that_end_together_are_merged_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one finds the files deleted, and the covariances there."""

    def overtaken(files: Sequence[Path], folder: Path) -> dict[int, Manifest]:
        merge_shards(files, folder)
        for file in files:
            file.unlink()
        return merge_shards(files, folder)

    shard(tmp_path, 0, 2)
    monkeypatch.setattr("kg_edit.covariance.store.merge_shards", overtaken)
    merged = shard(tmp_path, 1, 2)
    assert isinstance(merged, dict) and merged.keys() == set(LAYERS)


def test_shard_computes_its_chunks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = SelfCorpus.feed
    chunks: list[int] = []

    def killed(self: SelfCorpus, model: LanguageModel, chunk: int, layers: Sequence[int], see: See) -> None:
        chunks.append(chunk)
        feed(self, model, chunk, layers, see)
        if chunks == [1, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(SelfCorpus, "feed", killed)
    with pytest.raises(KeyboardInterrupt):
        shard(tmp_path / "killed", 1, 2)
    resumed = file_of(tmp_path / "killed", 1, 2)
    assert chunks == [1, 3, 3]
    assert file_of(tmp_path / "killed", 1, 2) == resumed
    assert chunks == [1, 3, 3], "a finished shard is not measured again"
    assert resumed.read_bytes() == file_of(tmp_path / "whole", 1, 2).read_bytes()


def test_merge_needs_all_shards_of_one_run(tmp_path: Path) -> None:
    zero, one = (file_of(tmp_path / str(part), part, 2) for part in range(2))
    with pytest.raises(CovarianceError, match="missing shards: 1/2; give every shard"):
        merge_shards([zero], tmp_path)
    with pytest.raises(CovarianceError, match="are both shard 0"):
        merge_shards([zero, _copy(zero), one], tmp_path)
    other = file_of(tmp_path / "other", 0, 2, seed=1)
    with pytest.raises(CovarianceError, match=r"not shards of the same run: identities is"):
        merge_shards([other, one], tmp_path)
    third = file_of(tmp_path / "third", 0, 3)
    with pytest.raises(CovarianceError, match=r"not shards of the same run: parts is 3 and 2"):
        merge_shards([third, one], tmp_path)
    with pytest.raises(CovarianceError, match="no shard is given"):
        merge_shards([], tmp_path)
    with pytest.raises(CovarianceError, match="damaged"):
        merge_shards([tmp_path / "absent.safetensors"], tmp_path)
    assert stored_covariances(tmp_path) == []


def test_unfinished_shard_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = file_of(tmp_path / "0", 0, 2)
    feed = SelfCorpus.feed

    def killed(self: SelfCorpus, model: LanguageModel, chunk: int, layers: Sequence[int], see: See) -> None:
        if chunk == 3:
            raise KeyboardInterrupt
        feed(self, model, chunk, layers, see)

    monkeypatch.setattr(SelfCorpus, "feed", killed)
    with pytest.raises(KeyboardInterrupt):
        shard(tmp_path / "1", 1, 2)
    (unfinished,) = (tmp_path / "1").iterdir()
    with pytest.raises(CovarianceError, match=r"is not finished \(1536 of 2048 tokens\); run it again"):
        merge_shards([finished, unfinished], tmp_path)


@pytest.mark.parametrize(("part", "parts"), [(2, 2), (-1, 2), (0, 1)])
def test_shard_number_out_of_range_is_refused(part: int, parts: int, tmp_path: Path) -> None:
    with pytest.raises(CovarianceError, match="there is no shard"):
        shard(tmp_path, part, parts)


def _copy(path: Path) -> Path:
    copied = path.with_name("copy.safetensors")
    copied.write_bytes(path.read_bytes())
    return copied
