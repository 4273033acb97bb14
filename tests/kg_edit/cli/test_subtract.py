"""`kg-edit patch subtract`: patches and adapters in, a patch out; nothing is written over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kg_edit.cli.app import app
from kg_edit.errors import ConfigError, OutputError
from kg_edit.methods.ext_sub.extraction import subtracted
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.methods.ext_sub.test_extraction import patch


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["patch", "subtract", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_two_patches(tmp_path: Path) -> None:
    expert, anti = patch(1, "a", "b"), patch(7, "b")
    one, other = expert.save(tmp_path / "1.safetensors"), anti.save(tmp_path / "2.safetensors")
    assert "2 weights changed" in run(one, other, "--out", tmp_path / "3.safetensors", "--strength", 0.5)
    found, wanted = Patch.load(tmp_path / "3.safetensors"), subtracted(expert, anti, strength=0.5)
    assert isinstance(found, WeightPatch)
    for name, pair in wanted.factors.items():
        assert torch.equal(found.factors[name].product, pair.product)
    run(one, other, "--out", tmp_path / "4.safetensors", "--whole")
    whole = Patch.load(tmp_path / "4.safetensors")
    assert whole.provenance["subtracted"]["extract"] is False
    with pytest.raises(OutputError, match="already exists"):
        run(one, other, "--out", tmp_path / "3.safetensors")


def test_an_adapter_needs_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="give --model"):
        run(tmp_path / "adapter", tmp_path / "adapter", "--out", tmp_path / "3.safetensors")


def test_a_model_for_two_patch_files_is_refused(tmp_path: Path) -> None:
    one = patch(1, "a").save(tmp_path / "1.safetensors")
    with pytest.raises(ConfigError, match="--model has no effect where neither change is a PEFT adapter"):
        run(one, one, "--out", tmp_path / "2.safetensors", "--model", "smollm2-135m")


def test_what_is_no_change_is_named_before_the_model_is_loaded(tmp_path: Path) -> None:
    for options in ((), ("--model", "smollm2-135m")):
        with pytest.raises(ConfigError, match="lost does not exist; give a patch file"):
            run(tmp_path / "lost", tmp_path / "lost", "--out", tmp_path / "3.safetensors", *options)
        with pytest.raises(ConfigError, match="has no PEFT adapter"):
            run(tmp_path, tmp_path, "--out", tmp_path / "3.safetensors", *options)
