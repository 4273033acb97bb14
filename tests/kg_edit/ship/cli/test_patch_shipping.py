"""`kg-edit patch export`, `merge` and `subtract`: the files of each form, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kg_edit.cli.app import app
from kg_edit.edits.edit import Edit
from kg_edit.errors import OutputError
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.subtraction import subtract_patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.export.card import base_model
from kg_edit.ship.export.shipment import Shipment
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.command_line import Run, cache, kg_edit, place, refused, tiny_folder
from tests.kg_edit.methods.graph_memory.toy import BULGARIA, SONY, memory
from tests.kg_edit.patches.test_subtraction import patch as some_patch
from tests.kg_edit.ship.cli.test_patch import HEAT, RIVER, write_patch
from tests.kg_edit.ship.export.test_gguf_files import as_gguf
from tests.kg_edit.ship.export.test_hub import Hub, environment, hub
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from tests.kg_edit.tiny import tiny

__all__ = ["cache", "hub", "kg_edit", "place", "tiny_folder"]  # fixtures


def test_gguf_adapter_and_merged_gguf_model_are_written(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, RIVER, size=0.1)
    result = kg_edit("patch", "export", file, "--to", "gguf", "adapter", "--license", "mit")
    assert result.code == 0 and {path.name for path in (place / "adapter").iterdir()} == {
        "README.md",
        "adapter.gguf",
        "kg_edit.json",
    }
    card = (place / "adapter" / "README.md").read_text()
    assert 'license: "mit"' in card and "LeBron James plays for | Miami Heat | Los Angeles Lakers" in card
    assert f"the base is the folder `{tiny_folder}`" in card
    base = as_gguf(tiny("llama"), place / "base.gguf")
    result = kg_edit("patch", "merge", file, "--to", "gguf", "--gguf", base, "--out", "merged")
    assert result.code == 0 and (place / "merged" / "model.gguf").stat().st_mode & 0o777 == 0o644
    assert "llama-server -m model.gguf" in (place / "merged" / "README.md").read_text()


def test_card_has_the_scores_and_the_given_base(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, RIVER, size=0.1)
    result = kg_edit("patch", "export", file, "--to", "peft", "a", "--scores", "--base", "someone/model")
    assert result.code == 0, result.err
    card = (place / "a" / "README.md").read_text()
    assert "| edits, success | 2 |" in card and "| paraphrases | 1 |" in card
    assert 'base_model: "someone/model"' in card
    assert json.loads((place / "a" / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/model"
    assert {path.stat().st_mode & 0o777 for path in (place / "a").iterdir()} == {0o644}
    assert kg_edit("patch", "export", file, "--to", "peft", "b").code == 0
    assert "No scores were measured" in (place / "b" / "README.md").read_text()


def test_wrong_target_is_refused_and_nothing_is_written(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file, out = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=0.1), place / "out"
    for command, message in (
        (("export", file, "--to", "gguf", "out.gguf"), "a folder with adapter.gguf in it; give a name without .gguf"),
        (("export", file, "--to", "peft", out, "--push", "edits"), "expected OWNER/NAME"),
        (("export", file, "--to", "patch", out, "--push", "a/b"), "--to peft or --to gguf"),
        (("merge", file, "--to", "ggfu", "--out", out), "'ggfu' is not one of 'folder', 'gguf'"),
        (("merge", file, "--to", "gguf", "--out", out), "is not a GGUF file, so edits can't be merged into it"),
        (("merge", file, "--to", "gguf", "--out", out, "--gguf", "nowhere.gguf"), "there is no GGUF file nowhere.gguf"),
        (("merge", file, "--out", out, "--push", "a b"), "expected OWNER/NAME"),
    ):
        refused(kg_edit, "patch", *command, message=message, out=out)


def test_refusal_comes_before_the_model_is_loaded(
    kg_edit: Run, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, model = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=0.1), place / "base.gguf"
    (place / "full").mkdir()
    (place / "full" / "notes").touch()
    model.touch()
    monkeypatch.setattr("kg_edit.ship.cli.patch_shipping.load_model", lambda *_: pytest.fail("the model is loaded"))
    for command, message in (
        (("export", file, "--to", "peft", "full", "--scores"), "full already exists"),
        (
            ("merge", file, "--to", "gguf", "--gguf", model, "--out", "m", "--gguf-type", "F8"),
            "'F8' is not one of 'F32'",
        ),
    ):
        result = kg_edit("patch", *command)
        assert result.code == 2 and message in result.err, result


def test_nothing_is_written_into_a_ledger(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=0.1)
    kg_edit("patch", "add", "ledger", file)
    next_step = place / "ledger" / "patches" / "0002.safetensors"  # `patch add` would replace it
    for command in (("merge", file), ("subtract", file, file)):
        result = kg_edit("patch", *command, "--out", next_step)
        assert result.code == 2 and "is inside the ledger" in result.err and not next_step.exists(), result


def test_patch_file_is_exported_without_a_model(kg_edit: Run, place: Path) -> None:
    factors = {"w": Factors(left=torch.ones(2, 1), right=torch.ones(3, 1))}
    edits = [{"edit": HEAT.model_dump(mode="json", exclude_defaults=True), "method": "rome"}]
    WeightPatch(factors=factors, provenance={"edits": edits}).save(place / "nameless.safetensors")
    result = kg_edit("patch", "export", "nameless.safetensors", "--to", "patch", "all.safetensors")
    assert result.code == 0 and (place / "all.safetensors").exists(), result.err


def test_ledger_of_graph_memory_says_what_a_server_needs(kg_edit: Run, place: Path) -> None:
    """Its edits are beside the weights: an adapter and a merged model are refused, a patch file has a remark."""
    memory(SONY, BULGARIA).save(place / "memory.safetensors")
    assert kg_edit("patch", "add", "ledger", "memory.safetensors").code == 0
    needs = "A server of graph-memory has to run the walk before each prompt"
    for command in (
        ("export", "ledger", "--to", "peft", "adapter"),
        ("export", "ledger", "--to", "gguf", "adapter"),
        ("merge", "ledger", "--out", "merged"),
    ):
        refused(kg_edit, "patch", *command, message=needs, out=place)
    exported = kg_edit("patch", "export", "ledger", "--to", "patch", "one.safetensors")
    assert exported.code == 0 and needs in exported.out + exported.err
    assert [edit["edit"]["id"] for edit in Patch.load(place / "one.safetensors").edits] == ["sony", "bulgaria"]


@pytest.mark.slow
def test_export_is_pushed(kg_edit: Run, place: Path, tiny_folder: Path, hub: Hub) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=0.1)
    command = [sys.executable, "-m", "kg_edit", "patch", "export", str(file), "--to", "peft", "a"]
    process = subprocess.run(
        [*command, "--push", "someone/edits"],
        env=environment(hub, place / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f"{hub.url}/someone/edits"
    assert "the base model is a folder of this machine" in process.stderr and "give --base OWNER/NAME" in process.stderr
    assert hub.files == {path.name: path.read_bytes() for path in (place / "a").iterdir()}
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "kg_edit.json"}


def subtract(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["patch", "subtract", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_subtracted_patches_are_one_patch(tmp_path: Path) -> None:
    expert, anti = some_patch(1, "a", "b"), some_patch(7, "b")
    one, other = expert.save(tmp_path / "1.safetensors"), anti.save(tmp_path / "2.safetensors")
    assert "2 weights changed" in subtract(one, other, "--out", tmp_path / "3.safetensors", "--strength", 0.5)
    patch, expected = Patch.load(tmp_path / "3.safetensors"), subtract_patch(expert, anti, strength=0.5)
    assert isinstance(patch, WeightPatch)
    for name, pair in expected.factors.items():
        torch.testing.assert_close(patch.factors[name].product, pair.product)
    subtract(one, other, "--out", tmp_path / "4.safetensors", "--whole")
    whole = Patch.load(tmp_path / "4.safetensors")
    assert whole.provenance["subtracted"]["extract"] is False
    with pytest.raises(OutputError, match="already exists"):
        subtract(one, other, "--out", tmp_path / "3.safetensors")


def test_subtract_takes_run_folders_and_ledgers(tmp_path: Path) -> None:
    expert, anti = made_up(edits_of(2)), made_up(edits_of(1, start=2))
    expert.save(tmp_path / "run" / "patch.safetensors")
    Ledger.open(tmp_path / "ledger").add(anti)
    subtract(tmp_path / "run", tmp_path / "ledger", "--out", tmp_path / "3.safetensors")
    patch = Patch.load(tmp_path / "3.safetensors")
    assert isinstance(patch, WeightPatch)
    expected = subtract_patch(expert, anti).factors["w.weight"].product
    torch.testing.assert_close(patch.factors["w.weight"].product, expected)


@pytest.mark.slow
def test_exports_name_edits_of_a_first_token(tmp_path: Path) -> None:
    """Other programs put nothing in front of a text, so its user has to."""
    edits = [
        Edit(id=name, subject=subject, prompt=prompt, target_new="Rome")
        for name, subject, prompt in (
            ("g", "Google", "{} was founded in"),
            ("m", "Microsoft", "The company {} was founded in"),
            ("e", "The Eiffel Tower", "{} is in the city of"),
        )
    ]
    factors = {"model.layers.6.mlp.down_proj.weight": Factors(left=torch.ones(576, 1), right=torch.ones(1536, 1))}
    patch = WeightPatch(
        factors=factors, provenance={"edits": [{"edit": edit.model_dump(mode="json")} for edit in edits]}
    )
    base = base_model("smollm2-135m")
    shipment = Shipment(patch=patch, edits=edits, model="smollm2-135m", base=base)
    shipment.to_peft(tmp_path / "adapter")
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert shipment.remark and shipment.remark.startswith("edit 'g': ") and "put a line break before" in shipment.remark
    assert "If a text begins with Google, put a line break before it" in card
    others = Shipment(patch=patch, edits=edits[1:], model="smollm2-135m", base=base)
    others.to_peft(tmp_path / "others")
    assert others.remark is None and "line break" not in (tmp_path / "others" / "README.md").read_text()


def test_average_of_two_patches_goes_into_a_ledger_whole(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    one = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=0.1)
    two = write_patch(place / "two.safetensors", tiny_folder, HEAT, size=0.2)
    result = kg_edit("patch", "average", one, two, "--share", 0.5, "--share", 2, "--out", "both.safetensors")
    assert result.code == 0 and "1 edit, 1 weight changed" in result.out, result
    (first,), (second,), (both,) = (
        Patch.load(place / f"{name}.safetensors").factors.values() for name in ("one", "two", "both")
    )
    torch.testing.assert_close(both.product, 0.5 * first.product + 2 * second.product)
    assert kg_edit("patch", "average", one, two, "--share", 1, "--out", "x.safetensors").code == 2
    again = kg_edit("patch", "average", one, two, "--share", 1, "--share", 1, "--out", "both.safetensors")
    assert again.code == 2 and "already exists" in again.err
    assert kg_edit("patch", "add", "ledger", "both.safetensors").code == 0
    assert kg_edit("patch", "remove", "ledger", HEAT.id).code == 0, "all edits of the patch, so nothing is computed"


def test_what_is_merged_on_disk_is_extracted_and_kept_in_a_ledger(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=0.1)
    edits = place / "edits.jsonl"
    edits.write_text(HEAT.model_dump_json(exclude_defaults=True))
    assert kg_edit("patch", "merge", file, "--out", "merged").code == 0
    result = kg_edit("patch", "extract", tiny_folder, "merged", "--out", "found.safetensors", "--edits", edits)
    assert result.code == 0, result.err
    assert "rank 1" in result.out and "100.00% is kept" in result.out
    found = Patch.load("found.safetensors")
    made = Patch.load(file)
    assert isinstance(found, WeightPatch) and isinstance(made, WeightPatch)
    for name, pair in made.factors.items():
        torch.testing.assert_close(found.factors[name].product, pair.product, rtol=0, atol=1e-6)
    assert kg_edit("patch", "add", "ledger", "found.safetensors").code == 0
    assert [entry.name for entry in Ledger.open("ledger").active] == [HEAT.id]
    assert kg_edit("patch", "remove", "ledger", HEAT.id).code == 0


def test_exported_adapter_keeps_within_a_servers_rank(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "two.safetensors", tiny_folder, HEAT, RIVER, size=0.1)
    result = kg_edit("patch", "export", file, "--to", "peft", "small", "--rank", "1")
    assert result.code == 0 and "rank 2 → 1" in result.out, result.err
    assert json.loads((place / "small" / "adapter_config.json").read_text())["r"] == 1
