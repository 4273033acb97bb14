"""`kg-edit edit`: its files, its folder, kills, and edits that can't be made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kg_edit.callbacks import LossFile
from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.methods.registry import find_method
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.command_line import (
    GLAME,
    GOOD,
    ROME,
    TRIPLET,
    Run,
    cache,
    content,
    edit,
    generate,
    kg_edit,
    place,
    refused,
    rows,
    tiny_folder,
)
from wikidata_cache import packaged_extract
from wikidata_cache.cli import app as wikidata_cli

__all__ = ["cache", "edit", "kg_edit", "place", "tiny_folder"]  # fixtures


def test_output_folder_that_is_a_file_is_refused(edit: Run, place: Path) -> None:
    (place / "file").write_text("mine")
    for folder in ("file", "file/out"):
        refused(edit, *ROME, "--out", folder, message="file is a file; give --out a folder", out=place)


@pytest.mark.slow
def test_output_that_fails_late_is_one_message(edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cli.edit", "reports.edit_run", "storage.run_folder"):
        monkeypatch.setattr(
            f"kg_edit.{module}.check_folder", lambda *_, **__: None
        )  # as if the folder passed the checks
    (place / "file").write_text("mine")
    refused(edit, *ROME, "--out", "file/out", message="can't write file/out/run.json: Not a directory", out=place)


def test_output_folder_with_other_files_is_refused(edit: Run, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.tex").write_text("mine")
    refused(edit, *ROME, message="out is not empty and has no run of kg-edit", out=place / "out")


@pytest.mark.slow
def test_output_folder_with_another_run_is_refused(edit: Run, place: Path) -> None:
    assert edit(*ROME).code == 0
    out = place / "out"
    message = "out contains another run (config.weight_decay: 0.5 in the folder, 0.3 now); --overwrite replaces it"
    refused(edit, *ROME, "--set", "weight_decay=0.3", message=message, out=out)
    refused(edit, *GLAME, message='out contains another run (method: "rome" in the folder, "glame" now)', out=out)
    (place / "edits.jsonl").write_bytes(rows(GOOD))
    refused(edit, *ROME, message="(edits: 2 in the folder, 1 now; number 1 is 'lebron' in the folder", out=out)
    again = edit(*ROME, "--overwrite")
    assert (again.code, len(Patch.load(out / "patch.safetensors").edits)) == (0, 1), again.err
    assert "nothing to compute" in edit(*ROME, "--overwrite").err, "the same run is resumed"
    (out / "run.json").write_text("{")
    for more in ((), ("--overwrite",)):
        refused(edit, *ROME, *more, message="out has no run: can't read out/run.json", out=out)


@pytest.mark.slow
def test_output_folder_without_results_can_be_replaced(edit: Run, place: Path) -> None:
    """Else a mended mistake would be refused as another run."""
    assert edit(*ROME).code == 0
    for file in (place / "out").iterdir():
        if file.name != "run.json":
            file.unlink()
    assert edit(*ROME, "--force", steps=4).code == 0


def test_corpus_that_is_too_short_writes_nothing(kg_edit: Run, tiny_folder: Path, place: Path) -> None:
    (place / "short.txt").write_text("too short\n")
    options = ("--model", tiny_folder, "--corpus", "short.txt", "--out", "out")
    refused(kg_edit, "edit", "edits.jsonl", *ROME, *options, message="ends after", out=place / "out")


@pytest.mark.parametrize("method", [ROME, pytest.param(GLAME, marks=pytest.mark.slow)], ids=["rome", "glame"])
def test_edit_writes_all_its_files_and_nothing_twice(method: tuple[str, ...], edit: Run, place: Path) -> None:
    first = edit(*method, "--locality-check")
    assert first.code == 0, first.err
    files = content(place / "out")
    assert files is not None
    picture = {"subgraph-lebron.svg"} if method is GLAME else set()
    reports = {"report.md", "report.html", "report.json"}
    written = {
        "patch.safetensors",
        "records.jsonl",
        "locality.jsonl",
        "losses.jsonl",
        "alone.jsonl",
        "failed.jsonl",
        "edits.jsonl",
    } | reports
    assert set(files) == {".lock", "run.json"} | written | picture
    assert all(name in first.out for name in set(files) - {".lock", "run.json", "alone.jsonl"})
    again = edit(*method, "--locality-check")
    assert "nothing to compute" in again.err
    assert (again.code, again.out, content(place / "out")) == (0, first.out, files)


@pytest.mark.slow
def test_packaged_extract_is_the_default_graph(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows({"subject": "Q1632204", "relation": "P19", "new_object": "Q1345"}))
    result = edit("--method", "glame")
    assert result.code == 0, result.err
    assert "no --graph given: glame uses the packaged graph extract" in result.err
    assert "nothing to compute" in edit("--method", "glame", "--graph", "extract").err, "the same run by its name"
    assert "nothing to compute" in edit("--method", "glame", "--graph", str(packaged_extract())).err
    assert "Philadelphia" in (place / "out" / "subgraph-row-1.svg").read_text()


@pytest.mark.slow
def test_triplets_of_ids_get_their_labels_from_the_graph(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows(TRIPLET))
    assert edit(*GLAME).code == 0
    (record,) = Patch.load(place / "out" / "patch.safetensors").provenance["edits"]
    assert record["edit"]["subject"] == "LeBron James"
    assert record["edit"]["target_new"] == "Los Angeles Lakers"
    assert record["edit"]["prompt"].startswith("{} ")


@pytest.mark.parametrize("method", [ROME, pytest.param(GLAME, marks=pytest.mark.slow)], ids=["rome", "glame"])
def test_killed_run_is_resumed(
    method: tuple[str, ...], edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fresh start after the kill, the second edit's patch is the same to the bit."""
    assert edit(*method, "--out", "whole").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(RankOneMethod, "make", _failing_at("france", KeyboardInterrupt()))
        killed = edit(*method)
    assert killed.code == 130
    assert "run the same command again to continue" in killed.err
    assert set(content(place / "out") or ()) == {".lock", "run.json", "losses.jsonl", "patch.partial.safetensors"}
    result = edit(*method)
    assert result.code == 0
    assert "after 1 of 2 edits" in result.err
    assert content(place / "out") == content(place / "whole")


