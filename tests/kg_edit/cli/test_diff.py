"""`kg-edit diff`, and what `kg-edit edit` tells about prompts that should not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.models.language_model import LanguageModel
from kg_edit.reports.differences import read_differences
from tests.kg_edit.command_line import QUICK, ROME, Run, cache, edit, kg_edit, place, refused, rows, tiny_folder
from tests.kg_edit.ship.cli.test_patch import HEAT, RIVER, write_patch

__all__ = ["cache", "edit", "kg_edit", "place", "tiny_folder"]  # fixtures

KEPT = {
    "subject": "LeBron James",
    "prompt": "{} plays for",
    "target_new": "Los Angeles Lakers",
    "relation": "member of sports team",
    "locality": [{"prompt": "Where does the river Thames", "answer": "flow"}, "Spike Hughes"],
}


@pytest.mark.slow
def test_edit_tells_what_else_changed(kg_edit: Run, edit: Run, place: Path, tiny_folder: Path) -> None:
    """By default; ``edit`` of the tests leaves it out."""
    (place / "edits.jsonl").write_bytes(rows(KEPT))
    strong = (*ROME, "--set", "learning_rate=5", "--set", "hold=0.01")
    command = ("edit", "edits.jsonl", *QUICK, "--set", "steps=3", "--model", tiny_folder, "--out", "out")
    result = kg_edit(*command, *strong)
    assert result.code == 0, result.err
    compared = read_differences(place / "out" / "locality.jsonl")
    locality = [difference for difference in compared if difference.asked.source == "edit"]
    assert [(difference.asked.prompt, difference.asked.answer, difference.asked.edit) for difference in locality] == [
        ("Where does the river Thames", ("flow",), "row-1"),
        ("Spike Hughes", (), "row-1"),
    ]
    assert len(compared) - len(locality) > 20
    unchanged, same = (sum(difference.unchanged for difference in group) for group in (locality, compared))
    line = f"{unchanged} of 2 locality prompts, {same - unchanged} of {len(compared) - 2} unrelated prompts unchanged"
    assert line in result.out
    changed = len(compared) - 2 - (same - unchanged)
    assert (f"and {changed - 10} more that changed, in report.html" in result.out) is (changed > 10)
    for name in ("report.md", "report.html"):
        report = (place / "out" / name).read_text()
        assert line in report and "Where does the river Thames" in report
    assert "Where does the river Thames" in result.out
    assert edit("--locality-check", *strong).out == result.out, "nothing is asked again"


@pytest.mark.slow
def test_locality_check_can_be_left_out(edit: Run, place: Path) -> None:
    """The prompts of the file are asked nevertheless."""
    result = edit(*ROME, "--no-locality-check")
    assert "unchanged" not in result.out and not (place / "out" / "locality.jsonl").exists()
    (place / "edits.jsonl").write_bytes(rows(KEPT))
    assert "of 2 locality prompts unchanged" in edit(*ROME, "--no-locality-check", "--out", "other").out


@pytest.mark.slow
def test_diff_compares_a_file_of_prompts(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """With a patch file, and with a ledger that has the same patch."""
    write_patch(place / "a.safetensors", tiny_folder, HEAT, RIVER, size=5.0)
    (place / "prompts.txt").write_text("The quick brown\tfox\tdog\nWhere does\n")
    result = kg_edit("diff", "--patch", "a.safetensors", "prompts.txt", "--html", "diff.html")
    assert result.code == 0, result.err
    assert "of 2 prompts unchanged" in result.out
    assert "fox 0." in result.out
    assert "The quick brown" in (place / "diff.html").read_text()
    printed = kg_edit("diff", "--patch", "a.safetensors", "prompts.txt", "--json").out
    report = json.loads(printed)
    assert (report["prompts"], report["model"]) == (2, str(tiny_folder))
    first, second = report["differences"]
    assert (first["prompt"], first["answer"], len(first["edited_probabilities"])) == (
        "The quick brown",
        ["fox", "dog"],
        2,
    )
    assert report["unchanged"] == first["unchanged"] + second["unchanged"] < 2
    assert kg_edit("patch", "add", "ledger", "a.safetensors", "--force").code == 0
    assert kg_edit("diff", "--patch", "ledger", "prompts.txt", "--json").out == printed
    by_patch, by_ledger = (
        kg_edit("generate", "Where does", "--patch", path, "--model", tiny_folder)
        for path in ("a.safetensors", "ledger")
    )
    assert (by_patch.out, by_patch.code) == (by_ledger.out, 0)
    packaged = kg_edit("diff", "--patch", "a.safetensors", "--patch", "ledger")
    assert "of 20 unrelated prompts unchanged" in packaged.out


@pytest.mark.slow
def test_merged_model_is_compared_and_checked_with_what_it_was_made_from(
    kg_edit: Run, place: Path, tiny_folder: Path
) -> None:
    write_patch(place / "a.safetensors", tiny_folder, HEAT, RIVER, size=5.0)
    other = write_patch(place / "other.safetensors", tiny_folder, HEAT.model_copy(update={"id": "other"}))
    (place / "prompts.txt").write_text("The quick brown\tfox\tdog\nWhere does\n")
    assert kg_edit("patch", "merge", "a.safetensors", "--out", "merged").code == 0
    by_patch, merged = (
        json.loads(kg_edit("diff", *options, "prompts.txt", "--json").out)
        for options in (("--patch", "a.safetensors"), ("--model", "merged"))
    )
    assert by_patch == merged
    for options in ((), ("--model", tiny_folder)):
        refused(kg_edit, "diff", *options, "prompts.txt", message="give --patch PATH, or --model with the", out=place)
    message = "merged was made from other edits (heat, river); give the ledger"
    refused(kg_edit, "patch", "check", other, "--merged", "merged", message=message, out=place / "merged")
    assert "other edits" not in kg_edit("patch", "check", "a.safetensors", "--merged", "merged").err


@pytest.mark.slow
def test_generate_starts_a_text_for_a_merged_model_as_with_its_patch(
    kg_edit: Run, place: Path, smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "merged").mkdir()
    (place / "merged" / "config.json").write_text("{}")
    edit = {"id": "google", "subject": "Google", "prompt": "{} was founded by", "target_new": "Ada"}
    (place / "merged" / "kg_edit.json").write_text(json.dumps({"edits": [{"edit": edit, "method": "rome"}]}))
    monkeypatch.setattr("kg_edit.cli.generate.load_model", lambda *_: smollm2)
    result = kg_edit("generate", "Google was founded by", "--model", "merged", "--tokens", "1")
    assert result.code == 0 and "a line break is put in front" in result.err, result.err


def test_diff_checks_its_files_first(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    write_patch(place / "a.safetensors", tiny_folder, HEAT)
    (place / "prompts.html").write_text("a\n")
    command = ("diff", "--patch", "a.safetensors")
    refused(kg_edit, *command, "absent.txt", message="absent.txt: no such file", out=place)
    refused(kg_edit, *command, "prompts.html", "--html", "prompts.html", message="is the input file itself", out=place)
    refused(kg_edit, *command, "--html", "absent/diff.html", message="there is no folder absent", out=place)
    refused(kg_edit, "diff", "--patch", "absent", message="absent", out=place)
