"""Runs of a real patch on a tiny model: what is written, how a run resumes, what it refuses."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from kg_common.progress import Bar
from kg_edit.callbacks import report_losses
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import EditFile
from kg_edit.edits.record import Probe, Query
from kg_edit.errors import AnotherRunError, OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import BenchmarkRecord, find_dataset
from kg_edit.evaluation.finish import finish
from kg_edit.evaluation.metrics.edit import METRICS, PORTABILITY
from kg_edit.evaluation.records import RunFolder
from kg_edit.evaluation.reports import render
from kg_edit.evaluation.retention import RetentionTest
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.scorer import UneditedScores, score_cases
from kg_edit.evaluation.sequences import FEWEST, SequenceRun
from kg_edit.evaluation.statistics import EDITING_SCORE
from kg_edit.evaluation.summary import Summary
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.perplexity import general_scores
from kg_edit.version import code_sha256
from tests.everyday import keep_first
from tests.kg_edit.evaluation.conftest import Nudge, NudgeConfig
from tests.kg_edit.tiny import same_weights, tiny, weights_of
from wikidata_cache import WikidataCache, packaged_extract

OWN = {f"{group}.{name}" for group in ("efficacy", "paraphrase") for name in ("teacher_forced", "nll")}
OWN |= {"paraphrase.greedy"}  # the scores of own edits besides METRICS


def phases(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def lines(out: Path) -> list[dict[str, Any]]:
    """The phases of each record together."""
    records: dict[str, dict[str, Any]] = {}
    for line in phases(out):
        record = records.setdefault(line["id"], {"error": None, "sections": {}})
        record["sections"] |= line.get("sections", {})
        record |= {name: value for name, value in line.items() if name != "sections"}
    return list(records.values())


@dataclass
class Each(Nudge):
    """Makes edits alone, many in one call, and notes how many; `stop_at` kills the run."""

    stop_at: str = ""
    sizes: list[int] = field(default_factory=list)

    def edit_each(self, edits: Sequence[Edit]) -> list[Patch]:
        self.sizes.append(len(edits))
        if any(edit.id == self.stop_at for edit in edits):
            raise KeyboardInterrupt
        return [self.edit([edit]) for edit in edits]


def test_run_writes_scores_evidence_and_a_summary(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    weights = weights_of(model)
    state = torch.get_rng_state()
    summary = evaluate(method, model, edits[:3], out=tmp_path, pool=edits, config=EvalConfig(ceilings=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_weights(model, weights)
    assert summary == Summary.load(tmp_path / "summary.json") == Summary.load(str(tmp_path))
    assert (summary.n, summary.provenance["failed"]) == (3, 0)
    assert set(summary.base) == set(summary.edited) == {*METRICS, *OWN, EDITING_SCORE}
    assert set(summary.fact_in_prompt or {}) == set(summary.fact_and_relation_in_prompt or {}) == set(PORTABILITY)
    assert summary.base["portability.nll"] != summary.edited["portability.nll"]
    file = tmp_path / "records.jsonl"  # after --retry-failed the lines may be in another order
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert finish(tmp_path) == summary


def test_results_are_data_frames(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = evaluate(method, model, EditFile(edits[:2]), out=str(tmp_path))
    assert repr(summary) == f"Summary(2 records, {method.name} on {model.name}: base, edited)"
    assert "<th>metric</th><th>base</th><th>edited</th>" in summary._repr_html_()
    means = summary.to_frame().set_index(["section", "metric"])["mean"]
    scores = RunFolder(tmp_path).to_frame()
    assert {*scores.columns} == {"id", "section", "metric", "score", "error"} and scores["id"].nunique() == 2
    for section in ("base", "edited"):
        rows = scores[(scores["section"] == section) & (scores["metric"] == "efficacy.magnitude")]
        assert rows["score"].mean() == pytest.approx(means[section, "efficacy.magnitude"])


def test_model_in_training_mode_is_asked_without_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 has dropout. The model is in training mode again afterwards."""
    model, summaries = copy.deepcopy(tiny("gpt2")), list[Summary]()
    edit = Edit(
        subject="LeBron James", prompt="{} plays for", target_true="Miami Heat", target_new="Los Angeles Lakers"
    )
    for mode in (False, True):
        model.model.train(mode)
        monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / f"cache-{mode}"))
        summaries.append(evaluate(Nudge(model), model, [edit], out=tmp_path / f"run-{mode}"))
        assert model.model.training == mode
    assert summaries[0].edited == summaries[1].edited and summaries[0].base == summaries[1].base
    assert summaries[0].base["efficacy.magnitude"].mean


