"""`kg-edit patch`: what a user sees of a ledger, and which exit code a check has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import pytest
import torch

from kg_edit.edits.edit import Edit, LocalityPrompt
from kg_edit.edits.files import read_edits
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.rows import Reading, ReportProbe
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.command_line import (
    GLAME,
    GOOD,
    QUICK,
    Run,
    cache,
    content,
    kg_edit,
    place,
    refused,
    rows,
    tiny_folder,
)

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

HEAT = Edit(
    id="heat",
    subject="LeBron James",
    prompt="{} plays for",
    target_new="Miami Heat",
    target_true="Los Angeles Lakers",
    paraphrases=("LeBron James is in",),
    locality=(LocalityPrompt(prompt="Snow is"), LocalityPrompt(prompt="Spike plays in", answer="London")),
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
        "methods": [{"name": "rome", "config": {"layer": 1, "decay": None}, "layer": 1}],
        "edits": records,
    }
    factors = {loaded.weight_name(1): Factors(left=size * left, right=right)}
    return WeightPatch(factors=factors, provenance=provenance).save(path)


@pytest.mark.slow
def test_ledger_is_made_from_patch_files(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    one, two = (
        write_patch(place / "one.safetensors", tiny_folder, HEAT),
        write_patch(place / "two.st", tiny_folder, RIVER),
    )
    result = kg_edit("patch", "add", "ledger", one, two)
    assert result.code == 0 and "ledger: step 1, 1 edit of rome" in result.out and "step 2" in result.out
    three = write_patch(place / "three.safetensors", tiny_folder, LAKERS)
    result = kg_edit("patch", "add", "ledger", three)
    assert "conflict: heat and lakers edit one fact to 'Miami Heat' and to 'Los Angeles Lakers'" in result.out
    result = kg_edit("patch", "list", "ledger")
    assert (
        "LeBron James plays for → Miami Heat" in result.out
        and "active" in result.out
        and result.out.count("conflict:") == 1
    )
    shown = kg_edit("patch", "show", "ledger", "heat").out
    for part in (
        "fact: LeBron James plays for → Miami Heat",
        "relation: team",
        "step 1, from one.safetensors",
        "layer: 1",
    ):
        assert part in shown
    assert shown.count("layer: 1") == 1 and "null" not in shown
    assert kg_edit("patch", "remove", "ledger", "heat", "river").code == 0
    assert "conflict" not in kg_edit("patch", "show", "ledger").out
    assert "removed heat, river" in kg_edit("patch", "show", "ledger").out
    assert "undid event 4: removed heat, river; 3 edits left" in kg_edit("patch", "undo", "ledger").out
    assert len(Ledger.open(place / "ledger").patch.edits) == 3
    assert kg_edit("patch", "remove", "ledger", "heat", "river", "lakers").code == 0
    emptied = kg_edit("patch", "list", "ledger").out
    assert "removed" in emptied and "ledger: no active edit; kg-edit patch add ledger PATCH adds one" in emptied
    unedited = kg_edit("generate", "Hi", "--tokens", "2", "--model", tiny_folder, "--patch", "ledger").err
    assert "ledger: no edit is active, so the model is the unedited one" in unedited


TORCHLESS = """
import sys
from kg_edit.__main__ import main
for command in sys.argv[1:]:
    sys.argv = ["kg-edit", "patch", *command.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
    assert "torch" not in sys.modules, command
"""


@pytest.mark.slow
def test_what_needs_no_model_loads_no_torch(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    write_patch(place / "a.safetensors", tiny_folder, HEAT, RIVER, size=0.1)
    assert kg_edit("patch", "add", "ledger", "a.safetensors").code == 0
    commands = (
        "list ledger",
        "show ledger",
        "show ledger heat",
        "show ledger heat --json",
        "check --help",
        "export --help",
        f"export ledger --to peft adapter --model {tiny_folder}",
        f"export ledger --to gguf adapter-gguf --model {tiny_folder}",
        "export ledger --to patch copy.safetensors",
        "undo ledger",
    )
    process = subprocess.run([sys.executable, "-c", TORCHLESS, *commands], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert json.loads(kg_edit("patch", "list", "ledger", "--json").out)["edits"] == []
    assert (place / "copy.safetensors").read_bytes() == (place / "a.safetensors").read_bytes()


@pytest.mark.slow
def test_ledger_is_printed_as_json(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    write_patch(place / "a.safetensors", tiny_folder, HEAT, RIVER, size=0.1)
    assert kg_edit("patch", "add", "ledger", "a.safetensors").code == 0
    listed = json.loads(kg_edit("patch", "list", "ledger", "--json").out)
    assert [(edit["name"], edit["state"], edit["step"]) for edit in listed["edits"]] == [
        (edit.id, "active", 1) for edit in (HEAT, RIVER)
    ]
    shown = json.loads(kg_edit("patch", "show", "ledger", HEAT.id, "--json").out)
    assert [edit["edit"]["target_new"] for edit in shown["edits"]] == [HEAT.target_new]
    (event,) = json.loads(kg_edit("patch", "show", "ledger", "--json").out)["events"]
    assert event["number"] == 1 and "a.safetensors" in event["what"]
    table = kg_edit("patch", "check", "ledger")
    checked = kg_edit("patch", "check", "ledger", "--json")
    report = json.loads(checked.out)
    assert checked.code == table.code == int(not all(edit["succeeds"] for edit in report["edits"]))
    assert {answer["kind"] for edit in report["edits"] for answer in edit["answers"]} >= {"rewrite"}


@pytest.mark.slow
def test_check_fails_if_a_fact_does_not_hold(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """The changes are nothing, so of two opposite edits just one holds."""
    codes = {}
    for edit in (HEAT, LAKERS):
        file = write_patch(place / f"{edit.id}.safetensors", tiny_folder, edit)
        kg_edit("patch", "add", edit.id, file)
        result = kg_edit("patch", "check", edit.id, "--model", tiny_folder)
        codes[edit.id] = result.code
        assert ("1 of 1 edits succeed" in result.out) == (result.code == 0)
        assert "locality prompts without an answer, not asked: 1; `kg-edit diff --patch`" in result.out
        assert (f"{edit.id}, rewrite: " in result.out) == (result.code == 1)
        assert kg_edit("patch", "check", file).code == result.code, "a patch file alone, the model it names"
        assert kg_edit("patch", "check", edit.id, "--merged", tiny_folder).code == result.code
    assert sorted(codes.values()) == [0, 1]
    good = next(name for name, code in codes.items() if code == 0)
    strict = kg_edit("patch", "check", good, "--model", tiny_folder, "--strict", "all")
    assert strict.code in (0, 1)
    wrong = kg_edit("patch", "check", good, "--model", tiny_folder, "--strict", "paraphrse")
    assert wrong.code == 2 and "did you mean 'paraphrase'" in wrong.err


def test_edits_that_fail_are_written_as_edits(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """The changes are nothing, so of two opposite edits just one holds; two steps have the edit that fails."""
    codes = []
    opposite = LAKERS.model_copy(update={"id": "heat"})
    write_patch(place / "one.st", tiny_folder, HEAT)
    write_patch(place / "two.st", tiny_folder, opposite)
    for ledger, edit in (("one", HEAT), ("two", opposite)):
        kg_edit("patch", "add", ledger, f"{ledger}.st")
        kg_edit("patch", "add", ledger, f"{ledger}.st", "--force")
        check = ("patch", "check", ledger, "--model", tiny_folder, "--failed-to")
        result = kg_edit(*check, f"{ledger}.jsonl")
        size = (place / f"{ledger}.jsonl").stat().st_size
        written = read_edits(place / f"{ledger}.jsonl").edits if size else ()
        again = f"kg-edit patch edit {ledger} {ledger}.jsonl --method grace"
        assert (again in result.out) == (result.code == 1) == bool(written)
        if written:
            ids = {"id": "1/heat"}, {"id": "2/heat"}
            assert written == tuple(edit.model_copy(update=update) for update in ids)
            assert json.loads(kg_edit(*check, f"{ledger}.jsonl", "--json").out)["edits"]
        wrong = kg_edit(*check, "failed.csv")
        assert wrong.code == 2 and ".jsonl" in wrong.err
        codes.append(result.code)
    assert sorted(codes) == [0, 1]


def test_ledger_is_merged_and_exported(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, RIVER, size=0.1)
    kg_edit("patch", "add", "ledger", file)
    result = kg_edit("patch", "merge", "ledger", "--model", tiny_folder, "--out", "merged")
    assert result.code == 0 and "2 edits in its weights" in result.out
    patch, base, merged = Patch.load(file), LanguageModel.load(tiny_folder), LanguageModel.load(place / "merged")
    with patch.applied(base):
        assert torch.equal(weight_matrix(base.down_projection(1)), weight_matrix(merged.down_projection(1)))
    result = kg_edit("patch", "export", "ledger", "--to", "peft", "adapter")
    assert result.code == 0 and json.loads((place / "adapter" / "adapter_config.json").read_text())["r"] == 2
    assert kg_edit("patch", "export", "ledger", "--to", "patch", "all.safetensors").code == 0
    assert Patch.load(place / "all.safetensors").edits == patch.edits
    again = kg_edit("patch", "merge", "ledger", "--model", tiny_folder, "--out", "merged")
    assert again.code == 2 and "already exists" in again.err
    wrong = kg_edit("patch", "export", "ledger", "--to", "perft", "x")
    assert wrong.code == 2 and "'perft' is not one of 'peft', 'gguf'" in wrong.err


def test_export_overwrites_nothing(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    kg_edit("patch", "add", "ledger", write_patch(place / "one.safetensors", tiny_folder, HEAT))
    (place / "link").symlink_to("ledger")
    before = content(place)
    for to, out, message in (
        ("patch", "edits.jsonl", "edits.jsonl already exists; give another file"),
        ("patch", ".", "already exists"),
        ("patch", "a" * 300, "can't read"),
        ("patch", "ledger/ledger.jsonl", "is inside the ledger"),
        ("patch", "ledger/patches/0001.safetensors", "is inside the ledger"),
        ("patch", "link/patches/0002.safetensors", "is inside the ledger"),
        ("peft", "ledger/adapter", "is inside the ledger"),
        ("peft", "a" * 300, "can't read"),
    ):
        result = kg_edit("patch", "export", "ledger", "--to", to, out)
        assert result.code == 2 and message in result.err, result
        assert content(place) == before
    assert kg_edit("patch", "export", "ledger", "--to", "patch", "new/all.safetensors").code == 0


def test_ledger_without_active_edits_is_not_checked_or_exported(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    kg_edit("patch", "add", "ledger", write_patch(place / "one.safetensors", tiny_folder, HEAT))
    kg_edit("patch", "remove", "ledger", "heat")
    for options in ((), ("--model", "no-such-model"), ("--merged", "no-such-model")):
        result = kg_edit("patch", "check", "ledger", *options)
        assert (result.code, result.out, result.err) == (0, "ledger has no edits, so there is nothing to check\n", "")
    for to in ("peft", "patch"):
        result = kg_edit("patch", "export", "ledger", "--to", to, "out")
        assert result.code == 2 and "the patch changes nothing, so there is nothing to export" in result.err
        assert not (place / "out").exists()
    result = kg_edit("patch", "merge", "ledger", "--out", "out")
    assert result.code == 2 and "the patch changes nothing" in result.err


def test_check_fails_if_active_edits_contradict(
    kg_edit: Run, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both targets are more likely than the old one by the readings; one of them is generated."""

    def read(model: object, probes: Sequence[ReportProbe], *, progress: str | None) -> tuple[Reading, ...]:
        return tuple(
            Reading(text=HEAT.target_new, nats=1.0, success=probe.wanted == HEAT.target_new, right=True)
            for probe in probes
        )

    monkeypatch.setattr("kg_edit.reports.probes.read", read)
    rival = HEAT.model_copy(update={"id": "rival", "target_new": "Paris"})
    for edit in (HEAT, RIVER, rival):
        kg_edit("patch", "add", "ledger", write_patch(place / f"{edit.id}.safetensors", tiny_folder, edit))
    result = kg_edit("patch", "check", "ledger")
    assert result.code == 1
    *_, paraphrases, conflict, verdict = result.out.splitlines()
    assert paraphrases.startswith("after 2 of 2 paraphrases the target is more likely than the old one;")
    assert paraphrases.endswith("generated after 1")
    assert conflict.startswith("conflict: heat and rival edit one fact to 'Miami Heat' and to 'Paris'")
    assert verdict == (
        "2 of 3 edits succeed (the target is more likely than the old one); it is generated in 0 of them; "
        "1 superseded (heat by rival); 1 contradiction"
    )
    kg_edit("patch", "remove", "ledger", "rival")
    result = kg_edit("patch", "check", "ledger")
    assert (
        result.code == 0
        and result.out.splitlines()[-1]
        == "2 of 2 edits succeed (the target is more likely than the old one); it is generated in 1 of them"
    )


def test_check_says_when_an_edit_succeeds(
    kg_edit: Run, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit without an old target succeeds if its target is generated."""
    generated = Reading(text="Paris", nats=1.0, success=True, right=True)
    monkeypatch.setattr("kg_edit.reports.probes.read", lambda _, probes, **__: (generated,) * len(probes))
    for edit in (RIVER.model_copy(update={"target_true": None, "paraphrases": ("The Thames is in",)}), HEAT):
        kg_edit("patch", "add", "ledger", write_patch(place / f"{edit.id}.st", tiny_folder, edit))
    both = "(the target is more likely than the old one, or generated where there is none); it is generated in 2 of"
    assert kg_edit("patch", "check", "ledger").out.splitlines()[-1].startswith(f"2 of 2 edits succeed {both}")
    kg_edit("patch", "remove", "ledger", "heat")
    *_, paraphrases, verdict = kg_edit("patch", "check", "ledger").out.splitlines()
    assert paraphrases == "after 1 of 1 paraphrases the target is generated"
    assert verdict == "1 of 1 edits succeed (the target is generated)"


def test_add_names_the_command_that_removes_failed_edits(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    write_patch(place / "patch.safetensors", tiny_folder, HEAT)
    edits = [
        {
            "edit": name,
            "prompt": "",
            "target": "",
            "generated": "",
            "succeeded": False,
            "likelier": False,
            "known": False,
        }
        for name in ("james", "france", "hughes")
    ]
    (place / "report.json").write_text(json.dumps({"version": 1, "joint": False, "edits": edits}))
    for ledger, model, named in (("my ledger", (), "MODEL"), ("other", ("--model", tiny_folder), str(tiny_folder))):
        added = kg_edit("patch", "add", ledger, place, *model, "--force")
        removing = f"kg-edit patch remove {quote(ledger)} 1/james 1/france 1/hughes --model {quote(named)}"
        assert added.out.splitlines()[-1].endswith(removing)


def test_add_adds_all_inputs_or_none(
    kg_edit: Run, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conflicts of all pairs are found once, not for each of the steps."""
    asked, conflicts = list[Ledger](), Ledger.conflicts
    monkeypatch.setattr(Ledger, "conflicts", lambda ledger: (asked.append(ledger), conflicts(ledger))[1])
    one, two = (write_patch(place / f"{edit.id}.st", tiny_folder, edit) for edit in (HEAT, RIVER))
    kg_edit("patch", "add", "more", write_patch(place / "three.st", tiny_folder, LAKERS))
    for bad in ("nowhere.st", "edits.jsonl", "nowhere/", one):
        refused(kg_edit, "patch", "add", "ledger", one, two, bad, message=str(bad).strip("/"), out=place / "ledger")
        refused(kg_edit, "patch", "add", "ledger", "more", bad, one, message=str(bad).strip("/"), out=place / "ledger")
    asked.clear()
    result = kg_edit("patch", "add", "ledger", one, "more", two)
    assert len(asked) == 1
    assert result.code == 0 and [f"step {number}" in result.out for number in (1, 2, 3, 4)] == [True, True, True, False]
    assert result.out.count("conflict:") == 1
    steps = Ledger.open(place / "ledger").steps
    refused(kg_edit, "patch", "add", "ledger", one, message="is already in the ledger, as step 1", out=place / "ledger")
    assert Ledger.open(place / "ledger").steps == steps


def test_ledger_without_its_log_is_refused(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    kg_edit("patch", "add", "ledger", write_patch(place / "one.safetensors", tiny_folder, HEAT))
    (place / "ledger" / "ledger.jsonl").unlink()
    two = write_patch(place / "two.safetensors", tiny_folder, RIVER)
    for arguments in (("list", "ledger"), ("add", "ledger", two), ("check", "ledger"), ("add", "other", "ledger")):
        refused(kg_edit, "patch", *arguments, message="has 1 stored patch,", out=place / "ledger")
    assert "patch add ledger" not in kg_edit("patch", "list", "ledger").err
    assert kg_edit("patch", "add", "other", "ledger/patches/0001.safetensors").code == 0


def test_commands_in_messages_quote_the_path_of_a_ledger(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    kg_edit("patch", "add", "my ledger", write_patch(place / "heat.st", tiny_folder, HEAT))
    assert kg_edit("patch", "remove", "my ledger", "heat").out.endswith("kg-edit patch undo 'my ledger'\n")
    assert "kg-edit patch add 'my ledger' PATCH adds one" in kg_edit("patch", "list", "my ledger").out
    assert "kg-edit patch add 'no ledger' " in kg_edit("patch", "list", "no ledger").err


@pytest.mark.slow
def test_edit_is_named_by_its_subject_if_it_is_the_only_one(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    heat = HEAT.model_copy(update={"id": "row-1"})
    for edit in (heat, RIVER, LAKERS, RIVER.model_copy(update={"id": "row-1"})):
        kg_edit("patch", "add", "ledger", write_patch(place / f"{edit.target_new}.st", tiny_folder, edit), "--force")
    for command in ("show", "remove"):
        lebron = kg_edit("patch", command, "ledger", "LeBron James")
        assert lebron.code == 2 and "'LeBron James' matches 2 edits; give one of 1/row-1, lakers" in lebron.err
    assert "fact: Thames flows through" in kg_edit("patch", "show", "ledger", "river").out
    assert kg_edit("patch", "remove", "ledger", "lakers").out.startswith("removed lakers; 3 edits left")
    assert kg_edit("patch", "remove", "ledger", "lebron james").out.startswith("removed 1/row-1; 2 edits left")
    assert "removed 1/row-1" in kg_edit("patch", "show", "ledger").out
    assert kg_edit("patch", "undo", "ledger").out.startswith("undid event 6: removed 1/row-1; 3 edits left")
    unknown = kg_edit("patch", "remove", "ledger", "Google")
    assert unknown.code == 2 and "unknown edit 'Google'" in unknown.err


@pytest.mark.slow
def test_repeats_in_a_file_are_made_once_and_said(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows({**GOOD, "id": "one"}, {**GOOD, "id": "two"}))
    quick = ("--method", "rome", "--model", tiny_folder, "--layer", 1, "--set", "steps=1", *QUICK)
    result = kg_edit("patch", "edit", "ledger", "edits.jsonl", *quick)
    assert "step 1, 1 edit of rome" in result.out
    assert "two repeats one exactly, and was made once" in result.out.splitlines()


@pytest.mark.slow
def test_edits_are_made_on_a_ledger_and_removed(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    quick = ("--method", "rome", "--model", tiny_folder, "--layer", 1, "--set", "steps=2", *QUICK)
    result = kg_edit("patch", "edit", "ledger", "edits.jsonl", *quick)
    assert result.code == 0 and "step 1, 2 edits of rome" in result.out
    refused = kg_edit("patch", "remove", "ledger", "lebron")
    assert refused.code == 2 and "--model" in refused.err
    result = kg_edit("patch", "remove", "ledger", "lebron", "--model", tiny_folder)
    assert result.code == 0 and "removed lebron; 1 edit left" in result.out
    assert [record["edit"]["id"] for record in Ledger.open(place / "ledger").patch.edits] == ["france"]


@pytest.mark.parametrize(("generated", "count"), [("Rome.", "1 of 1"), ("Oslo", "0 of 1")])
def test_edit_says_whether_it_succeeded(
    generated: str, count: str, kg_edit: Run, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the target is more likely than the old one, but not generated, as `kg-edit edit` counts."""
    reading = Reading(text=generated, nats=1.0, success=generated == "Rome.", right=True)
    monkeypatch.setattr("kg_edit.reports.probes.read", lambda _, probes, **__: (reading,) * len(probes))
    (place / "edits.jsonl").write_bytes(rows({**GOOD, "id": "one", "target_new": "Rome"}))
    quick = ("--method", "ft-m", "--model", tiny_folder, "--layer", 1, "--set", "steps=1", "--force")
    result = kg_edit("patch", "edit", "ledger", "edits.jsonl", *quick)
    assert result.code == 0, result.err
    assert f"{count} edits succeeded" in result.out
    assert (f"1 failed: one ('{GOOD['prompt'].replace('{}', GOOD['subject'])}': target" in result.out) == (
        count == "0 of 1"
    )


def test_removal_names_the_edits_that_no_longer_hold(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """A random change turns a preference of the tiny model round, so the edit that needs it is lost without it."""
    kept = HEAT.model_copy(update={"id": "kept", "target_new": "Rome", "target_true": "Oslo"})
    other = RIVER.model_copy(update={"id": "xx"})  # its length is the seed of the change
    write_patch(place / "kept.st", tiny_folder, kept)
    write_patch(place / "other.st", tiny_folder, other, size=0.5)
    kg_edit("patch", "add", "ledger", "other.st", "kept.st")
    held = json.loads(kg_edit("patch", "check", "ledger", "--json").out)["edits"]
    assert {edit["name"]: edit["succeeds"] for edit in held}["kept"]
    assert "lost" not in kg_edit("patch", "remove", "ledger", "xx").out, "without --model nothing is asked"
    kg_edit("patch", "undo", "ledger")
    result = kg_edit("patch", "remove", "ledger", "xx", "--model", tiny_folder)
    assert "lost by this change: kept ('LeBron James plays for': target 'Rome', now generated" in result.out
    assert result.code == 0, "as `kg-edit edit`, whose edits may fail too"
    kg_edit("patch", "undo", "ledger")
    assert "lost" not in kg_edit("patch", "remove", "ledger", "kept", "--model", tiny_folder).out


@pytest.mark.slow
def test_removal_needs_the_own_graph_of_the_edits_and_takes_the_packaged_one(
    kg_edit: Run, place: Path, tiny_folder: Path
) -> None:
    (place / "facts.csv").write_text("Rome,country,Italy\n")
    two = [{**GOOD, "id": name, "subject": name} for name in ("one", "two")]
    (place / "edits.jsonl").write_bytes(rows(*two))
    quick = ("--method", "glame", "--model", tiny_folder, "--layer", 1, "--set", "steps=1", *QUICK, "--force")
    for ledger, graph in (("own", ("--graph", "facts.csv")), ("packaged", ())):
        result = kg_edit("patch", "edit", ledger, "edits.jsonl", *quick, *graph)
        assert result.code == 0, result.err
        assert f"kg-edit patch check {ledger} --model {tiny_folder}" in result.out
        remove = ("patch", "remove", ledger, "one")
        assert ("--graph facts.csv" in kg_edit(*remove).err) == bool(graph)
        if graph:
            refused(kg_edit, *remove, "--model", tiny_folder, message="CLI: --graph facts.csv", out=place / ledger)
        removed = kg_edit(*remove, "--model", tiny_folder, *graph)
        assert removed.code == 0 and "removed one; 1 edit left" in removed.out, removed.err


@pytest.mark.slow
def test_keep_going_skips_names_that_are_not_in_the_graph(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows({**GOOD, "subject": "Atlantis", "target_new": "Poseidonis"}, GOOD))
    arguments = ("patch", "edit", "ledger", "edits.jsonl", *GLAME, "--model", tiny_folder, "--layer", 1)
    arguments = (*arguments, "--require-graph")
    refused(kg_edit, *arguments, message="Poseidonis", out=place / "ledger")
    result = kg_edit(*arguments, *QUICK, "--set", "steps=1", "--force", "--keep-going")
    assert result.code == 0, result.err
    assert "skipped: row-1: " in result.err
    assert len(Ledger.open(place / "ledger").patch.edits) == 1


def test_added_ledger_is_compared_with_the_model(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=100.0)
    assert kg_edit("patch", "add", "ledger", file).code == 0
    refused = kg_edit("patch", "add", "other", "ledger", "--model", tiny_folder)
    assert refused.code == 2 and "as large as the weight itself" in refused.err
    assert kg_edit("patch", "add", "other", "ledger", "--model", tiny_folder, "--force").code == 0


def test_new_ledger_beside_one_of_nearly_the_same_name_is_named(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "river.safetensors", tiny_folder, RIVER)
    assert "new ledger" not in kg_edit("patch", "add", "ledger", file).err
    listed = kg_edit("patch", "list", "legder")
    assert listed.code == 2 and "there is no ledger at legder, did you mean ledger?" in " ".join(listed.err.split())
    added = kg_edit("patch", "add", "legder", file)
    assert added.code == 0 and "legder is a new ledger, beside ledger" in added.err


def test_wrong_arguments_change_nothing(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, HEAT)
    kg_edit("patch", "add", "ledger", file)
    before = content(place / "ledger")
    for arguments, message in (
        (("list", "nowhere"), "kg-edit patch add nowhere"),
        (("list", "a" * 300), "can't read"),
        (("check", "a" * 300), "can't read"),
        (("add", "ledger", "a" * 300), "can't read"),
        (("show", "ledger", "heet"), "did you mean 'heat'"),
    ):
        result = kg_edit("patch", *arguments)
        assert result.code == 2 and message in result.err, result
        assert content(place / "ledger") == before
