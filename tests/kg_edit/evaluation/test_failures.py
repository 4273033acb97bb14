"""What may go wrong in a run: a specific error, or a recorded failure of that record; nothing is lost."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.errors import OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.plots import draw_curve
from kg_edit.evaluation.quick_tasks import QuickTasks
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.settings import DataSource, commit, tokenizer_digest
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import append_lines
from kg_edit.storage.locks import folder_lock
from tests.kg_edit.evaluation.conftest import Nudge
from tests.kg_edit.evaluation.test_quick_tasks import ROWS, folder
from tests.kg_edit.evaluation.test_run import lines
from tests.kg_edit.tiny import tiny


def test_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "records.jsonl"
    append_lines(file, ["first"])
    full_write = io.FileIO.write

    class Filling(io.FileIO):
        def write(self, data: Any, /) -> int:
            if len(data) < 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            return full_write(self, bytes(data)[:-4])

    monkeypatch.setattr(Path, "open", lambda self, *_, **__: Filling(self, "a"))
    with pytest.raises(
        OutputError, match="No space left on device; free disk space, and start again: the lines so far are kept"
    ):
        append_lines(file, ["second", "third"])
    monkeypatch.undo()
    assert file.read_text() == "first\n"
    append_lines(file, ["second"])
    assert file.read_text() == "first\nsecond\n"


@pytest.mark.slow
def test_hard_records_fail_alone(edits: tuple[Edit, ...], tmp_path: Path) -> None:
    """No token for the target, a target merged with the prompt, a subject of no token; the others are edited."""
    model = tiny("llama")
    chosen = find_method("rome")
    settings = {
        "covariance": {"corpus": "self", "tokens": 500},
        "context_lengths": [[5, 2]],
        "steps": 2,
        "further_steps": 0,
    }
    method = chosen(model, chosen.config_class.preset("default", settings))
    merged = edits[1].model_copy(update={"prompt": "{} plays for the \n", "paraphrases": ()})
    absent = edits[2].model_copy(update={"prompt": "He plays for the"})
    summary = evaluate(method, model, [edits[0], merged, absent, edits[3]], out=tmp_path)
    errors = {record["id"]: record["error"] for record in lines(tmp_path)}
    assert summary.n == 4
    assert summary.provenance["failed"] == sum(error is not None for error in errors.values()) >= 1
    assert (errors["case-0"], errors["case-3"]) == (None, None)
    assert errors["case-2"].startswith("PromptError: the prompt 'He plays for the' has no {}")


@pytest.mark.slow
def test_scoring_that_runs_out_of_memory_is_halved_then_recorded(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kg_edit.evaluation.scorer import score_cases

    sizes: list[int] = []

    def crowded(model: LanguageModel, cases: Sequence[Any], **how: Any) -> Any:
        sizes.append(len(cases))
        if len(cases) > 1 or any(case.edit.id == "case-1" for case in cases):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")
        return score_cases(model, cases, **how)

    monkeypatch.setattr("kg_edit.evaluation.scorer.score_cases", crowded)
    summary = evaluate(method, model, edits[:2], out=tmp_path, config=EvalConfig(ceilings=True))
    assert sizes[:2] == [6, 3] and 1 in sizes  # all that both records ask, then halves
    assert (summary.n, summary.provenance["failed"]) == (2, 1)
    good, failed = lines(tmp_path)
    assert set(good["sections"]) == {"base", "edited", "fact_in_prompt", "fact_and_relation_in_prompt"}
    assert failed["error"].startswith("ModelError: out of memory even for a batch of one: CUDA out of memory. Tried")


@pytest.mark.slow
def test_point_that_runs_out_of_memory_is_recorded(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the tasks, which the edited model answers."""
    answered, calls = QuickTasks.scores, list[str]()

    def crowded(tasks: QuickTasks, model: LanguageModel) -> Any:
        calls.append("edited" if calls else "unedited")
        if calls[-1] == "edited":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answered(tasks, model)

    monkeypatch.setattr(QuickTasks, "scores", crowded)
    quick = QuickTasks.open(folder(tmp_path / "sets", sst2=ROWS["sst2"]))
    config = EvalConfig(schedule="sequential:2", quick=quick)
    summary = evaluate(method, model, edits[:2], out=tmp_path / "out", config=config)
    assert summary.provenance["failed"] == 0
    points = (tmp_path / "out" / "general.jsonl").read_text().splitlines()
    unedited, *edited = map(json.loads, points)
    assert "error" not in unedited and unedited["scores"] and edited
    assert all(point["error"].startswith("ModelError: out of memory") and not point["scores"] for point in edited)


