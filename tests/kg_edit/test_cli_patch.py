"""`kg-edit patch`: what a user sees of a ledger, and which exit code a check has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kg_edit.edits import Edit
from kg_edit.language_model import LanguageModel, weight_matrix
from kg_edit.ledger import Ledger
from kg_edit.patch import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.command_line import QUICK, Run, cache, content, kg_edit, place, tiny_folder

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

COMMANDS = ["list", "show", "add", "edit", "remove", "undo", "check", "merge", "export"]
HEAT = Edit(
    id="heat",
    subject="LeBron James",
    prompt="{} plays for",
    target_new="Miami Heat",
    target_true="Los Angeles Lakers",
    paraphrases=("LeBron James is in",),
    relation="team",
)
LAKERS = HEAT.model_copy(update={"id": "lakers", "target_new": "Los Angeles Lakers", "target_true": "Miami Heat"})
RIVER = Edit(id="river", subject="Thames", prompt="{} flows through", target_new="Paris", target_true="London")


def write_patch(path: Path, model: Path, *edits: Edit, size: float = 0.0) -> Path:
    """A patch file of edits for the tiny model, each of which adds ``size`` times a random column."""
    loaded = LanguageModel.load(model)
    rows, columns = weight_matrix(loaded.down_projection(1)).shape
    draw = torch.Generator().manual_seed(len(edits[0].id))
    left, right = torch.randn(rows, len(edits), generator=draw), torch.randn(columns, len(edits), generator=draw)
    records = [{"edit": edit.model_dump(mode="json", exclude_defaults=True), "method": "rome"} for edit in edits]
    provenance = {
        "model": {"name": str(model), "fingerprint": loaded.fingerprint},
        "versions": {"kg_edit": "0"},
        "methods": [{"name": "rome", "config": {"layer": 1}}],
        "edits": records,
    }
    factors = {loaded.weight_name(1): Factors(left=size * left, right=right)}
    return WeightPatch(factors=factors, provenance=provenance).save(path)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, kg_edit: Run) -> None:
    said = kg_edit("patch", command, "--help")
    assert said.code == 0 and f"kg-edit patch {command}" in said.out and "Example" in said.out


def test_help_lists_the_commands(kg_edit: Run) -> None:
    said = kg_edit("patch", "--help").out
    assert all(command in said for command in COMMANDS) and "Examples" in said


def test_a_ledger_from_patch_files(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    one, two = (
        write_patch(place / "one.safetensors", tiny_folder, HEAT),
        write_patch(place / "two.st", tiny_folder, RIVER),
    )
    said = kg_edit("patch", "add", "ledger", one, two)
    assert said.code == 0 and "ledger: step 1, 1 edit of rome" in said.out and "step 2" in said.out
    three = write_patch(place / "three.safetensors", tiny_folder, LAKERS)
    said = kg_edit("patch", "add", "ledger", three)
    assert "conflict: heat and lakers edit one fact to 'Miami Heat' and to 'Los Angeles Lakers'" in said.out
    said = kg_edit("patch", "list", "ledger", "--picture", "ledger.svg")
    assert (
        "LeBron James plays for → Miami Heat" in said.out
        and "standing" in said.out
        and said.out.count("conflict:") == 1
    )
    assert "</svg>" in (place / "ledger.svg").read_text()
    shown = kg_edit("patch", "show", "ledger", "heat").out
    for part in (
        "fact: LeBron James plays for → Miami Heat",
        "relation: team",
        "step 1, from one.safetensors",
        "layer: 1",
    ):
        assert part in shown
    assert kg_edit("patch", "remove", "ledger", "heat", "river").code == 0
    assert "conflict" not in kg_edit("patch", "show", "ledger").out
    assert "removed 1/heat, 2/river" in kg_edit("patch", "show", "ledger").out
    assert "took event 4 back (removed" in kg_edit("patch", "undo", "ledger").out
    assert len(Ledger.open(place / "ledger").patch.edits) == 3


def test_a_check_fails_when_a_fact_does_not_hold(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """The changes are nothing, so of two opposite edits just one holds."""
    codes = {}
    for edit in (HEAT, LAKERS):
        file = write_patch(place / f"{edit.id}.safetensors", tiny_folder, edit)
        kg_edit("patch", "add", edit.id, file)
        said = kg_edit("patch", "check", edit.id, "--model", tiny_folder)
        codes[edit.id] = said.code
        assert ("1 of 1 edits hold" in said.out) == (said.code == 0)
        assert ("should say" in said.out.splitlines()[-2]) == (said.code == 1)
        assert kg_edit("patch", "check", file).code == said.code, "a patch file alone, the model it names"
        assert kg_edit("patch", "check", edit.id, "--merged", tiny_folder).code == said.code
    assert sorted(codes.values()) == [0, 1]
    good = next(name for name, code in codes.items() if code == 0)
    strict = kg_edit("patch", "check", good, "--model", tiny_folder, "--strict", "all")
    assert strict.code in (0, 1)
    wrong = kg_edit("patch", "check", good, "--model", tiny_folder, "--strict", "paraphrse")
    assert wrong.code == 2 and "did you mean 'paraphrase'" in wrong.err


def test_merged_and_exported(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, RIVER, size=0.1)
    kg_edit("patch", "add", "ledger", file)
    said = kg_edit("patch", "merge", "ledger", "--model", tiny_folder, "--out", "merged")
    assert said.code == 0 and "2 edits in its weights" in said.out
    patch, base, merged = Patch.load(file), LanguageModel.load(tiny_folder), LanguageModel.load(place / "merged")
    with patch.applied(base):
        assert torch.equal(weight_matrix(base.down_projection(1)), weight_matrix(merged.down_projection(1)))
    said = kg_edit("patch", "export", "ledger", "--to", "peft", "adapter")
    assert said.code == 0 and json.loads((place / "adapter" / "adapter_config.json").read_text())["r"] == 2
    assert kg_edit("patch", "export", "ledger", "--to", "patch", "all.safetensors").code == 0
    assert Patch.load(place / "all.safetensors").edits == patch.edits
    again = kg_edit("patch", "merge", "ledger", "--model", tiny_folder, "--out", "merged")
    assert again.code == 2 and "is there already" in again.err
    wrong = kg_edit("patch", "export", "ledger", "--to", "perft", "x")
    assert wrong.code == 2 and "did you mean 'peft'" in wrong.err


def test_edits_made_on_a_ledger_and_taken_out_again(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    quick = ("--method", "rome", "--model", tiny_folder, "--layer", 1, "--set", "steps=2", *QUICK)
    said = kg_edit("patch", "edit", "ledger", "edits.jsonl", *quick)
    assert said.code == 0 and "step 1, 2 edits of rome" in said.out
    refused = kg_edit("patch", "remove", "ledger", "lebron")
    assert refused.code == 2 and "--model" in refused.err
    said = kg_edit("patch", "remove", "ledger", "lebron", "--model", tiny_folder)
    assert said.code == 0 and "removed lebron; 1 edit left" in said.out
    assert [record["edit"]["id"] for record in Ledger.open(place / "ledger").patch.edits] == ["france"]


def test_a_ledger_is_compared_with_the_model_too(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=100.0)
    assert kg_edit("patch", "add", "ledger", file).code == 0
    refused = kg_edit("patch", "add", "other", "ledger", "--model", tiny_folder)
    assert refused.code == 2 and "as large as the weight itself" in refused.err
    assert kg_edit("patch", "add", "other", "ledger", "--model", tiny_folder, "--force").code == 0


def test_mistakes_change_nothing(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT)
    kg_edit("patch", "add", "ledger", file)
    before = content(place / "ledger")
    for arguments, message in (
        (("list", "nowhere"), "kg-edit patch add nowhere"),
        (("list", "a" * 300), "can't read"),
        (("check", "a" * 300), "can't read"),
        (("add", "ledger", "a" * 300), "can't read"),
        (("show", "ledger", "heet"), "did you mean 'heat'"),
        (("add", "ledger", file), "is here already, as step 1"),
        (("add", "ledger", "edits.jsonl"), "can't read the patch"),
        (("remove", "ledger", "lakers"), "unknown edit 'lakers'"),
        (("list", "ledger", "--picture", "ledger.bmp"), "its ending is none of"),
    ):
        said = kg_edit("patch", *arguments)
        assert said.code == 2 and message in said.err, said
        assert content(place / "ledger") == before
