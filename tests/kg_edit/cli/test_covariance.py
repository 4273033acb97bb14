"""`kg-edit covariance`, through `main`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.cli.covariance import parse_layers
from kg_edit.covariance.corpora import SelfCorpus, packaged_corpus
from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.errors import ConfigError
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


@pytest.fixture(autouse=True)
def own_cache(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache for each test, and short texts."""
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(SelfCorpus, "length", 8)


def test_covariance_is_found_by_edits(kg_edit: Run, tiny_folder: Path, tmp_path: Path) -> None:
    result = kg_edit("covariance", "--model", tiny_folder, "--layers", "1-2", "--tokens", 1500)
    assert result.code == 0, result.err
    assert "model.layers.1.mlp.down_proj" in result.out
    assert "° (" in result.out
    assert packaged_corpus().name in result.out
    assert "cache/covariance: 2 covariances" in result.out
    model = LanguageModel.load(tiny_folder)
    with watch(model.blocks[0], lambda *_: pytest.fail("it was measured again")):
        covariance = find_covariances(model, [2], CovarianceConfig(tokens=1500), progress=False)[2]
    assert covariance.id in result.out
    assert kg_edit("covariance", "list").out == result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "no layers": ((), "no layers given; use --layers 4-8"),
        "no number": (("--layers", "4-x"), "expected layers such as 4-8, 4,6,8 or all; found '4-x'"),
        "backwards": (("--layers", "8-4"), "found '8-4'"),
        "corpus": (("--layers", "1", "--corpus", "none.txt"), "can't read the corpus none.txt"),
    }.values(),
)
def test_mistakes_are_refused_before_a_model_is_loaded(arguments: tuple[str, ...], message: str, kg_edit: Run) -> None:
    result = kg_edit("covariance", *arguments)
    assert (result.code, message in result.err) == (2, True), result.err


def test_parse_layers() -> None:
    assert parse_layers("4-6, 8", 30) == [4, 5, 6, 8]
    assert parse_layers("all", 3) == [0, 1, 2]
    assert parse_layers("2,1,2", 3) == [1, 2]
    with pytest.raises(ConfigError, match="the model has layers 0 to 29"):
        parse_layers("28-30", 30)
