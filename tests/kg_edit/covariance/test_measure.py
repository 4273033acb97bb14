"""One pass for several layers: the same sums as alone, resumed bit for bit, with a measured error."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kg_edit.covariance.corpora import SelfCorpus, TextCorpus
from kg_edit.covariance.doublings import KEYS, Doublings
from kg_edit.covariance.keys import ReceiveKeys, can_pack, packed_batches, padded_batches, pass_keys
from kg_edit.covariance.moment import ConvergenceCheck, Covariance, compare_directions, directions
from kg_edit.covariance.store import (
    CovarianceConfig,
    find_covariances,
    measure_covariances,
)
from kg_edit.errors import CovarianceError, PatchError
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.tiny import TEXT, families, tiny

pytestmark = pytest.mark.usefixtures("short_texts")

CHUNK = 8 * SelfCorpus.rows
UNPACKED = {
    "bloom",
    "falcon",
    "falcon-alibi",
    "lfm2",
    "lfm3",
    "mpt",
    "opt",
    "opt-350m",
    "qwen3_5_text",
}  # do not read position ids so


def of(folder: Path, *layers: int, chunks: int = 4, corpus: str = "self", ridge: float = 1e-4) -> dict[int, Covariance]:
    config = CovarianceConfig(corpus=corpus, tokens=chunks * CHUNK, ridge=ridge)
    return find_covariances(tiny("llama"), layers, config, folder=folder, progress=False)


@pytest.mark.slow
def test_layers_together_equal_layers_alone(tmp_path: Path) -> None:
    together = of(tmp_path / "together", 0, 1, 3)
    for layer, covariance in together.items():
        alone = of(tmp_path / "alone", layer)[layer]
        assert (alone.id, alone.tokens) == (covariance.id, covariance.tokens)
        assert torch.equal(alone.moment, covariance.moment)
    assert _files(tmp_path / "alone") == _files(tmp_path / "together"), "manifests and errors too"


def test_cache_that_can_not_be_written_is_refused_before_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("")
    monkeypatch.setattr(SelfCorpus, "chunks", lambda *_, **__: pytest.fail("the text is read"))
    with pytest.raises(CovarianceError, match=r"can't write into the cache .*; set KG_EDIT_CACHE to a folder of yours"):
        of(tmp_path / "cache" / "covariance", 1)


@pytest.mark.parametrize("family", families())
def test_forward_pass_ends_at_the_highest_layer(family: str) -> None:
    model = tiny(family)
    ran: list[str] = []
    keys: dict[int, list[Tensor]] = {0: [], 2: []}
    parts = {"down": model.down_projection(2), "above": model.blocks[3], "head": model.model.get_output_embeddings()}
    handles = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name))  # type: ignore[misc]
        for name, part in parts.items()
    ]
    rows = [model.tokenizer(text)["input_ids"] for text in TEXT[:3]]
    pass_keys(model, [2, 0], [*rows, []], lambda layer, key: keys[layer].append(key))
    for handle in handles:
        handle.remove()
    assert ran == []
    assert {layer: sum(map(len, seen)) for layer, seen in keys.items()} == dict.fromkeys((0, 2), sum(map(len, rows)))


@pytest.mark.parametrize("family", families())
def test_packed_texts_do_not_attend_to_each_other(family: str) -> None:
    model = tiny(family)
    rows = [model.tokenizer(text[start:])["input_ids"] for text in TEXT[:3] for start in (0, 30, 60)]

    def moment(*, packed: bool) -> Tensor:
        seen: list[Tensor] = []
        for part in [rows] if packed else [[row] for row in rows]:
            pass_keys(model, [2], part, lambda _, key: seen.append(key), packed=packed)
        keys = torch.cat(seen)
        assert len(keys) == sum(map(len, rows))
        return keys.T @ keys

    alone = moment(packed=False)
    agree = torch.allclose(moment(packed=True), alone, rtol=1e-4, atol=1e-4 * float(alone.max()))
    assert can_pack(model) == agree
    assert agree == (family not in UNPACKED)


def test_packing_leaves_little_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [[1] * int(n) for n in torch.randint(3, 257, (200,), generator=generator)]
    batches = list(packed_batches(rows, torch.device("cpu")))
    tokens = sum(map(len, rows))
    assert sum(int(batch.real.sum()) for batch in batches) == tokens
    assert sum(batch.real.numel() for batch in batches) < 1.04 * tokens
    assert max(batch.real.numel() for batch in batches) <= 2048
    padded = list(padded_batches(rows, torch.device("cpu")))
    assert sum(int(batch.real.sum()) for batch in padded) == tokens
    assert sum(batch.real.numel() for batch in padded) < 1.06 * tokens


@pytest.mark.parametrize("killed_in", keep_first(range(4)))
def test_killed_pass_resumes_to_the_same_files(killed_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of(tmp_path / "whole", 1, 2)
    sample_keys = SelfCorpus.sample_keys
    chunks: list[int] = []

    def killed(self: SelfCorpus, model: LanguageModel, chunk: int, layers: Sequence[int], receive: ReceiveKeys) -> None:
        chunks.append(chunk)
        sample_keys(self, model, chunk, layers, receive)
        if chunks == list(range(killed_in + 1)):
            raise KeyboardInterrupt

    monkeypatch.setattr(SelfCorpus, "sample_keys", killed)
    with pytest.raises(KeyboardInterrupt):
        of(tmp_path / "part", 1, 2)
    assert len(list((tmp_path / "part").glob("*"))) == bool(killed_in)
    of(tmp_path / "part", 1, 2)
    assert chunks == [*range(killed_in + 1), *range(killed_in, 4)]
    assert _files(tmp_path / "part") == _files(tmp_path / "whole")


def test_sums_of_an_earlier_version_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their position has the field ``seen`` too."""
    of(tmp_path / "whole", 1)
    partial = _stopped(tmp_path / "part", monkeypatch)
    with safe_open(partial, framework="pt") as file:
        position = json.loads(file.metadata()["manifest"])
    save_file(load_file(partial), partial, metadata={"manifest": json.dumps(position | {"seen": position["count"]})})
    of(tmp_path / "part", 1)
    assert _files(tmp_path / "part") == _files(tmp_path / "whole")