def test_record_has_the_evidence_of_its_scores(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    evaluate(method, model, edits[:1], out=tmp_path, pool=edits)
    (record,) = lines(tmp_path)
    edited = record["sections"]["edited"]
    with method.edit(edits[:1]).applied(model):
        pair = Pair(edits[0].text, "Miami Heat")
        assert edited["nll"][pair.prompt][pair.candidate] == pytest.approx(score(model, [pair])[pair].nll, abs=1e-4)
    assert edited["texts"].keys() == {edits[0].text, *edits[0].paraphrases, edits[0].portability[0].question}
    assert len(record["choices"][0]) == 10


def test_killed_run_resumes_after_its_last_whole_line(
    method: Nudge,
    model: LanguageModel,
    edits: tuple[Edit, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="kg_edit")
    full = evaluate(method, model, edits[:3], out=tmp_path)
    assert not caplog.messages
    file = tmp_path / "records.jsonl"
    before, entries = file.read_bytes(), phases(tmp_path)
    assert [(line["id"], line["phase"]) for line in entries] == [
        (f"case-{number}", phase) for number in range(3) for phase in ("base", "edit", "edited")
    ]
    lines_before = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines_before[:6]) + lines_before[6][:70])
    (tmp_path / "summary.json").unlink()
    method.calls.clear()
    again = evaluate(method, model, edits[:3], out=tmp_path)
    assert method.calls == ["case-2"]
    assert caplog.messages == [f"{tmp_path} has 2 of 3 records; the others follow"]
    assert file.read_bytes().splitlines()[:7] == before.splitlines()[:7]
    assert (again.base, again.edited) == (full.base, full.edited)


@pytest.mark.slow
def test_run_killed_between_edit_and_score_edits_again(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    evaluate(method, model, edits[:2], out=tmp_path)
    file = tmp_path / "records.jsonl"
    before = file.read_bytes()
    file.write_bytes(b"".join(before.splitlines(keepends=True)[:5]))
    method.calls.clear()
    evaluate(method, model, edits[:2], out=tmp_path)
    assert method.calls == ["case-1"]
    assert file.read_bytes() == before  # the time of the first try stays


def test_run_grows(method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    """--limit 2, then --limit 3: only what is new is done, and the run is that of three."""
    evaluate(method, model, edits[:2], out=tmp_path / "run", pool=edits)
    method.calls.clear()
    grown = evaluate(method, model, edits[:3], out=tmp_path / "run", pool=edits)
    assert method.calls == ["case-2"]
    full = evaluate(method, model, edits[:3], out=tmp_path / "whole", pool=edits)
    assert (grown.n, grown.base, grown.edited) == (3, full.base, full.edited)
    settings = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "whole")]
    assert settings[0] == settings[1]
    changed = edits[1].model_copy(update={"target_new": "Chicago Bulls"})
    for other, words in (
        (edits[:2], "3 in the folder, 2 now"),
        (edits[1:4], "number 1 is 'case-0' in the folder, 'case-1' now"),
        ([edits[0], changed, *edits[2:4]], "3 in the folder, 4 now; the first that differs is 'case-1' .record: other"),
    ):
        with pytest.raises(OutputError, match=rf"contains another run \(records: {words}"):
            evaluate(method, model, other, out=tmp_path / "run", pool=edits)


