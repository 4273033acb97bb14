"""The audit of an edited checkpoint: what is explained by a ledger, what a change writes, and what it answers to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from kg_edit.locate_then_edit.states import subject_states
from kg_edit.models.language_model import LanguageModel, matrix_shape
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.checkpoint.audit import audit
from kg_edit.ship.checkpoint.merging import merge_checkpoint
from kg_edit.ship.checkpoint.spectrum import compare_spectra, find_outliers
from kg_edit.ship.checkpoint.stored import Checkpoint
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.ship.checkpoint.test_checkpoint import base_of
from tests.kg_edit.ship.cli.test_patch import HEAT, write_patch
from tests.kg_edit.ship.export.test_peft_adapter import patch_of
from tests.kg_edit.tiny import save_larger, tiny

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures
NAMES = ("LeBron James", "Dwyane Wade", "Spike Hughes", "the Eiffel Tower", "the river Thames")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_ledger_explains_its_own_edits_and_not_those_of_others(dtype: torch.dtype, tmp_path: Path) -> None:
    base = base_of(tiny("llama"), tmp_path / "base", dtype=dtype)
    loaded = LanguageModel.load(base)
    own = patch_of(loaded, {0: 1, 1: 2})
    both = own + patch_of(loaded, {1: 1, 2: 1}).scaled(2)
    clean = merge_checkpoint(own, Checkpoint.open(base), tmp_path / "clean", progress=False)
    found = audit(Checkpoint.open(base), Checkpoint.open(clean), ledger=own, progress=False)
    assert [(finding.rank, finding.is_explained) for finding in found] == [(1, True), (2, True)]
    tampered = merge_checkpoint(both, Checkpoint.open(base), tmp_path / "tampered", progress=False)
    found = audit(Checkpoint.open(base), Checkpoint.open(tampered), ledger=own, progress=False)
    assert [finding.left_over_rank for finding in found] == [0, 1, 1]
    assert audit(Checkpoint.open(base), Checkpoint.open(base), ledger=own, progress=False) == ()


def test_ledger_explains_a_sum_of_many_large_edits(tmp_path: Path) -> None:
    base = base_of(tiny("llama"), tmp_path / "base")
    model = LanguageModel.load(base)
    many = patch_of(model, {1: 24}).scaled(100)
    edited = merge_checkpoint(many, Checkpoint.open(base), tmp_path / "edited", progress=False)
    (finding,) = audit(Checkpoint.open(base), Checkpoint.open(edited), ledger=many, progress=False)
    assert finding.is_explained, (finding.left_over, finding.left_over_rank)


def test_change_names_the_token_that_it_writes_and_the_name_that_it_waits_for(tmp_path: Path) -> None:
    base = base_of(tiny("llama"), tmp_path / "base")
    model = LanguageModel.load(base)
    layer = 2
    keys, _ = subject_states(
        model, [model.encode_fact("{} is", subject=name) for name in NAMES], layer=layer, last=layer
    )
    token = 123
    row = model.model.get_output_embeddings().weight[token].detach()
    factors = Factors(left=row[:, None].clone(), right=keys[1][:, None].clone())
    patch = WeightPatch(factors={model.weight_name(layer): factors}, provenance={"model": {"name": model.name}})
    merged = merge_checkpoint(patch, Checkpoint.open(base), tmp_path / "merged", progress=False)
    (finding,) = audit(Checkpoint.open(base), Checkpoint.open(merged), names=NAMES, model=model, progress=False)
    assert finding.rank == 1
    assert finding.writes[0] == model.tokenizer.decode([token])
    assert finding.answers_to[0] == NAMES[1]


def test_command_fails_where_the_ledger_does_not_explain_a_weight(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    own = Patch.load(write_patch(place / "own.safetensors", tiny_folder, HEAT, size=0.1))
    more = own + patch_of(LanguageModel.load(tiny_folder), {2: 1})
    merge_checkpoint(more, Checkpoint.open(tiny_folder), place / "merged", progress=False)
    command = ("audit", "merged", "--base", tiny_folder)
    result = kg_edit(*command, "--ledger", "own.safetensors", "--fail-on-unexplained")
    assert result.code == 1 and "leaves 1 of them unexplained" in result.out, result.err
    result = kg_edit(*command, "--ledger", "own.safetensors", "--json")
    assert result.code == 0 and [row["explained"] for row in json.loads(result.out)] == [True, False]
    result = kg_edit(*command, "--fail-on-unexplained")
    assert result.code == 2 and "--ledger" in result.err


@pytest.mark.slow
def test_weight_stands_out_by_its_singular_values_alone(tmp_path: Path) -> None:
    save_larger(tmp_path / "base")
    model = LanguageModel.load(tmp_path / "base")
    before = find_outliers(Checkpoint.open(tmp_path / "base"), progress=False)
    assert len(before) == 8 * 7  # seven matrices a block
    token = 123
    row = model.model.get_output_embeddings().weight[token].detach()
    _, inner = matrix_shape(model.down_projection(5))
    right = torch.randn(inner, generator=torch.Generator().manual_seed(0))
    factors = Factors(left=5 * row[:, None] / row.norm(), right=right[:, None])
    patch = WeightPatch(factors={model.weight_name(5): factors}, provenance={"model": {"name": model.name}})
    merged = merge_checkpoint(patch, Checkpoint.open(tmp_path / "base"), tmp_path / "merged", progress=False)
    first = find_outliers(Checkpoint.open(merged), progress=False)[0]
    assert first.name == model.weight_name(5) and first.stands_out and first.place == 1
    assert first.value > 3 * first.usual and first.writes[0] == model.tokenizer.decode([token])


def test_deviation_by_hand() -> None:
    values = torch.tensor([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0], [8.0, 1.0], [2.0, 3.0]])
    outliers = compare_spectra(["a", "b", "c", "d", "e"], values)
    # of the others' second values all are 1, so that their spread is the least one, .02
    assert outliers[4].place == 2 and outliers[4].deviation == pytest.approx(math.log(3) / 0.02)
    # log 8 against log [1, 2, 4, 2]: median log 2, deviations log [2, 1, 2, 1], of which torch takes the lower median
    assert outliers[3].usual == pytest.approx(2.0) and outliers[3].place == 1


@pytest.mark.slow
def test_command_without_a_base_lists_what_stands_out(kg_edit: Run, place: Path) -> None:
    save_larger(place / "larger")
    result = kg_edit("audit", "larger")
    assert result.code == 0 and "of 56 weights stand" in result.out and "--base" in result.out, result.err
    rows = json.loads(kg_edit("audit", "larger", "--json").out)
    assert len(rows) == 56 and rows[0]["deviation"] >= rows[-1]["deviation"]
    assert kg_edit("audit", "larger", "--names", "names.txt").code == 2