def test_short_file_is_refused_before_the_pass(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT[0])
    with (
        watch(tiny("llama").blocks[0], lambda *_: pytest.fail("the model ran")),
        pytest.raises(CovarianceError, match=r"ends after \d\d of 2048 tokens; give more text"),
    ):
        of(tmp_path / "store", 1, corpus=str(tmp_path / "text.txt"))


def test_short_stream_is_refused_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = SelfCorpus.chunks
    monkeypatch.setattr(SelfCorpus, "chunks", lambda *args, **options: islice(chunks(*args, **options), 2))
    with pytest.raises(CovarianceError, match="ends after 1024 of 2048 tokens"):
        of(tmp_path, 1)


def test_damaged_partial_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = _stopped(tmp_path, monkeypatch)
    partial.write_bytes(partial.read_bytes()[:-9])
    with pytest.raises(CovarianceError, match=r"partial.safetensors is damaged .* delete the file"):
        of(tmp_path, 1)


def test_infinite_keys_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[int] = []

    def infinite(
        self: SelfCorpus, model: LanguageModel, chunk: int, layers: Sequence[int], receive: ReceiveKeys
    ) -> None:
        chunks.append(chunk)
        receive(1, torch.full((CHUNK, 48), float("inf") if chunk == 1 else 1.0))

    monkeypatch.setattr(SelfCorpus, "sample_keys", infinite)
    with pytest.raises(CovarianceError, match=r"inputs of model\.layers\.1\.mlp\.down_proj are not finite"):
        of(tmp_path, 1)
    assert chunks == [0, 1]


def compared(before: Covariance, after: Covariance, keys: Tensor) -> ConvergenceCheck | None:
    first, second = directions(before, keys), directions(after, keys)
    return compare_directions(first, second, tokens_before=before.tokens, tokens=after.tokens, ridge=after.ridge)


def test_doubling_equals_hand_computation() -> None:
    def covariance(*diagonal: float, tokens: int) -> Covariance:
        return Covariance(moment=torch.diag(torch.tensor(diagonal)), tokens=tokens, ridge=0.0, id="toy")

    before, after = covariance(1, 1, tokens=5), covariance(1, 4, tokens=10)
    # (1, 1) turns to (1, 1/4), from 45 to atan(1/4) = 14.0362 degrees; (1, 0) and (0, 2) do not turn
    keys = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
    comparison = compared(before, after, keys)
    assert comparison is not None
    assert (comparison.tokens_before, comparison.tokens, comparison.keys) == (5, 10, 3)
    assert (comparison.median_degrees, comparison.max_degrees) == (0.0, 30.9638)
    assert compared(before, covariance(1, 0, tokens=10), keys) is None, "no inverse, nothing to compare"
    assert compared(before, after, torch.zeros(0, 2)) is None


def test_doubling_of_a_key_in_the_sum_is_zero() -> None:
    keys = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    alone = Covariance(moment=keys.T @ keys, tokens=20, ridge=0.0, id="")
    joined = Covariance(moment=keys.T @ keys + torch.outer(probe, probe), tokens=21, ridge=0.0, id="")
    comparison = compared(alone, joined, probe[None])
    assert comparison is not None
    assert comparison.max_degrees < 1e-6


