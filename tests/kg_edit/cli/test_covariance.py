"""`kg-edit covariance`, through `main`."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.cli.covariance import parse_layers
from kg_edit.covariance.corpora import SelfCorpus, packaged_corpus
from kg_edit.covariance.store import CovarianceConfig, find_covariances, stored_covariances
from kg_edit.errors import ConfigError
from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.tiny import TEXT

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
    with watched(model.blocks[0], lambda *_: pytest.fail("it was measured again")):
        covariance = find_covariances(model, [2], CovarianceConfig(tokens=1500), progress=False)[2]
    assert covariance.id in result.out
    assert kg_edit("covariance", "list").out == result.out


def test_shards_are_merged(kg_edit: Run, tiny_folder: Path, tmp_path: Path) -> None:
    command = ("covariance", "--model", tiny_folder, "--layers", "1", "--corpus", "self", "--tokens", 1500)
    for part in range(2):
        result = kg_edit(*command, "--shard", f"{part}/2", "--folder", f"machine-{part}")
        assert f"shard {part}/2 is finished; other shards are missing" in result.out
    merged = kg_edit("covariance", "merge", *tmp_path.glob("machine-*/*.safetensors"), "--folder", "all")
    assert (merged.code, "1,536" in merged.out) == (0, True)
    assert kg_edit(*command, "--shard", "0/2", "--folder", "one").code == 0
    assert "1,536" in kg_edit(*command, "--shard", "1/2", "--folder", "one").out
    assert [cov.id for cov in stored_covariances(Path("one"))] == [cov.id for cov in stored_covariances(Path("all"))]


def test_covariances_are_pushed_and_pulled(kg_edit: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(TEXT * 25))
    result = kg_edit("covariance", "--model", tiny_folder, "--layers", "0,3", "--tokens", 500, "--corpus", "text.txt")
    assert result.code == 0, result.err
    first, second = (cov.id for cov in stored_covariances())
    assert "shared: 2 added, 0 already there" in kg_edit("covariance", "push", "./shared").out
    assert "shared: 0 added, 1 already there" in kg_edit("covariance", "push", "./shared", first[:8]).out
    pulled = kg_edit("covariance", "pull", f"file://{tmp_path}/shared", second, "--folder", "mine")
    assert "shared: 1 new" in pulled.out
    assert [cov.id for cov in stored_covariances(Path("mine"))] == [second]
    assert "shared: 1 new" in kg_edit("covariance", "pull", "./shared", "--folder", "mine").out
    assert "shared: 0 new" in kg_edit("covariance", "pull", "./shared", "--model", "gpt2", "--folder", "none").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "no layers": ((), "no layers given; use --layers 4-8"),
        "no number": (("--layers", "4-x"), "expected layers such as 4-8, 4,6,8 or all; found '4-x'"),
        "backwards": (("--layers", "8-4"), "found '8-4'"),
        "shard": (("--layers", "1", "--shard", "2/2"), "expected i/n with i from 0 to n-1"),
        "corpus": (("--layers", "1", "--corpus", "none.txt"), "can't read the corpus none.txt"),
        "unknown id": (("push", "./shared", "xyz"), "no covariance 'xyz' is stored here"),
        "no place": (("pull", "shared"), "write a folder as ./NAME"),
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
