"""The patches of a sequence's steps on disk: dense ones are replaced by their sum, from which a stopped run resumes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.evaluation.metrics.catalogue import requests_of
from kg_edit.evaluation.records import make_items
from kg_edit.evaluation.run import evaluate
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.questions import generation_prompt, pair_of
from tests.everyday import keep_first
from tests.kg_edit.evaluation.conftest import Nudge
from tests.kg_edit.evaluation.test_sequences import TEXT, Depends, without_times

CONFIG = EvalConfig(schedule="sequential:5", general=TEXT)


@dataclass
class Dense(Depends):
    """The same change as a dense one, as of fine-tuning."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        patch = super().edit(edits, before=before)
        ((name, pair),) = patch.factors.items()
        return WeightPatch(factors={name: Factors.dense(pair.product)}, provenance=patch.provenance)


def test_probes_of_an_own_edit_are_led_as_its_prompts(
    model: LanguageModel, edits: tuple[Edit, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have the line break without which some models do not read a subject."""

    def led(_: LanguageModel, edit: Edit) -> Edit:
        texts = {"prompt": f"\n{edit.prompt}", "paraphrases": tuple(f"\n{text}" for text in edit.paraphrases)}
        return edit.model_copy(update=texts)

    monkeypatch.setattr("kg_edit.evaluation.records.readable_edit", led)
    (item,) = make_items([record_of(edits[0])], {}, EvalConfig(), model=model)
    (efficacy,), (paraphrase,) = (item.case.group(name)[0].queries for name in ("efficacy", "paraphrase"))
    requests = requests_of(item.case)
    assert pair_of(efficacy) == Pair(f"\n{edits[0].text}", "Miami Heat") and pair_of(efficacy) in requests.pairs
    assert (
        f"\n{edits[0].paraphrases[0]}" == generation_prompt(paraphrase) in [text.prompt for text in requests.continued]
    )


class StopsAtTheFourth(Dense):
    """Is stopped at its fourth edit."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        if edits[0].id == "case-3":
            raise KeyboardInterrupt
        return super().edit(edits, before=before)


def names(out: Path) -> list[str]:
    return sorted(file.stem for file in (out / "patches").iterdir())


@pytest.mark.slow
def test_dense_steps_are_replaced_by_their_sum(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "summed"
    expected = evaluate(Dense(model), model, edits[:5], out=plain, config=CONFIG)
    assert names(plain) == [f"00000-{step:05d}" for step in range(5)]  # small ones stay

    monkeypatch.setattr("kg_edit.evaluation.records._SMALL", 0)
    summary = evaluate(Dense(model), model, edits[:5], out=out, config=CONFIG)
    assert names(out) == ["00000-sum-00005"]
    assert without_times(out) == without_times(plain)
    cost: dict[str, object] = {"seconds_per_edit": None, "peak_memory": None}
    assert summary.model_copy(update=cost) == expected.model_copy(update=cost)


@pytest.mark.slow
def test_small_changes_keep_a_file_for_each_step(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kg_edit.evaluation.records._SMALL", 0)
    evaluate(Nudge(model), model, edits[:3], out=tmp_path, config=EvalConfig(schedule="sequential:3", general=TEXT))
    assert names(tmp_path) == [f"00000-{step:05d}" for step in range(3)]


@pytest.mark.slow
def test_sequence_resumes_from_a_sum(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kg_edit.evaluation.records._SMALL", 0)
    whole, part = tmp_path / "whole", tmp_path / "part"
    evaluate(Dense(model), model, edits[:5], out=whole, config=CONFIG)

    with pytest.raises(KeyboardInterrupt):
        evaluate(StopsAtTheFourth(model), model, edits[:5], out=part, config=CONFIG)
    assert names(part) == ["00000-sum-00003"]
    leftover = part / "patches" / "00000-00000.safetensors"  # as of a run that was killed before it removed this file
    shutil.copy(part / "patches" / "00000-sum-00003.safetensors", leftover)

    method = Dense(model)
    evaluate(method, model, edits[:5], out=part, config=CONFIG)
    assert method.calls == ["case-3", "case-4"]
    assert without_times(part) == without_times(whole)
    assert names(part) == ["00000-00004", "00000-sum-00004"]


@pytest.mark.slow
def test_a_resumed_run_keeps_the_files_of_the_steps_that_it_has_not_loaded(
    model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(StopsAtTheFourth(model), model, edits[:4], out=tmp_path, config=CONFIG)
    monkeypatch.setattr("kg_edit.evaluation.records._SMALL", 0)  # all three files take thrice the first step's patch
    method = Dense(model)
    evaluate(method, model, edits[:4], out=tmp_path, config=CONFIG)
    assert method.calls == ["case-3"]


@pytest.mark.parametrize("deleted", keep_first(["records.jsonl", "general.jsonl"], keep=0))
def test_steps_whose_results_were_deleted_are_recomputed(
    deleted: str, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kg_edit.evaluation.records._SMALL", 0)
    expected = evaluate(Dense(model), model, edits[:5], out=tmp_path, config=CONFIG)
    (tmp_path / deleted).unlink()

    summary = evaluate(Dense(model), model, edits[:5], out=tmp_path, config=CONFIG)
    cost: dict[str, object] = {"seconds_per_edit": None, "peak_memory": None}
    assert summary.model_copy(update=cost) == expected.model_copy(update=cost)
    assert names(tmp_path) == ["00000-sum-00005"]
