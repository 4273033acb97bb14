"""The sweep: which layers are tried, how they are scored, which one wins, and that a known best one is found."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.callbacks import Callback, send_losses
from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.errors import GraphError
from kg_edit.evaluation.tracing import layer_sweep
from kg_edit.evaluation.tracing.corrupted_run import noise_level
from kg_edit.evaluation.tracing.layer_score import (
    EditScore,
    LayerScore,
    decide,
    edit_score,
    layer_scores,
    sweep_probes,
)
from kg_edit.evaluation.tracing.layer_sweep import choose_layer, list_candidates, pick_spread, traced_peak
from kg_edit.evaluation.tracing.summary import LocateSummary
from kg_edit.evaluation.tracing.trace import TraceSettings, facts_of, trace
from kg_edit.methods.base import EditingMethod
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import divergence, next_token_log_p
from tests.kg_edit.command_line import QUICK, Run, cache, content, kg_edit, place, tiny_folder
from tests.kg_edit.tiny import chatting, same_weights, tiny, weights_of

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

EDITS = (
    Edit(id="1", subject="LeBron James", prompt="{} plays for", target_new="Los Angeles", paraphrases=("He is in ",)),
    Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome", neighborhood=("Paris is in",)),
    Edit(id="3", subject="Dwyane Wade", prompt="{} plays for", target_new="London"),
)


def scored(layer: int, *scores: float) -> LayerScore:
    edits = tuple(EditScore(efficacy=s, generality=s, specificity=s, score=s) for s in scores)
    mean = sum(scores) / len(scores)
    overall = EditScore(efficacy=mean, generality=mean, specificity=mean, score=mean)
    return LayerScore(layer=layer, mean=overall, edits=edits, failed=0)


def toy_rome(model: LanguageModel, config: RomeConfig) -> Rome:
    layer = 1 if config.layer is None else config.layer
    size = weight_matrix(model.down_projection(layer)).shape[1]
    moment = Covariance(moment=torch.eye(size), tokens=1, ridge=0.0, id="toy")
    return Rome(model, config, contexts=("{}", "Today {}"), covariance=moment)


class Planted(EditingMethod):
    """ROME in the layer 2, and nothing at all in any other; ``failing`` edits can't be made."""

    name, about, config_class = "planted", "", RomeConfig
    failing: tuple[str, ...] = ()
    calls: list[tuple[int | None, int]]

    @property
    def layer(self) -> int:
        """The default."""
        return 1

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        (edit,) = edits
        assert isinstance(self.config, RomeConfig)
        self.calls.append((self.config.layer, self.config.steps))
        if edit.id in self.failing:
            raise GraphError(f"nothing is known about {edit.subject}")
        if self.config.layer == 2:
            return toy_rome(self.model, self.config).make([edit], before=before)
        out, into = weight_matrix(self.model.down_projection(self.config.layer or 0)).shape
        nothing = Factors(left=torch.zeros(out, 1), right=torch.zeros(into, 1))
        return WeightPatch(factors={self.model.weight_name(self.config.layer or 0): nothing}, provenance={})


def planted(model: LanguageModel, *failing: str) -> tuple[Any, list[tuple[int | None, int]]]:
    calls: list[tuple[int | None, int]] = []

    def make(config: MethodConfig) -> EditingMethod:
        editor = Planted(model, config)
        editor.calls, editor.failing = calls, failing
        return editor

    return make, calls