@pytest.mark.slow
def test_doublings_equal_runs_of_half_the_tokens(tmp_path: Path) -> None:
    model = tiny("llama")
    config = CovarianceConfig(corpus="self", tokens=4 * CHUNK)
    (manifest,) = measure_covariances(model, [1], config, folder=tmp_path, progress=False).values()
    doublings = Doublings(48, ridge=config.ridge)
    next(SelfCorpus().chunks(model, tokens=1)).feed([1], lambda _, key: doublings.draw_probes(key))
    for recorded, chunks in zip(manifest.doublings, (1, 2), strict=True):
        half, full = (of(tmp_path, 1, chunks=n)[1] for n in (chunks, 2 * chunks))
        comparison = compared(half, full, doublings.probes)
        assert comparison is not None
        assert (recorded.tokens_before, recorded.tokens) == (chunks * CHUNK, 2 * chunks * CHUNK)
        assert recorded.median_degrees == pytest.approx(comparison.median_degrees, rel=1e-3)
        assert recorded.max_degrees == pytest.approx(comparison.max_degrees, rel=1e-3)
        assert recorded.keys == KEYS


def test_one_chunk_has_no_doubling(tmp_path: Path) -> None:
    (manifest,) = measure_covariances(
        tiny("llama"), [1], CovarianceConfig(corpus="self", tokens=CHUNK), folder=tmp_path, progress=False
    ).values()
    assert manifest.doublings == ()


@pytest.mark.slow
def test_progress_is_shown_within_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kg_common.progress._LINE_S", 1e-6)
    caplog.set_level("INFO")
    config = CovarianceConfig(corpus="self", tokens=2 * CHUNK)
    measure_covariances(tiny("llama"), [1, 2], config, folder=tmp_path)
    lines = [line for line in caplog.messages if line.startswith("covariance: ")]
    counts = [int(line.split()[1].replace(",", "")) for line in lines]
    assert counts[0] < CHUNK / 2 and counts[-1] == 2 * CHUNK and counts == sorted(counts)


def test_chunks_are_whole_texts() -> None:
    model = tiny("llama")
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in TEXT[:3]]

    def texts() -> Iterator[str]:
        yield from ("", *TEXT[:3]) * 100

    corpus = TextCorpus("t", texts)
    assert sum(lengths) * 100 > 3000
    sizes = [chunk.tokens for chunk in corpus.chunks(model, tokens=3000)]
    assert len(sizes) == 3
    assert all(1024 <= size < 1024 + max(lengths) for size in sizes[:-1])
    assert 3000 <= sum(sizes) < 3000 + max(lengths)
    assert [chunk.tokens for chunk in corpus.chunks(model, tokens=3000)] == sizes
    assert sum(chunk.tokens for chunk in corpus.chunks(model, tokens=10**9)) == 100 * sum(lengths)


def test_chunks_read_no_more_text_than_needed() -> None:
    def texts() -> Iterator[str]:
        yield from TEXT * 100
        raise AssertionError("the end was read")

    assert len(list(islice(TextCorpus("t", texts).chunks(tiny("llama"), tokens=2000), 5))) == 2


def test_ridge_does_not_change_the_id(tmp_path: Path) -> None:
    first, again = of(tmp_path, 1)[1], of(tmp_path, 1, ridge=0.1)[1]
    assert first.id == again.id
    assert again.ridge == 0.1


def _stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped in its third chunk; its file."""
    sample_keys = SelfCorpus.sample_keys

    def killed(self: SelfCorpus, model: LanguageModel, chunk: int, layers: Sequence[int], receive: ReceiveKeys) -> None:
        if chunk == 2:
            raise KeyboardInterrupt
        sample_keys(self, model, chunk, layers, receive)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SelfCorpus, "sample_keys", killed)
        of(folder, 1)
    (file,) = folder.glob("*.partial.safetensors")
    return file


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_merged_patch_has_its_own_covariance(tmp_path: Path) -> None:
    """Stored under the unedited model's identity, it would be used for that model."""
    model = copy.deepcopy(tiny("llama"))
    name, size = model.weight_name(0), weight_matrix(model.down_projection(0)).shape
    change = Factors(left=torch.ones(size[0], 1), right=torch.ones(size[1], 1))
    patch = WeightPatch(factors={name: change}, provenance={"model": {"fingerprint": model.fingerprint}})
    config = CovarianceConfig(corpus="self", tokens=CHUNK)
    with patch.applied(model), pytest.raises(PatchError, match="a patch is already applied"):
        find_covariances(model, [2], config, folder=tmp_path, progress=False)
    assert list(tmp_path.glob("*.safetensors")) == []
    patch.merge_into(model)
    edited = find_covariances(model, [2], config, folder=tmp_path, progress=False)[2]
    clean = find_covariances(tiny("llama"), [2], config, folder=tmp_path, progress=False)[2]
    assert edited.id != clean.id and not torch.equal(edited.moment, clean.moment)


def test_dtype_changes_the_id(tmp_path: Path) -> None:
    half = copy.deepcopy(tiny("llama"))
    half.model.to(torch.bfloat16)
    config = CovarianceConfig(corpus="self", tokens=CHUNK)
    both = [find_covariances(model, [2], config, folder=tmp_path, progress=False)[2] for model in (tiny("llama"), half)]
    assert both[0].id != both[1].id
