"""The edit run as a library call: what it writes, when, and what it keeps."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import networkx as nx
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from kg_edit.callbacks import read_losses
from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit, find_opposed, refuse_clash
from kg_edit.edits.files import read_edits
from kg_edit.errors import CovarianceError, EditError, KgEditError, OutputError, PatchError
from kg_edit.methods.glame.method import Glame
from kg_edit.methods.registry import find_method
from kg_edit.methods.rome.method import RankOneMethod, Rome, RomeConfig
from kg_edit.models.language_model import weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports import edit_run
from kg_edit.reports.advice import JudgedRun
from kg_edit.reports.edit_run import PARTIAL, run_edits
from kg_edit.reports.finished_run import LOCALITY, LOSSES, PAGE, REPORT, EditRun
from kg_edit.reports.rows import RECORDS, ReportRow
from kg_edit.reports.verdict import VERDICT, Verdict
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_folder import PATCH
from tests.everyday import keep_first
from tests.kg_edit.methods.test_methods import EDIT, SECOND, method
from tests.kg_edit.tiny import tiny
from wikidata_cache.errors import OfflineError

EDITS = (EDIT, SECOND)


def run(out: Path, *, name: str = "rome", locality_check: bool = False, **settings: object) -> tuple[ReportRow, ...]:
    model = tiny("llama")
    return run_edits(
        method(name, model, **settings), model, EDITS, out, locality_check=locality_check, progress=False
    ).rows


@pytest.mark.slow
def test_files_have_what_is_returned(tmp_path: Path) -> None:
    rows = run(tmp_path)
    lines = (tmp_path / RECORDS).read_text().splitlines()
    assert tuple(ReportRow.model_validate_json(line) for line in lines) == rows
    assert "# 2 edits of tiny-llama by rome" in (tmp_path / REPORT).read_text()
    assert [edit["edit"]["id"] for edit in Patch.load(tmp_path / PATCH).provenance["edits"]] == ["1", "2"]
    settings = json.loads((tmp_path / "run.json").read_text())
    assert (settings["job"], settings["method"], settings["preset"], settings["edits"]) == (
        "edit",
        "rome",
        "default",
        2,
    )
    assert not (tmp_path / PARTIAL).exists()


def test_report_file_has_the_counts_of_the_page(tmp_path: Path) -> None:
    asked = {"question": "Which sport does LeBron James play?", "answer": "basketball"}
    fields = {"paraphrases": ["{}'s team is the"], "neighborhood": ["Michael Jordan plays for"], "portability": [asked]}
    edit = Edit.model_validate(EDIT.model_dump() | {"target_true": "Chicago Bulls"} | fields)
    model = tiny("llama")
    run_edits(method("rome", model), model, [edit, SECOND], tmp_path, progress=False)
    report = json.loads((tmp_path / VERDICT).read_text())
    tiles = re.findall(r"<li><b>([^<]+)</b><span>([^<]+)</span>", (tmp_path / PAGE).read_text())
    words = {"portability": "right"}  # the questions have no other object to compare with
    counts = {f"{name}: {words.get(name, 'right object likelier')}": count for name, count in report["counts"].items()}
    other = counts.pop("unrelated prompts: right object likelier")
    shown = {name: f"{count['unedited']} → {count['edited']} of {count['prompts']}" for name, count in counts.items()}
    assert {name: text for text, name in tiles} == {
        **shown,
        "other prompts unchanged": f"{other['edited']} of {other['prompts']}",
    }
    assert set(report["edits"][0]["counts"]) == {"paraphrases", "portability", "locality"}


@pytest.mark.slow
def test_other_edits_are_named(tmp_path: Path) -> None:
    model = tiny("llama")
    run(tmp_path)
    for other, words in (
        (
            [EDIT, SECOND.model_copy(update={"target_new": "Oslo"})],
            r"the first that differs is '2' \(target_new: .*now\)",
        ),
        ([EDIT], "2 in the folder, 1 now"),
        ([SECOND, EDIT], "number 1 is '1' in the folder, '2' now"),
    ):
        with pytest.raises(OutputError, match=rf"another run \(edits: {words}\); give another --out"):
            run_edits(method("rome", model), model, other, tmp_path, progress=False)


@pytest.mark.slow
def test_loss_of_every_step_is_saved_and_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged file of losses takes the curves, and ends no run."""
    rows = run(tmp_path)
    curves, page = read_losses(tmp_path / LOSSES), (tmp_path / PAGE).read_text()
    for record in Patch.load(tmp_path / PATCH).edits:
        curve = curves[record["edit"]["id"]]
        assert [step.step for step in curve] == list(range(record["steps"]))
        ends = [(step.loss, step.nll) for step in (curve[0], curve[-1])]
        assert ends == [(record[f"loss_{end}"], record[f"nll_{end}"]) for end in ("before", "after")]
    assert page.count('class="chart"') == page.count('class="spark"') == 2
    (tmp_path / LOSSES).write_text("{}\n")
    (tmp_path / REPORT).unlink()
    assert run(tmp_path) == rows
    assert "no loss curves" in caplog.text
    assert "the steps in between were not saved" in (tmp_path / PAGE).read_text()