@pytest.fixture(autouse=True)
def no_covariance(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The planted method measures none."""
    if "kg_edit" not in request.fixturenames:
        monkeypatch.setattr("kg_edit.evaluation.tracing.layer_sweep.find_covariances", lambda *_, **__: {})


def test_candidates_are_around_the_default_and_the_traced_layer() -> None:
    assert list_candidates(30, default=6, traced=4) == (4, 5, 6, 8)
    assert list_candidates(30, default=6, traced=16) == (4, 6, 8, 11, 16)
    assert list_candidates(30, default=6, traced=29) == (4, 6, 8, 17)  # what is written last is read by no later token
    assert list_candidates(4, default=1, traced=0) == (0, 1, 2)
    assert list_candidates(1, default=0, traced=0) == (0,)


def test_spread_takes_edits_from_the_whole_list() -> None:
    many = [EDITS[0].model_copy(update={"id": str(index)}) for index in range(20)]
    assert [edit.id for edit in pick_spread(many, 6)] == ["0", "3", "6", "10", "13", "16"]
    assert pick_spread(EDITS, 6) == EDITS


def test_traced_peak_equals_that_of_the_whole_trace() -> None:
    model = tiny("gpt_neox")
    level = noise_level(model, [encode(model.tokenizer, edit.prompt, subject=edit.subject) for edit in EDITS])
    settings = TraceSettings(kind="mlp", samples=5)
    traces = [trace(model, fact, settings, level=level) for fact in facts_of(EDITS)]
    assert traced_peak(model, EDITS) == LocateSummary.of(traces).peak.layer


def test_edit_score_is_the_harmonic_mean() -> None:
    scores = edit_score(0.5, 0.25, 1.0)
    assert (scores.efficacy, scores.generality, scores.specificity) == (0.5, 0.25, 1.0)
    assert scores.score == pytest.approx(3 / (2 + 4 + 1))
    assert edit_score(0.0, 1.0, 1.0).score == 0


def test_decide_leaves_the_default_only_for_a_clear_gain() -> None:
    clear = decide([scored(4, 0.2, 0.3, 0.4), scored(6, 0.1, 0.2, 0.2)], default=6)
    assert clear[0] == 4
    # differences .1, .1, .2: mean .133, standard deviation .0577, standard error .0333
    assert "+0.133 ± 0.033 against the default 6" in clear[1]
    unclear = decide([scored(4, 0.9, 0.0, 0.1), scored(6, 0.3, 0.3, 0.3)], default=6)
    assert unclear[0] == 6
    assert "no layer beats the default 6 clearly: layer 4 by +0.033 ± 0.285" in unclear[1]
    assert decide([scored(4, 0.1), scored(6, 0.2)], default=6)[1].startswith("the default layer 6 has the best score")
    assert decide([scored(4, 0.2), scored(6, 0.2)], default=6)[0] == 6
    few = decide([scored(4, 0.9), scored(6, 0.2)], default=6)
    assert few[0] == 6 and "in 1 edit, too few to tell this from noise" in few[1]
    within = decide([scored(4, 0.2, 0.3, 0.4, 0.3), scored(6, 0.2, 0.1, 0.2, 0.4)], default=6)
    assert within[0] == 6, "differences 0, .2, .2, -.1: by .075, which is one standard error"
    assert decide([scored(4, 0.1), scored(6, 0.2)], default=7)[0] == 6


def test_layer_scores_count_failed_edits_as_zero() -> None:
    good, bad = edit_score(0.5, 0.5, 0.5), GraphError("no")
    rows = layer_scores({1: [good, bad, bad], 2: [good, good, bad]})
    assert [(row.layer, row.failed, len(row.edits)) for row in rows] == [(1, 1, 2), (2, 0, 2)]
    assert [row.mean.score for row in rows] == pytest.approx([0.25, 0.5])
    with pytest.raises(GraphError, match="no"):
        layer_scores({1: [bad], 2: [bad]})


def test_divergence_is_the_mean_kl() -> None:
    before = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
    after = torch.tensor([[0.25, 0.75], [0.25, 0.75]]).log()
    assert divergence(before, after) == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2)
    assert divergence(before, before) == 0


@pytest.mark.parametrize("family", ["llama", "falcon-alibi", "gpt2"])
def test_next_token_of_prompts_of_unequal_length(family: str) -> None:
    model, prompts = tiny(family), ["Paris", "The quick brown fox jumps over"]
    log_probs = next_token_log_p(model, prompts)
    for row, prompt in zip(log_probs, prompts, strict=True):
        with torch.no_grad():
            expected = model.model(torch.tensor([model.tokenizer(prompt)["input_ids"]])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_specificity_of_chat_edits_is_measured_in_chat_form() -> None:
    model = chatting()
    rome = toy_rome(model, RomeConfig(layer=2, steps=3))
    probes, reader = sweep_probes(model, [edit.with_form(chat=True) for edit in EDITS[:2]]), model.in_chat()
    scores = layer_sweep.edit_scores(model, probes, rome)
    for probe, score, patch in zip(probes, scores, rome.edit_each([probe.edit for probe in probes]), strict=True):
        assert isinstance(score, EditScore) and isinstance(patch, WeightPatch)
        plain, chat = next_token_log_p(model, probe.near), next_token_log_p(reader, probe.near)
        assert not torch.allclose(plain, chat)
        with patch.applied(model):
            changed = divergence(chat, next_token_log_p(reader, probe.near))
        assert score.specificity == pytest.approx(math.exp(-changed), rel=1e-4)


def test_sweep_probes_have_general_and_near_prompts() -> None:
    model = tiny("llama")
    first, second, third = sweep_probes(model, EDITS)
    assert first.general[0] == "He is in"
    assert [len(probe.general) for probe in (first, second, third)] == [4, 3, 3]
    assert all(prompt.endswith(". Dwyane Wade plays for") for prompt in third.general)
    assert first.near == ("France plays for", "Dwyane Wade plays for")
    assert second.near == ("Paris is in", "In LeBron James, the capital is", "In Dwyane Wade, the capital is")
    assert [pair.prompt for pair in third.pairs] == ["Dwyane Wade plays for", *third.general]
    (alone,) = sweep_probes(model, EDITS[:1])
    assert len(alone.near) == 3
    assert not any("LeBron" in prompt or "{}" in prompt for prompt in alone.near)


def test_sweep_probes_lead_a_subject_that_is_an_attention_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    """As methods make such an edit, and as reports ask for it; in chat form other text comes first."""
    monkeypatch.setattr("kg_edit.models.first_token.is_sink", lambda *_: True)
    edit = Edit(id="1", subject="T", prompt="{} is in", target_new="Rome", paraphrases=("T is near", "We see T in"))
    (probe,) = sweep_probes(tiny("llama"), [edit])
    assert probe.rewrite == "\nT is in" and probe.general[:2] == ("\nT is near", "We see T in")
    (chat,) = sweep_probes(chatting(), [edit.with_form(chat=True)])
    assert chat.rewrite == "T is in"


@pytest.mark.slow
def test_choose_layer_finds_the_layer_that_works() -> None:
    model = tiny("llama")
    make, calls = planted(model)
    weights = weights_of(model)
    third = EDITS[2].model_copy(update={"target_new": "Los Angeles"})  # of London layer 2 makes less than nothing does
    sweep = choose_layer(make, model, RomeConfig(steps=30), (*EDITS[:2], third), progress=False)
    assert (sweep.chosen, sweep.default, sweep.steps, sweep.edits) == (2, 1, 10, ("1", "2", "3"))
    assert "layer 2 has the best score" in sweep.why
    by_layer = {row.layer: row.mean for row in sweep.layers}
    assert set(by_layer) == {0, 1, 2}
    assert by_layer[0].specificity == by_layer[1].specificity == pytest.approx(1)  # a patch of nothing
    assert by_layer[2].specificity < 1
    assert by_layer[2].efficacy > by_layer[1].efficacy
    assert set(calls) == {(0, 10), (1, 10), (2, 10)}
    assert len(calls) == 9
    assert same_weights(model, weights)


def test_choose_layer_takes_no_further_steps() -> None:
    """Not even with the default preset, where an edit that is not message yet takes 28 more."""
    model, seen = tiny("llama"), list[int]()
    config = RomeConfig.preset("default", {"steps": 3, "hold": 0.0, "stop_below": -1.0})

    class Steps(Callback):
        def on_step(self, edit: str, step: int, loss: float) -> None:
            seen.append(step)

    with send_losses([Steps()], [edit.id for edit in EDITS]):
        choose_layer(partial(toy_rome, model), model, config, EDITS, progress=False)
    assert config.further_steps == 28 and set(seen) == {0, 1, 2}


@pytest.mark.slow
def test_choose_layer_ignores_edits_that_fail_everywhere() -> None:
    model = tiny("llama")
    sweep = choose_layer(planted(model, "2")[0], model, RomeConfig(), EDITS, progress=False)
    assert sweep.edits == ("1", "2", "3")
    assert {len(row.edits) for row in sweep.layers} == {2}
    with pytest.raises(GraphError, match="nothing is known"):
        choose_layer(planted(model, "1", "2", "3")[0], model, RomeConfig(), EDITS, progress=False)


@pytest.mark.slow
def test_auto_layer_caches_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path))
    model = tiny("llama")
    make, calls = planted(model)

    def chosen(edits: Sequence[Edit], config: RomeConfig) -> tuple[int, bool]:
        calls.clear()
        sweep = layer_sweep.auto_layer(make, model, config, edits, progress=False)
        return sweep.chosen, bool(calls)

    cached = layer_sweep.auto_layer(make, model, RomeConfig(), EDITS, progress=False).chosen
    assert chosen(EDITS, RomeConfig()) == (cached, False)
    assert chosen(EDITS[:2], RomeConfig())[1]
    assert chosen(EDITS, RomeConfig(seed=1))[1]
    for file in (tmp_path / "layers").iterdir():
        file.write_text("{")
    assert chosen(EDITS, RomeConfig()) == (cached, True)


@pytest.mark.slow
def test_edit_command_chooses_its_layer(kg_edit: Run, tiny_folder: Path, place: Path) -> None:
    command = ("edit", "edits.jsonl", "--method", "rome", "--model", tiny_folder, *QUICK, "--layer", "auto", "--force")
    first = kg_edit(*command, "--out", "out")
    assert first.code == 0, first.err
    sweep = json.loads((place / "out" / "layer.json").read_text())
    assert f"--layer auto: {sweep['why']}" in first.err
    assert "3 layers x 2 edits, 10 steps each" in first.err
    assert json.loads((place / "out" / "run.json").read_text())["config"]["layer"] == sweep["chosen"]
    patch = Patch.load(place / "out" / "patch.safetensors")
    assert list(patch.factors) == [f"model.layers.{sweep['chosen']}.mlp.down_proj.weight"]
    before = content(place / "out")
    again = kg_edit(*command, "--out", "out")
    assert (again.code, "layers x" in again.err) == (0, False)
    assert content(place / "out") == before


@pytest.mark.slow
def test_evaluate_command_chooses_on_unscored_records(kg_edit: Run, tiny_folder: Path, place: Path) -> None:
    command = ("evaluate", "--dataset", "edits", "--data", "edits.jsonl", "--method", "rome", "--model", tiny_folder)
    result = kg_edit(*command, *QUICK, "--layer", "auto", "--limit", "1", "--out", "run")
    assert result.code == 0, result.err
    sweep = json.loads((place / "run" / "layer.json").read_text())
    assert sweep["edits"] == ["france"]
    assert json.loads((place / "run" / "run.json").read_text())["config"]["layer"] == sweep["chosen"]
    assert "as well" not in result.err
