"""The packaged text: it is as long as promised, and read by a model that writes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kg_edit.covariance.corpora import PACKAGED_TOKENS, file_corpus, hub_corpus, packaged_corpus
from kg_edit.covariance.store import CovarianceConfig, measure_covariances
from kg_edit.errors import CovarianceError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_text
from tests.kg_edit.tiny import tiny


@pytest.mark.slow
def test_packaged_text_has_the_promised_tokens(smollm2: LanguageModel) -> None:
    sizes = [chunk.tokens for chunk in packaged_corpus().chunks(smollm2, tokens=PACKAGED_TOKENS)]
    assert sum(sizes) >= PACKAGED_TOKENS


def test_packaged_text_is_read_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(f"{sample_text.__module__}.continue_text", lambda *_: pytest.fail("the model wrote a text"))
    (manifest,) = measure_covariances(tiny("llama"), [1], CovarianceConfig(tokens=500), folder=tmp_path).values()
    assert manifest.corpus == packaged_corpus().name and manifest.corpus.startswith("packaged:sha256=")


def test_texts_are_cut_to_the_models_positions(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    (chunk,) = file_corpus(tmp_path / "long.txt").chunks(tiny("gpt2"), tokens=300)
    assert chunk.tokens == 128, "of 256 tokens a text"
    chunk.feed((1,), lambda *_: None)


def test_large_models_take_what_the_packaged_text_has() -> None:
    assert CovarianceConfig().tokens_for(4_864) == 48_640
    assert CovarianceConfig().tokens_for(18_944) == PACKAGED_TOKENS
    assert CovarianceConfig(tokens=200_000).tokens_for(18_944) == 200_000
    assert CovarianceConfig(corpus="self").tokens_for(18_944) == 189_440


def test_data_set_without_texts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SimpleNamespace(load_dataset=lambda *_, split, streaming: [{"content": "a"}])
    monkeypatch.setitem(sys.modules, "datasets", rows)
    with pytest.raises(CovarianceError, match=r"corpus hf:some/data: KeyError\('text'\); expected .* the column text"):
        next(hub_corpus("some/data").chunks(tiny("llama"), tokens=10))
