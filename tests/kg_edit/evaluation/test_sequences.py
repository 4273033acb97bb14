"""Batches and sequences: what is edited on what, what is scored when, and from where a killed one resumes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit, LocalityPrompt
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import GraphError, OutputError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.scorer import score_cases
from kg_edit.evaluation.summary import Summary
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.questions import collect_answers, draw_choices
from tests.everyday import keep_first
from tests.kg_edit.evaluation.conftest import Nudge, NudgeConfig
from tests.kg_edit.evaluation.test_run import lines, phases

Nll = Mapping[str, Mapping[str, float]]
TEXT = "The quick brown fox jumps over the lazy dog. Where does the river Thames flow? " * 3


@dataclass
class Depends(Nudge):
    """A change that depends on the weights it finds: made on another model, it is another one."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        patch = super().edit(edits, before=before)
        ((name, pair),) = patch.factors.items()
        with before.applied(self.model) if before else nullcontext():
            right = weight_matrix(self.model.down_projection(1)).detach().sum(0)[:, None] / 9
        return WeightPatch(factors={name: Factors(left=pair.left, right=right)})


def sequence_patch(method: Nudge, model: LanguageModel, batches: Sequence[Sequence[Edit]]) -> Patch:
    """Each batch edited on the model with the earlier ones in it, written out."""
    patch: Patch = WeightPatch(factors={})
    for batch in batches:
        patch = patch + method.edit(batch, before=patch)
    return patch


def assert_near(actual: Nll, expected: Nll) -> None:
    """Rows that are scored together round otherwise than alone."""
    assert actual.keys() == expected.keys()
    for prompt, candidates in expected.items():
        assert actual[prompt] == pytest.approx(candidates, abs=1e-5)