def test_run_without_a_result_may_shrink(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within its first group, then run again with a smaller --limit."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SequenceRun, "ask_unedited", stop)
        evaluate(method, model, edits[:4], out=tmp_path, pool=edits)
    assert {file.name for file in tmp_path.iterdir()} == {".lock", "run.json", "environments.jsonl"}
    assert evaluate(method, model, edits[:2], out=tmp_path, pool=edits).n == 2


@pytest.mark.slow
def test_run_grows_by_records_that_bring_a_setting(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    """The first abbreviation among the answers, and the first probe of a kind, are settings of the larger run alone."""
    span = Probe(measures="specificity", queries=(Query(prompt="Where is it?", answers=(("Los Angeles",),)),))
    probed = BenchmarkRecord(id=edits[1].id, edits=(edits[1],), probes=(span,))
    short = edits[2].model_copy(update={"target_new": "HBO"})
    evaluate(method, model, [edits[0]], out=tmp_path, pool=edits)
    assert evaluate(method, model, [edits[0], probed, short], out=tmp_path, pool=edits).n == 3
    assert [line["id"] for line in phases(tmp_path)].count("case-0") == 3  # base, edit, edited: once each


@pytest.mark.parametrize(("first", "goes_on"), keep_first([(2, True), (1, False)], unpack=True))
@pytest.mark.slow
def test_run_of_sequences_grows_by_whole_ones(
    first: int, goes_on: bool, method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    """A sequence that was not full would have gone on from another place."""

    def run(count: int) -> Summary:
        return evaluate(
            method, model, edits[:count], out=tmp_path, pool=edits, config=EvalConfig(schedule="sequential:2")
        )

    run(first)
    if goes_on:
        assert run(4).n == 4
    else:
        with pytest.raises(OutputError, match="contains another run"):
            run(4)


@pytest.mark.slow
def test_kill_loses_no_more_than_the_records_that_are_edited_together(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    """Four at first, which are written before the next ones are begun; then groups grow with what is done."""
    each = Each(model, stop_at="case-5")
    with pytest.raises(KeyboardInterrupt):
        evaluate(each, model, edits[:6], out=tmp_path, pool=edits)
    scored = [line["id"] for line in phases(tmp_path) if line["phase"] == "edited"]
    assert scored == [f"case-{number}" for number in range(FEWEST)]
    assert each.sizes == [FEWEST, 2]


@pytest.mark.slow
def test_progress_is_logged_while_a_group_is_edited(
    model: LanguageModel,
    edits: tuple[Edit, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("kg_common.progress._LINE_S", 0.02)
    during = list[list[str]]()

    class Slow(Each):
        def edit_each(self, edits: Sequence[Edit]) -> list[Patch]:
            report_losses(3, dict.fromkeys(range(len(edits)), 0.5), descents=len(edits))
            caplog.clear()
            until = time.time() + 10
            while not caplog.messages and time.time() < until:
                time.sleep(0.005)
            during.append([*caplog.messages])
            return super().edit_each(edits)

    evaluate(Slow(model), model, edits[:5], out=tmp_path, pool=edits)
    first, second = (lines[0] for lines in during)
    assert first.startswith("nudge: 0 of 5 records, ") and "(records 1 to 4, step 4, loss 0.50)" in first
    assert second.startswith("nudge: 4 of 5 records, ") and "(record 5, step 4, loss 0.50)" in second


@pytest.mark.slow
def test_progress_of_a_sequence_names_what_is_measured_while_it_is_scored(
    method: Nudge,
    model: LanguageModel,
    edits: tuple[Edit, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may take minutes, in which no record is counted."""
    caplog.set_level("INFO")
    monkeypatch.setattr("kg_common.progress._LINE_S", 0.02)
    during = list[str]()

    def next_line() -> None:
        caplog.clear()
        until = time.time() + 10
        while not caplog.messages and time.time() < until:
            time.sleep(0.005)
        during.append(caplog.messages[0])

    ask, update, score, unedited = SequenceRun.ask_unedited, method.edit, SequenceRun._score, UneditedScores.general
    monkeypatch.setattr(SequenceRun, "ask_unedited", lambda *args: (next_line(), ask(*args)))
    monkeypatch.setattr(method, "edit", lambda *args, **named: (next_line(), update(*args, **named))[1])
    monkeypatch.setattr(SequenceRun, "_score", lambda *args: (next_line(), score(*args)))
    monkeypatch.setattr(UneditedScores, "general", lambda *args: (next_line(), unedited(*args))[1])
    general_of = "kg_edit.evaluation.sequences.general_scores"
    monkeypatch.setattr(general_of, lambda *args: (next_line(), general_scores(*args))[1])
    tested = RetentionTest((Query(prompt="The capital of France is", answers=(("Paris",),), form="sentence"),))
    config = EvalConfig(schedule="sequential:2", sample=2, general="Paris is in France.", retention=tested)
    evaluate(method, model, edits[:2], out=tmp_path, config=config)
    counted = [line.partition(" records, ")[0] for line in during]
    notes = [line.rpartition(" (")[2].rstrip(")") if line.endswith(")") else "" for line in during]
    general = "general ability, 1 prompt of retention"
    assert list(zip(counted, notes, strict=True)) == [
        ("nudge: 0 of 2", f"unedited model, {general}"),
        ("nudge: 0 of 2", "unedited model"),
        ("nudge: 0 of 2", "editing"),
        ("nudge: 0 of 2", "edited model, 1 to score"),
        ("nudge: 0 of 2", f"edited model, {general}"),
        ("nudge: 1 of 2", "editing"),
        ("nudge: 1 of 2", "edited model, 2 to score"),
        ("nudge: 1 of 2", f"edited model, {general}"),
    ]


@pytest.mark.slow
def test_patches_of_a_group_take_a_bounded_memory(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch of a method that trains every weight is as large as the model: sixteen of them would not fit."""
    each = Each(model)
    monkeypatch.setattr("kg_edit.evaluation.sequences.HELD", 2 * each.edit(edits[:1]).nbytes)
    evaluate(each, model, edits[:6], out=tmp_path, pool=edits)
    assert each.sizes == [1, 2, 2, 1]


@pytest.mark.parametrize("field", keep_first(["config.scale", "records", "seed", "ceilings", "method"], keep=2))
def test_another_runs_folder_is_refused(
    field: str, method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    evaluate(method, model, edits[:1], out=tmp_path)
    if field == "config.scale":
        method.config = NudgeConfig(scale=0.25)
    method.name = "other" if field == "method" else method.name
    chosen, seed = edits[: 2 if field == "records" else 1], int(field == "seed")
    with pytest.raises(OutputError, match=rf"{field}.*--out"):
        evaluate(method, model, chosen, out=tmp_path, config=EvalConfig(seed=seed, ceilings=field == "ceilings"))


def test_failed_edit_is_counted_and_scored_as_the_unedited_model(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    method = Nudge(model, NudgeConfig(failing=("case-1",)))
    summary = evaluate(method, model, edits[:2], out=tmp_path)
    assert (summary.n, summary.provenance["failed"]) == (2, 1)
    assert summary.provenance["counts"]["edited"]["portability.nll"] == 2
    good, failed = lines(tmp_path)
    assert good["error"] is None
    assert good["sections"]["edited"] != good["sections"]["base"]
    assert failed["error"] == "GraphError: nothing is known about Player 1"
    edited, base = failed["sections"]["edited"], failed["sections"]["base"]
    assert edited["texts"] == base["texts"]
    for prompt, losses in base["nll"].items():  # of another pass: its rounding may be another
        assert edited["nll"][prompt] == pytest.approx(losses, abs=1e-4)
    nll = [record["sections"]["edited"]["scores"]["portability.nll"] for record in (good, failed)]
    assert summary.edited["portability.nll"].mean == pytest.approx(fmean(nll))
    assert summary.seconds_per_edit == good["seconds"]


@dataclass
class AsksTheGraph(Nudge):
    """A method that looks at a real knowledge graph first."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        WikidataCache(packaged_extract()).subgraph(edits[0])
        return super().edit(edits, before=before)


@pytest.mark.slow
def test_entity_unknown_to_the_graph_fails_its_edit_alone(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    known = edits[0].model_copy(update={"target_new_id": "Q169138", "relation_id": "P54"})
    strange = edits[1].model_copy(update={"target_new_id": "Q999999999", "relation_id": "P54"})
    summary = evaluate(AsksTheGraph(model), model, [strange, known], out=tmp_path)
    assert [(record["error"] or "").split(":")[0] for record in lines(tmp_path)] == ["EntityNotInGraphError", ""]
    assert (summary.n, summary.provenance["failed"]) == (2, 1)


def test_record_that_cannot_be_scored_at_all_is_in_no_mean(edits: tuple[Edit, ...], tmp_path: Path) -> None:
    model = tiny("opt")  # the few-shot form alone is longer than its 128 positions
    short = edits[1].model_copy(update={"portability": ()})
    summary = evaluate(Nudge(model), model, [edits[0], short], out=tmp_path)
    assert (summary.n, summary.provenance["failed"]) == (2, 1)
    assert summary.provenance["counts"]["base"]["efficacy.prob"] == 1
    assert lines(tmp_path)[0]["error"].startswith("ModelError: the prompt 'Question: What colour")
    assert lines(tmp_path)[0]["sections"] == {}
    assert "1 left out, as the unedited model can't be scored on them" in render(summary)
    assert "failed and count" not in render(summary)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["single", "sequential:2"])
def test_answers_are_timed_on_request(
    schedule: str, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    for name, method in {"alone": Nudge(model), "together": Each(model)}.items():
        config = EvalConfig(schedule=schedule, time_answers=True)
        summary = evaluate(method, model, edits[:2], out=tmp_path / name, config=config)
        pairs = [line["answer_seconds"] for line in phases(tmp_path / name) if line["phase"] == "edited"]
        assert len(pairs) == 2 and summary.seconds_per_answer is not None
        means = summary.seconds_per_answer["base"], summary.seconds_per_answer["edited"]
        assert min(means) > 0 and means == pytest.approx([fmean(times) for times in zip(*pairs, strict=True)])
        assert summary == Summary.load(tmp_path / name / "summary.json")


@pytest.mark.parametrize("ceilings", [False, True])
def test_summary_has_its_keys(
    ceilings: bool, method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    evaluate(method, model, edits[:1], out=tmp_path, config=EvalConfig(ceilings=ceilings))
    summary = json.loads((tmp_path / "summary.json").read_text())
    sections = {"base", "edited"} | ({"fact_in_prompt", "fact_and_relation_in_prompt"} if ceilings else set())
    assert set(summary) == {"n", "seconds_per_edit", "peak_memory", "provenance"} | sections
    for section in sections:
        assert all(set(estimate) == {"mean", "ci95_low", "ci95_high"} for estimate in summary[section].values())
        assert set(summary["provenance"]["counts"][section]) == set(summary[section])
    assert set(summary["provenance"]["counts"]) == sections
    assert summary["provenance"]["failed"] == 0


def test_edit_without_old_object_has_every_score_that_needs_none(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    half = edits[0].model_copy(update={"target_true": None})
    bare = half.model_copy(update={"id": "bare", "portability": (), "paraphrases": (), "neighborhood": ()})
    summary = evaluate(method, model, [half, bare], out=tmp_path)
    counts = {name: count for name, count in summary.provenance["counts"]["edited"].items() if count}
    every = {"efficacy.greedy", "efficacy.teacher_forced", "efficacy.nll"}
    once = {*OWN - every, "locality.same_text", *PORTABILITY} - {"portability.choice"}  # too few answers to choose from
    assert counts == {**dict.fromkeys(every, 2), **dict.fromkeys(once, 1)}
    edited = lines(tmp_path)[0]["sections"]["edited"]
    for group, prompt in (("efficacy", half.text), ("paraphrase", half.paraphrases[0])):
        assert edited["scores"][f"{group}.nll"] == edited["nll"][prompt]["Miami Heat"]


@pytest.mark.slow
def test_unedited_scores_are_reused_by_the_next_method(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(method, model, edits, out=tmp_path / "first", config=EvalConfig(ceilings=True))
    sizes: list[int] = []
    for module in ("scorer", "sequences"):
        monkeypatch.setattr(
            f"kg_edit.evaluation.{module}.score_cases",
            lambda model, cases, **how: sizes.append(len(cases)) or score_cases(model, cases, **how),
        )
    changed = edits[1].model_copy(update={"prompt": "{} is with the"})
    second = evaluate(
        Nudge(model, NudgeConfig(scale=0.1)),
        model,
        [edits[0], changed],
        out=tmp_path / "second",
        pool=edits,
        config=EvalConfig(ceilings=True),
    )
    assert sizes == [6, 1, 1]  # both records, of which a part is new, then each of them edited
    assert lines(tmp_path / "first")[0]["sections"]["base"] == lines(tmp_path / "second")[0]["sections"]["base"]
    assert second.edited != first.edited


@pytest.mark.slow
def test_unedited_scores_of_another_model_are_computed(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    first = evaluate(method, model, edits[:1], out=tmp_path / "first")
    other = tiny("qwen2")
    second = evaluate(Nudge(other), other, edits[:1], out=tmp_path / "second")
    assert first.base != second.base


@pytest.mark.slow
def test_damaged_or_unwritable_cache_changes_nothing(
    method: Nudge,
    model: LanguageModel,
    edits: tuple[Edit, ...],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = evaluate(method, model, edits[:1], out=tmp_path / "first")
    (file,) = (cache / "unedited").rglob("*.json")
    file.write_text("{")
    second = evaluate(method, model, edits[:1], out=tmp_path / "second")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "file" / "cache"))
    third = evaluate(method, model, edits[:1], out=tmp_path / "third")
    assert first.base == second.base == third.base
    assert json.loads(file.read_text())["scores"]  # mended


@pytest.mark.slow
def test_cached_scores_without_a_metric_are_computed_again(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, cache: Path
) -> None:
    """A metric was added since they were cached."""
    first = evaluate(method, model, edits[:1], out=tmp_path / "first")
    (file,) = (cache / "unedited").rglob("*.json")
    cached = json.loads(file.read_text())
    del cached["scores"]["efficacy.nll"]
    file.write_text(json.dumps(cached))
    assert evaluate(method, model, edits[:1], out=tmp_path / "second").base == first.base
    assert "efficacy.nll" in json.loads(file.read_text())["scores"]


@pytest.mark.slow
def test_resumed_sequence_skips_its_known_records_in_the_progress(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted as done in this run, they took no time, and the time that is left was 0."""
    config = EvalConfig(schedule="sequential:3", evaluate_every=1)
    evaluate(method, model, edits[:3], out=tmp_path, config=config)
    lines = (tmp_path / "records.jsonl").read_bytes().splitlines(keepends=True)
    end = next(index for index, line in enumerate(lines) if json.loads(line)["phase"] == "after:2")
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines[:end]))
    counted = list[tuple[str, int]]()
    monkeypatch.setattr(Bar, "update", lambda _, n: counted.append(("done", n)))
    monkeypatch.setattr(Bar, "skip", lambda _, n: counted.append(("skipped", n)))
    evaluate(method, model, edits[:3], out=tmp_path, config=config)
    assert counted == [("skipped", 1), ("done", 1), ("done", 1)]


@pytest.mark.slow
def test_plug_in_whose_code_changed_is_named_on_resuming(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for count, code in ((1, "first"), (2, "first"), (3, "second"), (4, "second")):
        caplog.clear()
        method.plug_in = {"package": "theirs", "version": "1", "sha256": code}
        evaluate(method, model, edits[:count], out=tmp_path, pool=edits)
        words = {3: "2 records were", 4: "some records were"}.get(count)
        assert any(f"{words} made with other code of the package theirs" in line for line in caplog.messages) == bool(
            words
        )
    hashes = [json.loads(line)["plug_in"]["sha256"] for line in (tmp_path / "environments.jsonl").open()]
    assert hashes == ["first", "second"]


def test_run_of_other_code_is_refused_before_anything_is_computed(
    method: Nudge, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is only repeated, whose old scores would be shown as those of the new code."""
    evaluate(method, model, edits[:1], out=tmp_path, pool=edits)
    for place in ("run", "settings"):
        monkeypatch.setattr(f"kg_edit.evaluation.{place}.code_sha256", lambda: "another")
    before = (tmp_path / "records.jsonl").read_bytes()
    for count in (1, 2):
        with pytest.raises(AnotherRunError, match=r"other code of kg-edit .*--other-code"):
            evaluate(method, model, edits[:count], out=tmp_path, pool=edits)
    assert (tmp_path / "records.jsonl").read_bytes() == before
    evaluate(method, model, edits[:2], out=tmp_path, pool=edits, config=EvalConfig(other_code=True))
    hashes = [json.loads(line)["code_sha256"] for line in (tmp_path / "environments.jsonl").open()]
    assert hashes == [code_sha256(), "another"]


@pytest.mark.slow
def test_real_record_with_and_without_facts_in_the_prompt(smollm2: LanguageModel, shared: Path, tmp_path: Path) -> None:
    edits = find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")
    method = Nudge(smollm2, NudgeConfig(scale=0.01))
    summary = evaluate(method, smollm2, edits[:1], out=tmp_path, pool=edits, config=EvalConfig(ceilings=True))
    nll = [section["portability.nll"].mean for section in summary.sections.values()]
    base, edited, fact, relation = (value for value in nll if value is not None)
    assert base != edited
    assert relation < fact < base
    assert summary.sections["fact_and_relation_in_prompt"]["portability.greedy"].mean == 1
    assert summary.base["portability.greedy"].mean == 0
