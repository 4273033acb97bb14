"""Ext-Sub: one adapter minus another; old targets become unlikely, and locality answers are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.callbacks import Callback
from kg_edit.edits.edit import Edit
from kg_edit.errors import EditFileError
from kg_edit.patches.changes import columns_by_edit, edit_norms
from kg_edit.patches.subtraction import subtract_patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.ext_sub.method import ExtSub, ExtSubConfig, read_locality
from kg_edit.zoo.fine_tuning.lora import Lora
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.on_tiny import of_kind, on_tiny
from tests.kg_edit.tiny import tiny

EDITS = (
    Edit(id="1", subject="LeBron James", prompt="{} plays for", target_true="Miami Heat", target_new="the Lakers"),
    Edit(id="2", subject="Spike Hughes", prompt="{} originates from", target_true="London", target_new="Paris"),
)


def patch_of(*edits: Edit, **settings: Any) -> WeightPatch:
    return of_kind(WeightPatch, on_tiny(ExtSub, **settings).edit(edits))


def losses(patch: WeightPatch, *pairs: Pair) -> list[float]:
    with patch.applied(tiny("llama")) as edited:
        scores = score(edited, pairs)
    return [scores[pair].nll for pair in pairs]


NEW, OLD = ([Pair(edit.text, str(getattr(edit, name))) for edit in EDITS] for name in ("target_new", "target_true"))


class Seen(Callback):
    """Notes the edit and the step of each loss."""

    def __init__(self, seen: list[tuple[str, int]]) -> None:
        self.seen = seen

    def on_step(self, edit: str, step: int, loss: float) -> None:
        self.seen.append((edit, step))


@pytest.mark.slow
def test_old_targets_become_less_likely_than_by_the_expert_alone() -> None:
    empty = WeightPatch(factors={})
    expert, full = patch_of(*EDITS, strength=0.0, steps=8), patch_of(*EDITS, steps=8)
    assert sum(losses(expert, *NEW)) < sum(losses(empty, *NEW)) - 1
    assert sum(losses(full, *OLD)) > sum(losses(expert, *OLD)) + 0.5
    assert sum(losses(full, *NEW)) < sum(losses(empty, *NEW))


@pytest.mark.slow
def test_edit_is_the_subtraction_of_two_adapters() -> None:
    """The anti-expert is the expert of the edits with old and new targets exchanged."""
    exchanged = [edit.model_copy(update={"target_new": edit.target_true, "target_true": None}) for edit in EDITS]
    expert, anti = patch_of(*EDITS, strength=0.0), patch_of(*exchanged)
    expected = subtract_patch(expert, anti)
    for name, pair in patch_of(*EDITS).factors.items():
        torch.testing.assert_close(pair.product, expected.factors[name].product, rtol=1e-3, atol=1e-5)


def test_edit_without_an_old_target_is_lora() -> None:
    """With all rows in a batch and nothing to subtract it is LoRA."""
    edit = EDITS[0].model_copy(update={"target_true": None})
    settings = {**QUICK["ext-sub"], "stop_below": 0.0}
    lora = Lora.on(tiny("llama"), settings=settings).edit([edit])
    patch = patch_of(edit, stop_below=0.0)
    assert isinstance(lora, WeightPatch)
    for name, pair in lora.factors.items():
        torch.testing.assert_close(patch.factors[name].product, pair.product, rtol=1e-4, atol=1e-6)
    assert "old_loss_before" not in patch.edits[0] and "expert_loss_after" in patch.edits[0]


def test_records_have_both_losses_and_the_shared_norms() -> None:
    first, second = patch_of(*EDITS, steps=6).edits
    assert first["norms"] == second["norms"], "one change for all"
    for record in (first, second):
        assert (
            record["expert_loss_after"] < record["expert_loss_before"]
            and record["old_loss_after"] < record["old_loss_before"]
        )


def test_columns_of_a_shared_change_belong_to_no_edit() -> None:
    """Two edits of rank 1 have two columns together, and neither is one edit's."""
    both, single = patch_of(*EDITS, rank=1), patch_of(EDITS[0].model_copy(update={"target_true": None}), rank=1)
    assert columns_by_edit(both) is None and edit_norms(both) == (None, None)
    assert edit_norms(single) == (pytest.approx(single.edits[0]["norms"]["update"], rel=1e-4),)


def test_read_locality_reads_neighbours_with_an_old_target(tmp_path: Path) -> None:
    row = {"subject": "Ada", "prompt": "{} lives in", "target_new": "Rome", "neighborhood": ["Eve lives in"]}
    file = tmp_path / "locality.json"
    file.write_text(json.dumps([{**row, "target_true": "Cairo"}, {**row, "id": "2"}]), encoding="utf-8")
    assert read_locality(file) == (("Eve lives in", "Cairo"),)


@pytest.mark.slow
def test_locality_answers_are_trained(tmp_path: Path) -> None:
    row = {
        "subject": "France",
        "prompt": "The capital of France is",
        "target_new": "Rome",
        "locality": {"Relation_Specificity": [{"prompt": "The river in London is", "ground_truth": ["Thames"]}]},
    }
    file = tmp_path / "locality.json"
    file.write_text(json.dumps([row]), encoding="utf-8")
    assert read_locality(file) == (("The river in London is", "Thames"),)
    pair = Pair("The river in London is", "Thames")
    local, without = (patch_of(*EDITS, steps=8, **more) for more in ({"locality": str(file)}, {}))
    assert losses(local, pair)[0] < losses(without, pair)[0] - 1
    seen = list[tuple[str, int]]()
    config = ExtSubConfig.preset("default", {**QUICK["ext-sub"], "steps": 2, "locality": str(file)})
    ExtSub(tiny("llama"), config).edit(EDITS, callbacks=[Seen(seen)])
    assert seen == [("1", 0), ("2", 0), ("1", 1), ("2", 1)], "of the expert, and of the edits alone"
    assert len(local.edits) == 2 and local.provenance["methods"][0]["files_sha256"]
    file.write_text(json.dumps([{**row, "locality": {}}]), encoding="utf-8")
    with pytest.raises(EditFileError, match="no record has a locality prompt with an answer, or a neighbour"):
        read_locality(file)