@pytest.mark.parametrize(
    ("schedule", "cuts"),
    keep_first(
        [
            ("batch:4", [[range(0, 4)], [range(4, 8)], [range(8, 10)]]),
            ("sequential:5", [[range(i, i + 1) for i in range(5)], [range(i, i + 1) for i in range(5, 10)]]),
            (
                "batch:2,sequential:5",
                [[range(0, 2), range(2, 4), range(4, 5)], [range(5, 7), range(7, 9), range(9, 10)]],
            ),
        ],
        keep=1,
        unpack=True,
    ),
)
@pytest.mark.slow
def test_edited_scores_are_those_of_the_model_with_all_of_the_sequence(
    schedule: str, cuts: list[list[range]], model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    edits = edits[:10]
    original = weight_matrix(model.down_projection(1)).detach().clone()
    evaluate(Depends(model), model, edits, out=tmp_path, config=EvalConfig(schedule=schedule))
    assert torch.equal(weight_matrix(model.down_projection(1)), original)
    sections = {record["id"]: record["sections"]["edited"] for record in lines(tmp_path)}
    pool = collect_answers(edits)
    for sequence in cuts:
        batches = [[edits[index] for index in batch] for batch in sequence]
        with sequence_patch(Depends(model), model, batches).applied(model):
            for edit in (edit for batch in batches for edit in batch):
                (section,) = score_cases(model, [Case.of(record_of(edit), choices=draw_choices(edit, pool, seed=0))])
                assert sections[edit.id]["scores"] == pytest.approx(section.scores, abs=1e-5)
                assert_near(sections[edit.id]["nll"], section.nll)


@pytest.mark.slow
def test_sequence_is_scored_after_each_at_points_and_after_all(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    summary = evaluate(
        Depends(model),
        model,
        edits[:5],
        out=tmp_path,
        config=EvalConfig(schedule="sequential:4", evaluate_every=2, general=TEXT),
    )
    counts = Counter((line["id"], line["phase"]) for line in phases(tmp_path))
    assert max(counts.values()) == 1
    scored = [(name, phase) for name, phase in counts if phase not in ("base", "edit")]
    assert scored == [
        *[("case-0", "after:1"), ("case-0", "after:2"), ("case-1", "after:2"), ("case-2", "after:3")],
        *[(f"case-{number}", "edited") for number in range(5)],
    ]
    points = [json.loads(line) for line in (tmp_path / "general.jsonl").read_text().splitlines()]
    assert [(point["sequence"], point["edits"]) for point in points] == [(0, 0), (0, 2), (0, 4), (1, 0), (1, 1)]
    assert points[0]["scores"] == points[3]["scores"] != points[1]["scores"]
    curve = summary.curve or ()
    assert [(point.edits, point.n) for point in curve] == [(0, 5), (1, 1), (2, 2), (4, 4)]
    assert curve[0].general == points[0]["scores"]
    assert summary == Summary.load(tmp_path / "summary.json")
    phase_of = {f"case-{n}": f"after:{n + 1}" for n in range(3)} | {"case-3": "edited", "case-4": "edited"}
    just = [record["sections"][phase_of[record["id"]]]["scores"]["portability.nll"] for record in lines(tmp_path)]
    assert (summary.just_edited or {})["portability.nll"].mean == pytest.approx(sum(just) / 5)
    assert summary.just_edited != summary.edited
    assert "<svg" in (tmp_path / "curve.svg").read_text()


@pytest.mark.slow
def test_sample_edits_all_records_and_scores_few(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    config = EvalConfig(schedule="batch:2,sequential:8", evaluate_every=4, sample=2)
    run = partial(evaluate, Depends(model), model, edits[:8], config=config)
    summary = run(out=tmp_path / "whole")
    entries = [(line["id"], line["phase"]) for line in phases(tmp_path / "whole")]
    assert [name for name, phase in entries if phase == "edit"] == [f"case-{number}" for number in range(8)]
    assert [name for name, phase in entries if phase == "base"] == ["case-0", "case-2", "case-4"]
    scored = [(name, phase) for name, phase in entries if phase not in ("base", "edit")]
    assert scored == [("case-0", "after:4"), ("case-2", "after:4"), ("case-0", "edited"), ("case-4", "edited")]
    assert summary.just_edited is None
    assert [(point.edits, point.n) for point in summary.curve or ()] == [(0, 3), (4, 2), (8, 2)]
    assert summary.provenance["counts"]["edited"]["efficacy.prob"] == 2

    cut = tmp_path / "cut"  # killed after the second step: the last lines are missing
    shutil.copytree(tmp_path / "whole", cut)
    (cut / "summary.json").unlink()
    lines_before = (cut / "records.jsonl").read_bytes().splitlines(keepends=True)[:8]
    (cut / "records.jsonl").write_bytes(b"".join(lines_before))
    again = run(out=cut)
    assert (again.edited, again.curve) == (summary.edited, summary.curve)


def test_batch_has_no_curve(method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    summary = evaluate(method, model, edits[:3], out=tmp_path, config=EvalConfig(schedule="batch:3"))
    assert (summary.just_edited, summary.curve) == (None, None)
    assert method.calls == ["case-0 case-1 case-2"]


def test_general_ability_under_single_is_the_mean_over_edited_models(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    summary = evaluate(method, model, edits[:2], out=tmp_path, config=EvalConfig(general=TEXT))
    before, after = summary.curve or ()
    assert (before.edits, after.edits, after.n) == (0, 1, 2)
    assert before.general != after.general
    assert not (tmp_path / "curve.svg").exists()


@pytest.mark.slow
def test_failed_edit_of_a_sequence_is_scored_on_the_model_without_it(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    method = Depends(model, NudgeConfig(failing=("case-0", "case-2")))
    summary = evaluate(method, model, edits[:3], out=tmp_path, config=EvalConfig(schedule="sequential:3"))
    assert summary.provenance["failed"] == 2
    first, second, third = lines(tmp_path)
    assert (first["error"], second["error"]) == ("GraphError: nothing is known about Player 0", None)
    assert_near(first["sections"]["after:1"]["nll"], first["sections"]["base"]["nll"])  # nothing was in the model yet
    with Depends(model).edit(edits[1:2]).applied(model):
        cases = [Case(edit=edit, choices=draw_choices(edit, collect_answers(edits[:3]), seed=0)) for edit in edits[:3]]
        for record, case in zip((first, second, third), cases, strict=True):
            (section,) = score_cases(model, [case])
            assert_near(record["sections"]["edited"]["nll"], section.nll)


@pytest.mark.slow
def test_model_broken_by_its_edits_counts_as_0(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    """The second edit is finite, and the model with it is not."""
    method = Overwhelming(model)
    summary = evaluate(method, model, edits[:3], out=tmp_path, config=EvalConfig(schedule="sequential:3", general=TEXT))
    assert (summary.provenance["failed"], summary.provenance["broken"]) == (0, 3)
    assert {summary.edited[name].mean for name in ("efficacy.prob", "paraphrase.prob", "neighborhood.prob")} == {0}
    assert "portability.nll" not in summary.edited
    last = (summary.curve or ())[-1]
    assert (last.n, last.failed, last.general_failed) == (3, 3, 1)
    assert "not finite" in lines(tmp_path)[0]["error"]
    assert (summary.just_edited or {})["portability.nll"].mean is not None  # of the first, right after its edit


def test_single_edit_that_breaks_the_model_counts_as_0(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    bare = edits[1].model_copy(update={"portability": (), "paraphrases": (), "locality": (LocalityPrompt(prompt="A"),)})
    summary = evaluate(Overwhelming(model), model, [record_of(bare)], out=tmp_path)
    assert (summary.provenance["failed"], summary.provenance["broken"]) == (0, 1)
    assert summary.base["neighborhood.prob"].mean != 0 and summary.edited["neighborhood.prob"].mean == 0
    assert summary.edited["locality.same_text"].mean == 0
    assert not {"portability.greedy", "paraphrase.prob", "editing_score"} & summary.edited.keys(), "it has none"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "failing", "calls"),
    [
        ("single", ("case-0", "case-3"), ["case-0", "case-3"]),
        ("batch:2,sequential:6", ("case-3",), ["case-2 case-3", "case-4"]),  # the first step stays
        ("batch:5", ("case-0", "case-3"), ["case-0 case-1 case-2 case-3 case-4"]),
    ],
)
def test_failed_records_are_computed_again_on_request(
    schedule: str,
    failing: tuple[str, ...],
    calls: list[str],
    model: LanguageModel,
    edits: tuple[Edit, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A plug-in with a fault is repaired: the run is then the same as one that never failed, also after a kill."""
    text = None if schedule == "single" else TEXT
    config, retry = (EvalConfig(schedule=schedule, general=text, retry_failed=again) for again in (False, True))
    whole, out = tmp_path / "whole", tmp_path / "out"
    expected = evaluate(Depends(model), model, edits[:5], out=whole, config=config)
    faulty, repaired = Depends(model), Repaired(model, failing=failing)
    assert evaluate(repaired, model, edits[:5], out=out, config=config).provenance["failed"] == len(failing)
    assert not caplog.messages
    evaluate(faulty, model, edits[:5], out=out, config=config)
    assert faulty.calls == []  # a stored failure is not computed again, and the run says so
    (message,) = caplog.messages
    assert f"of {len(failing)} record" in message and "are from an earlier run; --retry-failed computes" in message

    caplog.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate(Killed(model), model, edits[:5], out=out, config=retry)
    kept = {(line["id"], line["phase"]) for line in phases(out)}
    assert kept >= {(edit.id, "base") for edit in edits[:5]}
    method = Depends(model)
    again = evaluate(method, model, edits[:5], out=out, config=config)
    assert (method.calls, caplog.messages.count(message)) == (calls, 0)
    assert max(Counter((line["id"], line["phase"]) for line in phases(out)).values()) == 1
    cost: dict[str, object] = {"seconds_per_edit": None, "peak_memory": None}
    assert again.model_copy(update=cost) == expected.model_copy(update=cost)
    files = ({file.name: file.read_bytes() for file in (folder / "patches").glob("*")} for folder in (whole, out))
    assert next(files) == next(files)


@dataclass
class Repaired(Depends):
    """Fails on some edits, which its settings do not say: a fault in its code."""

    failing: tuple[str, ...] = ()

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        if {edit.id for edit in edits} & set(self.failing):
            raise GraphError("a line with a fault")
        return super().edit(edits, before=before)


@dataclass
class Killed(Depends):
    """Is stopped at its first edit."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        raise KeyboardInterrupt


@pytest.mark.slow
def test_step_that_fails_only_now_leaves_no_earlier_patch(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    config = EvalConfig(schedule="sequential:3")
    evaluate(Repaired(model, failing=("case-0",)), model, edits[:3], out=tmp_path, config=config)
    retry = config.model_copy(update={"retry_failed": True})
    evaluate(Repaired(model, failing=("case-2",)), model, edits[:3], out=tmp_path, config=retry)
    assert {file.name for file in (tmp_path / "patches").iterdir()} == {
        "00000-00000.safetensors",
        "00000-00001.safetensors",
    }
    assert [record["error"] for record in lines(tmp_path)][:2] == [None, None]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("records.jsonl", '"id":"case-1"', '"id":"other"', "this run has no record 'other'; delete the line"),
        ("records.jsonl", '"phase":"edited"', '"phase":"after:x"', "line 3: not a valid record; delete the line"),
        ("general.jsonl", '"sequence":1', '"sequence":9', "line 3: this run has no sequence 9; delete the line"),
    ],
)
def test_line_that_is_not_of_the_run_is_named(
    file: str, old: str, new: str, message: str, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    config = EvalConfig(general=TEXT)
    evaluate(Depends(model), model, edits[:2], out=tmp_path, config=config)
    path = tmp_path / file
    path.write_text(path.read_text().replace(old, new))
    for retry in (False, True):
        again = config.model_copy(update={"retry_failed": retry})
        with pytest.raises(OutputError, match=message):
            evaluate(Depends(model), model, edits[:2], out=tmp_path, config=again)


def test_records_that_broke_the_model_are_scored_again(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    retry = EvalConfig(retry_failed=True)
    assert evaluate(Overwhelming(model), model, edits[:2], out=tmp_path).provenance["broken"] == 1
    slow = [{**line, "seconds": 1e6} if line["phase"] == "edit" else line for line in phases(tmp_path)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in slow))
    assert evaluate(Depends(model), model, edits[:2], out=tmp_path, config=retry).provenance["broken"] == 0
    seconds = {line["id"]: line["seconds"] for line in phases(tmp_path) if line["phase"] == "edit"}
    assert seconds["case-0"] == 1e6 > seconds["case-1"], "the record was edited again, and that is its cost"


@dataclass
class Overwhelming(Nudge):
    """The second of its changes is finite, but too large for the model's numbers."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        patch = super().edit(edits, before=before)
        if edits[0].id != "case-1":
            return patch
        ((name, pair),) = patch.factors.items()
        return WeightPatch(factors={name: Factors(left=pair.left * 1e30, right=pair.right * 1e8)})


@pytest.mark.slow
def test_sequence_resumes_from_its_patches(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    """Cut in every third line: what was made is not made again, and the rest comes out the same."""
    whole, config = tmp_path / "whole", EvalConfig(schedule="batch:2,sequential:4", general=TEXT)
    expected = evaluate(Depends(model), model, edits[:5], out=whole, config=config)
    lines_before = (whole / "records.jsonl").read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines_before), 3):
        part = tmp_path / f"cut-{cut}"
        shutil.copytree(whole, part)
        (part / "records.jsonl").write_bytes(
            b"".join(lines_before[:cut]) + lines_before[cut][: len(lines_before[cut]) // 2]
        )
        method = Depends(model)
        again = evaluate(method, model, edits[:5], out=part, config=config)
        edited = sum(b'"phase":"edit"' in line for line in lines_before[:cut])
        remaining = [call for call, size in (("case-0 case-1", 2), ("case-2 case-3", 4)) if edited < size]
        assert method.calls == [*remaining, "case-4"]  # alone in its sequence, it stores no patch
        assert without_times(part) == without_times(whole)
        cost: dict[str, object] = {"seconds_per_edit": None, "peak_memory": None}
        assert again.model_copy(update=cost) == expected.model_copy(update=cost)


def without_times(out: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in line.items() if name not in ("seconds", "memory")} for line in phases(out)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"schedule": "batch:2", "evaluate_every": None},
        {"evaluate_every": 2},
        {"general": None},
        {"shard": "0/2"},
    ],
)
def test_other_schedule_is_another_run(
    changed: dict[str, Any], method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    config: dict[str, Any] = {"schedule": "sequential:2", "evaluate_every": 1, "general": TEXT}
    evaluate(method, model, edits[:2], out=tmp_path, config=EvalConfig(**config))
    with pytest.raises(OutputError, match=rf"{next(iter(changed))}.*--out"):
        evaluate(method, model, edits[:2], out=tmp_path, config=EvalConfig(**{**config, **changed}))


def test_edits_of_a_record_are_computed_and_fail_as_one(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    """Two records of two edits each (MQuAKE's kind); the second edit of the first record fails."""
    records = [BenchmarkRecord(id=name, edits=pair) for name, pair in (("a", edits[:2]), ("b", edits[2:4]))]
    method = Depends(model, NudgeConfig(failing=("case-1",)))
    summary = evaluate(method, model, records, out=tmp_path, config=EvalConfig(schedule="batch:2"))
    assert (summary.n, summary.provenance["failed"]) == (2, 1)
    first, second = lines(tmp_path)
    assert (first["error"], second["error"]) == ("GraphError: nothing is known about Player 1", None)
    assert method.calls[-1] == "case-2 case-3"
    with Depends(model).edit(edits[2:4]).applied(model):
        case = Case.of(records[1], choices=draw_choices(records[1], collect_answers(records), seed=0))
        (section,) = score_cases(model, [case])
    assert_near(second["sections"]["edited"]["nll"], section.nll)


@pytest.mark.slow
def test_step_that_memory_halved_is_recorded(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    evaluate(Cramped(model), model, edits[:4], out=tmp_path, config=EvalConfig(schedule="batch:4"))
    assert [line.get("batch") for line in phases(tmp_path) if line["phase"] == "edit"] == [2] * 4


@dataclass
class Cramped(Nudge):
    """Has memory for two edits at a time."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        if len(edits) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().edit(edits, before=before)