@pytest.mark.parametrize(
    "between", keep_first(["callbacks.LossLines.append_to", "patches.weight_patch.WeightPatch.save"])
)
@pytest.mark.slow
def test_killed_run_loses_no_curve(between: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the files of an edit, and within a line of the losses."""
    run(tmp_path / "whole")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"kg_edit.{between}", killed)
        run(tmp_path / "killed")
    with (tmp_path / "killed" / LOSSES).open("a") as file:
        file.write('{"edit": "1", "st')
    run(tmp_path / "killed")
    assert read_losses(tmp_path / "killed" / LOSSES) == read_losses(tmp_path / "whole" / LOSSES)


def test_report_without_its_graph_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch is made; the page tells why there is no picture."""
    glame = method("glame", tiny("llama"))
    assert isinstance(edit_run._read_subgraph(glame, EDIT), nx.MultiDiGraph)

    def gone(*_: object) -> None:
        raise OfflineError("no network")

    monkeypatch.setattr(Glame, "subgraph", gone)
    assert edit_run._read_subgraph(glame, EDIT) == "The graph could not be read again: no network"


def test_finished_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(tmp_path)
    for name in ("before_and_after", "compare_prompts", "claim"):
        monkeypatch.setattr(edit_run, name, lambda *_, **__: None)
        monkeypatch.setattr(RankOneMethod, {"claim": "prepare"}.get(name, "make"), None)
    assert run(tmp_path) == rows


@pytest.mark.slow
def test_patch_of_other_code_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is continued, and one that is only shown again."""
    run(tmp_path)
    run(tmp_path)
    assert "other code" not in caplog.text
    monkeypatch.setattr(edit_run, "code_sha256", lambda: "another")
    for name in (PATCH, PARTIAL):
        caplog.clear()
        (tmp_path / PATCH).rename(tmp_path / name)
        run(tmp_path)
        assert f"{name} was made with other code of kg-edit" in caplog.text


@pytest.mark.parametrize("cut", keep_first(["{", "", '{"edit": "1"}\n']))
@pytest.mark.slow
def test_missing_or_damaged_report_is_recomputed(cut: str, tmp_path: Path) -> None:
    rows = run(tmp_path, locality_check=True)
    files = {name: (tmp_path / name).read_bytes() for name in (RECORDS, LOCALITY, REPORT, PAGE)}
    (tmp_path / RECORDS).write_text(cut)
    (tmp_path / REPORT).unlink()
    assert run(tmp_path, locality_check=True) == rows
    assert {name: (tmp_path / name).read_bytes() for name in files} == files


def test_nothing_is_written_before_the_method_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: RankOneMethod) -> None:
        raise CovarianceError("the corpus is too short")

    monkeypatch.setattr(RankOneMethod, "prepare", fail)
    with pytest.raises(CovarianceError):
        run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_contradiction_in_a_batch_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C of a large model takes minutes. In chat form the same prompt may have another target."""
    model, other = tiny("llama"), EDIT.model_copy(update={"id": "other", "target_new": "Paris"})
    memit = find_method("memit").on(model)

    def measures() -> None:
        raise CovarianceError("this is measured")

    monkeypatch.setattr(memit, "prepare", measures)
    for make in (lambda edits: run_edits(memit, model, edits, tmp_path / "run", progress=False), memit.edit):
        with pytest.raises(EditError, match=r"one batch can't make both .*\(edit '1'\).*\(edit 'other'\)"):
            make([EDIT, other])
        with pytest.raises(CovarianceError, match="this is measured"):
            make([EDIT, other.model_copy(update={"prompt": "{} works for"})])
    refuse_clash([EDIT, other.with_form(chat=True)])
    assert not (tmp_path / "run").exists()


def test_change_that_is_not_finite_names_its_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PatchError("the change is not finite")

    monkeypatch.setattr(WeightPatch, "check_finite", refuse)
    with pytest.raises(PatchError) as caught:
        run(tmp_path)
    assert caught.value.__notes__ == ["in the edit '1': 'LeBron James plays for' -> 'Los Angeles Lakers'"]


def test_full_disk_leaves_the_partial_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def full(*arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) >= 2:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save_file(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        run(tmp_path)
    assert "the edits made before this error are saved" in caught.value.__notes__[-1]
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "run.json", LOSSES, PARTIAL}
    assert len(Patch.load(tmp_path / PARTIAL).provenance["edits"]) == 1


@pytest.mark.slow
def test_long_saves_are_rare_and_ctrl_c_loses_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [EDIT.model_copy(update={"id": str(number), "subject": f"Player {number}"}) for number in range(4)]
    saved, write, model = list[int](), WeightPatch.save, tiny("llama")

    def slow(patch: WeightPatch, path: Path) -> Path:
        saved.append(len(patch.edits))
        time.sleep(0.2)
        return write(patch, path)

    def stop_at_last(patch: WeightPatch) -> None:
        if patch.edits[0]["edit"]["id"] == edits[-1].id:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(WeightPatch, "save", slow)
        patched.setattr(WeightPatch, "check_finite", stop_at_last)
        run_edits(method("rome", model), model, edits, tmp_path, progress=False)
    assert saved == [1, 3], "after the first edit, and at the end; in between a save would have been over 5 %"
    assert len(Patch.load(tmp_path / PARTIAL).edits) == 3
    assert len(run_edits(method("rome", model), model, edits, tmp_path, progress=False).rows) == 4


def test_folder_of_another_process_is_refused(tmp_path: Path) -> None:
    """Also with other settings, which must not take the place of those of the run that is at work."""
    (tmp_path / "run.json").write_text("the other's")
    for settings in ({}, {"steps": 2}):
        with folder_lock(tmp_path), pytest.raises(OutputError, match=r"another process works on .*; wait for it"):
            run(tmp_path, **settings)
    assert (tmp_path / "run.json").read_text() == "the other's"
    assert run(tmp_path) == run(tmp_path)


@pytest.mark.slow
def test_folder_is_locked_until_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused_here(*_: object) -> str:
        with pytest.raises(OutputError, match="another process works on"), folder_lock(tmp_path / "new"):
            pass
        return "the report"

    monkeypatch.setattr(edit_run, "markdown", refused_here)
    run(tmp_path / "new")
    assert (tmp_path / "new" / REPORT).read_text() == "the report"


@pytest.mark.slow
def test_damaged_partial_patch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    (tmp_path / PATCH).rename(tmp_path / PARTIAL)
    (tmp_path / PARTIAL).write_bytes(b"half")
    with pytest.raises(KgEditError, match=r"can't read the patch .*partial"):
        run(tmp_path)


@pytest.mark.slow
def test_resumed_run_samples_contexts_from_the_unedited_model() -> None:
    """Contexts sampled with the first half's patch applied would be other contexts, and another patch."""

    def fresh() -> Rome:
        model = tiny("llama")
        size = weight_matrix(model.down_projection(1)).shape[1]
        unit = Covariance(moment=torch.eye(size), tokens=0, ridge=0.0, id="unit")
        config = RomeConfig(layer=1, steps=2, learning_rate=5.0, context_lengths=((8, 3),))
        return Rome(model, config, covariance=unit)

    whole = fresh().edit(EDITS)
    halves = fresh().edit(EDITS[1:], start=fresh().edit(EDITS[:1]))
    assert halves.provenance == whole.provenance
    (name, pair), *_ = whole.factors.items()
    assert torch.equal(halves.factors[name].left, pair.left)


@pytest.mark.slow
def test_subgraph_is_drawn(tmp_path: Path) -> None:
    """Also of a user's own graph, whose nodes say nothing of their distance."""
    model, strange = tiny("llama"), EDIT.model_copy(update={"id": "a/b: " + 300 * "ü"})
    run = run_edits(method("glame", model), model, [strange], tmp_path)
    (picture,) = (name for name in run.files if name.endswith(".svg"))
    assert picture.startswith("subgraph-a-b--") and len(picture.encode()) < 200
    (tmp_path / REPORT).unlink()
    (tmp_path / picture).unlink()
    (tmp_path / picture).mkdir()
    with pytest.raises(OutputError, match="the patch is complete"):
        run_edits(method("glame", model), model, [strange], tmp_path)


@pytest.mark.slow
def test_failed_edits_are_made_alone_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two edits of a subject spoils the other one, which succeeds alone."""
    plays = {"subject": "LeBron James", "prompt": "{} plays for", "target_new": "Rome"}
    other = plays | {"prompt": "{} was born in", "target_new": "Italy"}
    third = {"subject": "France", "prompt": "In {}, the capital is", "target_new": "Rome"}
    edits = [Edit(id=str(number), **fields) for number, fields in enumerate((plays, other, third, third), 1)]
    model = tiny("llama")

    def make(**options: bool) -> EditRun:
        method = find_method("ft-m").on(model, settings={"steps": 60, "learning_rate": 2e-2})
        return run_edits(method, model, edits, tmp_path / "out", force=True, progress=False, **options)

    with monkeypatch.context() as patch:
        patch.setattr("kg_edit.reports.edit_run.most_seconds", lambda _: -1.0)
        first = make()
    assert [result.alone for result in first.verdict.failed] == [None]
    assert "--alone" in caplog.text
    second = make()
    (spoiled,) = second.verdict.spoiled
    assert second.rows == first.rows
    assert second.verdict.repeats == (("4", "3"),)
    same, page, apart, refused, repeated = second.verdict.advice
    assert same.startswith(f"{spoiled.edit}: fails only together") and "--method grace" in same
    assert "has the same subject" in same and "alphaedit" not in same
    assert apart.startswith(f"{spoiled.edit}: ") and "on top of all edits" in apart and ".md#" in page
    assert [edit.id for edit in read_edits(tmp_path / "out" / "failed.jsonl").edits] == [spoiled.edit]
    assert [edit.id for edit in read_edits(tmp_path / "out" / "edits.jsonl").edits] == ["1", "2", "3"]
    assert repeated == "4 repeats 3 exactly, and was made once"
    add, again, _ = second.verdict.commands
    assert refused.startswith("kg-edit patch add refuses this patch without --force: ")  # as `force` made it here
    assert add == f"kg-edit patch add {tmp_path / 'out-ledger'}/ {tmp_path / 'out'} --force"
    assert again.startswith(
        f"kg-edit patch edit {tmp_path / 'out-ledger'}/ {tmp_path / 'out' / 'failed.jsonl'} --method grace --model"
    )
    for name in (REPORT, PAGE):
        assert f"\n{again}\n" in (tmp_path / "out" / name).read_text()
    beside = Verdict.beside(tmp_path / "out" / PATCH)
    assert beside and [result.edit for result in beside.failed] == [result.edit for result in second.verdict.failed]
    assert (beside.advice, beside.commands) == (second.verdict.advice, second.verdict.commands)
    assert Verdict.beside(tmp_path / PATCH) is None
    stored = json.loads((tmp_path / "out" / VERDICT).read_text())
    assert {result["edit"] for result in stored["edits"] if result["alone"]} == {spoiled.edit}
    for name in (REPORT, PAGE):
        assert "fails only together" in (tmp_path / "out" / name).read_text()
    monkeypatch.setattr("kg_edit.reports.retry.read", None)
    assert make() == second == make(alone=False), "what was tried is not tried again"


def test_sequence_of_several_edits_says_so_before_it_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = [EDIT.model_copy(update={"id": str(number), "prompt": f"{number}: {{}} plays for"}) for number in range(4)]

    def fail(*_: object) -> None:
        raise CovarianceError("stop here")

    for name, in_sequence in (("rome", True), ("memit", False)):
        caplog.clear()
        method = find_method(name).on(tiny("llama"))
        monkeypatch.setattr(method, "prepare", fail)
        with pytest.raises(CovarianceError):
            run_edits(method, method.model, edits, tmp_path, progress=False)
        assert any("rome makes the 4 edits in sequence" in line for line in caplog.messages) == in_sequence


def test_contradiction_in_python_is_in_the_verdict() -> None:
    other = EDIT.model_copy(update={"id": "x", "target_new": "Rome"})
    assert find_opposed([EDIT, SECOND, other, EDIT]) == (("x", EDIT.id),)
    assert find_opposed([EDIT, other.with_form(chat=True)]) == (), "one form does not reach the other"
    (line,) = Verdict.of([], run=JudgedRun(opposes=(("x", "1"),))).advice
    assert line == "x contradicts 1: one fact, two targets; keep one of them"