def test_failing_edit_is_named_and_the_others_are_saved(
    edit: Run, kg_edit: Run, place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RankOneMethod, "make", _failing_at("france", PatchError("the update would explode")))
    result = edit(*ROME)
    assert result.code == 2
    lines = result.err.splitlines()
    assert lines[-3:] == [
        "kg-edit: the update would explode",
        "  in the edit 'france': 'In France, the capital is' -> 'Rome'",
        "  the edits made before this error are saved in out/patch.partial.safetensors, which is a normal patch file",
    ]
    assert generate(kg_edit, tiny_folder, "--patch", "out/patch.partial.safetensors").code == 0


@pytest.mark.slow
def test_edit_that_is_too_large_is_refused(
    edit: Run, kg_edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, beside the weight's own norm; the ledger says the same of the patch without a model."""
    original = RankOneMethod.make

    def make(self: RankOneMethod, edits: Sequence[Edit], *, before: Patch) -> Patch:
        patch = original(self, edits, before=before)
        assert isinstance(patch, WeightPatch)
        (name, pair), *_ = patch.factors.items()
        larger = Factors(left=1000 * pair.left, right=pair.right) if edits[0].id == "france" else pair
        return WeightPatch(factors={name: larger}, provenance=patch.provenance)

    monkeypatch.setattr(RankOneMethod, "make", make)
    stopped = edit(*ROME)
    assert stopped.code == 2
    assert re.search(r"the change of model\.layers\S+ is \S+ times as large as the weight itself", stopped.err)
    assert "in the edit 'france'" in stopped.err and "--force" in stopped.err
    kept = Patch.load(place / "out" / "patch.partial.safetensors")
    assert [record["edit"]["id"] for record in kept.edits] == ["lebron"]
    assert edit(*ROME, "--force").code == 0
    refused = kg_edit("patch", "add", "ledger", "out")
    assert refused.code == 2
    assert re.search(r"france: the change of \S+ is \S+ times as large as the weight itself", refused.err)
    assert kg_edit("patch", "add", "ledger", "out", "--force").code == 0


@pytest.mark.slow
def test_edits_of_one_subject_are_named_before_they_are_made(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows({**GOOD, "id": "one"}, {**GOOD, "id": "two", "prompt": "{} is in"}))
    line = "one and two have the same subject 'France', and so nearly the same key: the later edit may overwrite"
    assert line in edit(*ROME, "--no-alone", "--no-locality-check", steps=1).err


def test_verdict_is_printed_and_decides_the_exit_code(edit: Run, place: Path) -> None:
    result = edit(*ROME, "--require-success", steps=1)
    assert result.code == 1
    line = "0 of 2 edits succeeded; 2 failed: lebron ('LeBron James plays for': target 'Los Angeles Lakers', generated"
    assert line in result.out
    assert line.split(":")[0] in (place / "out" / "report.md").read_text()
    assert edit(*ROME, steps=1).code == 0, "the files are there: only the exit code differs"


def test_keep_going_lists_skipped_rows(edit: Run, place: Path) -> None:
    (place / "edits.jsonl").write_bytes(rows(GOOD, {**GOOD, "target_new": ""}))
    result = edit(*ROME, "--keep-going")
    assert result.code == 0
    assert result.err.splitlines()[-1].startswith("skipped: edits.jsonl, line 2, field target_new: is empty")


@pytest.mark.slow
def test_unclear_names_are_listed_with_the_command_that_links_them(edit: Run, place: Path) -> None:
    """With the command that settles them, whose output is edited then."""
    with (place / "graph.tsv").open("a") as graph:
        graph.write("Q7\tlabel\tRome\nQ7\tP17\tQ8\nQ8\tlabel\tUnited States\n")
    lost = {**GOOD, "subject": "Bob", "target_new": "Atlantis"}
    (place / "edits.jsonl").write_bytes(rows(GOOD, {**GOOD, "subject": "Ann"}, lost))
    result = edit(*GLAME, "--require-graph")
    assert result.code == 2 and not (place / "out").exists()
    assert result.err.count("'Rome' names 2 entities") == 2
    assert "No entity is labelled 'Atlantis'" in result.err
    command = "wikidata-cache link edits.jsonl --graph graph.tsv --out edits-linked.jsonl"
    assert result.err.splitlines()[-1].strip() == command
    both = (place / "edits.jsonl").read_bytes()
    (place / "edits.jsonl").write_bytes(rows(GOOD))
    assert edit(*GLAME, "--require-graph").err.splitlines()[-1].strip() == command
    (place / "edits.jsonl").write_bytes(both)
    linked = CliRunner().invoke(wikidata_cli, command.split()[1:])
    assert linked.exit_code == 3, linked.output
    settled = map(json.loads, (place / "edits-linked.jsonl").read_text().splitlines())
    chosen = [row | {"target_new_id": "Q4"} for row in settled if row["target_new"] == "Rome"]
    assert all(row["candidates"] for row in chosen)
    (place / "edits.jsonl").write_bytes(rows(*chosen))
    assert edit(*GLAME, steps=1).code == 0


def _failing_at(name: str, error: BaseException) -> Callable[..., Patch]:
    """`make`, but that it raises ``error`` for one edit."""
    original = RankOneMethod.make

    def make(self: RankOneMethod, edits: Sequence[Edit], *, before: Patch) -> Patch:
        if edits[0].id == name:
            raise error
        return original(self, edits, before=before)

    return make


def test_log_is_closed_after_a_failed_run(edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Path] = []
    monkeypatch.setattr(LossFile, "close", lambda file: closed.append(file.path))
    monkeypatch.setattr(RankOneMethod, "make", _failing_at("lebron", PatchError("no")))
    assert edit(*ROME, "--log", "file:a.jsonl", "--log", "file:b.jsonl").code == 2
    assert closed == [Path("b.jsonl"), Path("a.jsonl")]
    closed.clear()
    assert edit(*ROME, "--log", "file:a.jsonl", "--log", "flie:b.jsonl").code == 2
    assert closed == [Path("a.jsonl")]


def test_log_that_cannot_be_written_is_refused_before_the_work(edit: Run, place: Path) -> None:
    refused(edit, *ROME, "--log", "file:none/a.jsonl", message="can't write none/a.jsonl", out=place / "out")


@pytest.mark.slow
def test_many_edits_need_yes_or_an_answer(edit: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is that of `kg-edit plan`, and nothing is loaded or written before the answer."""
    two = rows(*({**GOOD, "target_new": f"Rome{number}", "subject": f"France{number}"} for number in range(2)))
    (place / "edits.jsonl").write_bytes(two)
    monkeypatch.setattr("kg_edit.cli.edit.MANY", 1)
    message = "2 edits by rome take 0.5 GB of main memory at the peak (see kg-edit plan); add --yes to start them"
    refused(edit, *ROME, message=message, out=place / "out")
    with monkeypatch.context() as service:
        service.setattr("sys.stdin", None)
        refused(edit, *ROME, message=message, out=place / "out")
    for stream in ("stdin", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    for answer, code in ((False, 1), (True, 0)):
        monkeypatch.setattr("typer.confirm", lambda *_, answer=answer, **__: answer)
        result = edit(*ROME, "--device", "cpu")
        assert result.code == code, result.err
        assert "The time that is left is shown after the first edits" in result.err
        assert (place / "out").exists() == (code == 0)
    assert "take" not in edit(*ROME, "--yes").err
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    monkeypatch.setattr(find_method("rome"), "joint", True)
    joint = edit(*ROME, "--device", "cpu").err
    assert "They are saved when all are made" in joint and "time that is left" not in joint, "both are made at once"


@pytest.mark.slow
def test_patches_that_contradict_each_other_are_named(edit: Run, kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    for out, target in (("one", "Rome"), ("two", "Oslo")):
        (place / "edits.jsonl").write_bytes(rows({**GOOD, "target_new": target}))
        assert edit(*ROME, "--out", out, "--force").code == 0
    both = generate(kg_edit, tiny_folder, "--patch", "one", "--patch", "two")
    assert "contradiction: row-1 of one and row-1 of two edit one fact to 'Rome' and to 'Oslo'" in both.err
    assert "contradiction" not in generate(kg_edit, tiny_folder, "--patch", "one").err