def test_provenance_has_data_versions_and_commit(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    file = tmp_path / "records.json"
    file.write_text("[]")
    source = DataSource.of("counterfact", file)
    provenance = evaluate(method, model, edits[:1], out=tmp_path / "out", data=source).provenance
    sha256 = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert provenance["data"] == {"dataset": "counterfact", "sha256": sha256, "skipped": []}
    assert provenance["data_file"] == "records.json"
    assert provenance["tokenizer_sha256"] == tokenizer_digest(model)
    assert provenance["device"] == "cpu"
    assert {"python", "torch", "transformers", "commit", "model_revision", "covariance"} <= set(provenance)
    assert "other_environments" not in provenance
    moved = file.rename(tmp_path / "moved.json")
    again = evaluate(method, model, edits[:1], out=tmp_path / "out", data=DataSource.of("counterfact", moved))
    assert again.provenance == provenance  # a file is identified by its content


@pytest.mark.slow
def test_covariance_is_in_the_provenance(edits: tuple[Edit, ...], tmp_path: Path) -> None:
    model, chosen = tiny("llama"), find_method("rome")
    settings = {
        "covariance": {"corpus": "self", "tokens": 500},
        "context_lengths": [[5, 2]],
        "steps": 1,
        "further_steps": 0,
    }
    method = chosen(model, chosen.config_class.preset("default", settings))
    summary = evaluate(method, model, edits[:1], out=tmp_path)
    assert summary.provenance["covariance"]["id"] == method.covariance.id


def test_tokenizer_is_identified_by_its_content() -> None:
    model = tiny("llama")
    before = tokenizer_digest(model)
    model.tokenizer(["a", "b c d"], max_length=2, truncation=True)
    assert tokenizer_digest(model) == before == tokenizer_digest(tiny("gpt2"))
    assert tokenizer_digest(tiny("llama", bos=True)) != before


def test_commit_is_that_of_the_checkout_that_tracks_the_code(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    assert commit(tmp_path) is None
    import kg_edit

    revision = commit(Path(kg_edit.__file__).parent)
    assert revision is None or len(revision.removesuffix("-dirty")) == 40


@pytest.mark.slow
def test_curve_with_broken_models_is_drawn(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    from tests.kg_edit.evaluation.test_sequences import TEXT, Overwhelming

    out = tmp_path / "out"
    summary = evaluate(
        Overwhelming(model), model, edits[:3], out=out, config=EvalConfig(schedule="sequential:3", general=TEXT)
    )
    drawn = (out / "curve.svg").read_text()
    assert "some records could not be scored" in drawn
    assert "general.perplexity (dotted: none)" in drawn
    assert draw_curve(summary, tmp_path / "curve.png").stat().st_size > 1000
    assert (out / "curve.svg").read_bytes() == draw_curve(summary, tmp_path / "again.svg").read_bytes()
    points = [json.loads(line) for line in (out / "general.jsonl").read_text().splitlines()]
    assert [bool(point.get("error")) for point in points] == [False, False, True, True]


def test_two_processes_do_not_work_on_one_folder(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    evaluate(method, model, edits[:1], out=tmp_path)
    with folder_lock(tmp_path), pytest.raises(OutputError, match="another process works on"):
        evaluate(method, model, edits[:1], out=tmp_path)
    evaluate(method, model, edits[:1], out=tmp_path)
    (tmp_path / "records.jsonl").unlink()
    (tmp_path / "summary.json").unlink()
    first = (tmp_path / "run.json").read_bytes()  # of a process without a result yet; the other one leaves it so
    with folder_lock(tmp_path), pytest.raises(OutputError, match="another process works on"):
        evaluate(method, model, edits[:2], out=tmp_path)
    assert (tmp_path / "run.json").read_bytes() == first
