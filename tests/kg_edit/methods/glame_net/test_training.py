"""Training the network: it learns, it can be killed, and what is excluded is neither read nor learned."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.errors import ConfigError
from kg_edit.methods.glame_net import training
from kg_edit.methods.glame_net.network import FORMAT, NetManifest
from kg_edit.methods.glame_net.training import TrainingData, train
from kg_edit.methods.trained.files import NETWORK
from kg_edit.methods.trained.training import CHECKPOINT, Passes
from kg_edit.models.hooks import untouched
from kg_edit.ripples.drawn import Excluded, training_edits
from tests.kg_edit.methods.glame_net.examples import CAPITALS, PLACES, edits, graph, quick
from tests.kg_edit.methods.mend.examples import hooks_of, weights_of
from tests.kg_edit.ripples.toy import table_of
from tests.kg_edit.tiny import tiny

NOTHING = Excluded()
FEW = {"validation": 2, "validate_every": 3}  # validations
LEARNING = {
    "gradient": False,
    "steps": 24,
    "batch": 8,
    "validate_every": 8,
    "learning_rate": 0.02,
    "clamp_norm_factor": 8.0,
    "kl_weight": 0.0,
    "own": 0,
    "composed": 0,
    "context_lengths": (),
}


def made(out: Path, *, excluded: Excluded = NOTHING, **settings: Any) -> NetManifest:
    chosen = quick(**settings)
    return train(
        tiny("llama"), graph(), edits(), chosen, out, excluded=excluded, progress=False, checkpoint_seconds=0.0
    )


def data_of(*, excluded: Excluded = NOTHING, **settings: Any) -> TrainingData:
    with untouched(tiny("llama")):
        return TrainingData.of(tiny("llama"), graph(), edits(), quick(**settings), excluded=excluded)


@pytest.mark.slow
def test_training_lowers_the_loss_of_held_out_objects(tmp_path: Path) -> None:
    manifest = made(tmp_path, **LEARNING)
    first, best = manifest.validations[0], min(manifest.validations, key=lambda found: found.total)
    assert first.step == 0 and first.kl == 0 and best.nll < first.nll - 0.2
    assert manifest.steps == best.step > 0
    assert manifest.targets == len(PLACES) - 2 and manifest.examples == 6 * manifest.targets
    assert FORMAT.manifest(tmp_path / NETWORK, NetManifest) == manifest


@pytest.mark.slow
def test_untrained_network_goes_down_the_gradient(tmp_path: Path) -> None:
    """The first validation is of one step down the gradient, which other prompts' losses do not decide."""
    with_gradient = made(tmp_path / "with", steps=1).validations[0]
    without = made(tmp_path / "without", steps=1, gradient=False).validations[0]
    assert with_gradient.nll < without.nll - 0.1
    assert with_gradient.kl > 0.1 and without.kl == pytest.approx(0.0, abs=1e-5)  # of rounded numbers


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "whole", **FEW)
    whole, calls = training._Run.backward, []

    def killed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # in a round of batches whose clean states are then computed again
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(training._Run, "backward", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "part", **FEW)
    assert (tmp_path / "part" / CHECKPOINT).is_file() and not (tmp_path / "part" / NETWORK).exists()
    monkeypatch.setattr(training._Run, "backward", whole)
    made(tmp_path / "part", **FEW)
    for name in (NETWORK, "run.json"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "part" / CHECKPOINT).exists()


def test_clean_states_are_computed_once_for_several_visits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = Passes.batch
    monkeypatch.setattr(Passes, "batch", lambda passes, number: seen.append(number) or whole(passes, number))
    made(tmp_path, steps=8, cached=2, visits=2, gradient=False, validation=1, validate_every=8)
    assert seen == [0, 1, 2, 3]


def test_training_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = copy.deepcopy(tiny("llama"))
    model.model.train()
    weights, random = weights_of(model), torch.get_rng_state()
    train(model, graph(), edits(), quick(steps=1), tmp_path, progress=False)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters()) and model.model.training
    assert hooks_of(model) == 0 and torch.equal(torch.get_rng_state(), random)


def test_excluded_things_are_neither_edited_nor_read() -> None:
    gone = Excluded(names=frozenset({"lebron james", "london", "lima"}))
    with_all, without = data_of(validation=99), data_of(validation=99, excluded=gone)
    for whole, expected in ((with_all, True), (without, False)):
        examples = [*whole.learned, *whole.held_out]
        assert any(one.edit.subject == "LeBron James" for one in examples) is expected
        assert any(one.edit.target_new == "London" for one in examples) is expected
        assert any("Lima" in one.graph.nodes for one in examples) is expected
        assert any(fact.target == "Lima" for one in examples for fact in one.composed) is expected
    assert len(without.learned) + len(without.held_out) == 5 * 7


def test_held_out_objects_are_in_no_training_edit() -> None:
    found = data_of()
    learned, held = ({one.edit.target_new for one in some} for some in (found.learned, found.held_out))
    assert len(held) == 2 and not learned & held and learned | held == set(PLACES)


def test_held_out_relations_are_read_but_never_learned() -> None:
    found = data_of(held_out=("P36",), composed=5)
    asked = [found.visits.request(one, seed="any") for one in found.learned]
    texts = [row.prompt.text for request in asked for row in request.further]
    assert any("continent" in text for text in texts) and not any("capital" in text for text in texts)
    assert {fact.target for one in found.held_out for fact in one.held_out} <= set(CAPITALS)
    assert all("capital" in one.graph.edges for one in found.learned)


@pytest.mark.slow
def test_validation_has_the_loss_of_held_out_relations(tmp_path: Path) -> None:
    one, other = made(tmp_path / "one", steps=1), made(tmp_path / "other", steps=1, held_out=("P36",))
    assert one.validations[0].held_out is None and other.validations[0].held_out is not None
    assert other.validations[0].composed != one.validations[0].composed


def test_too_few_edits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="of 48 edits, 36 can be used for training and 6 for validation; expected at least 40"
    ):
        made(tmp_path, batch=40)


def test_training_edits_are_drawn_from_a_graph(tmp_path: Path) -> None:
    """By hand from the toy graph: cities and the countries in which they do not lie."""
    table = table_of(tmp_path)
    drawn = training_edits(table, ["P17"], n=100, seed=0, excluded=NOTHING, per_subject=3)
    countries = {"Q11", "Q12", "Q14", "Q16"}  # Norway is an object too; the Papal States are of the past
    assert {edit.target_new_id for edit in drawn} == countries | {"Q15"}
    assert {edit.subject for edit in drawn} >= {"Rome", "Milan", "Osaka", "Kyoto"}
    assert all(edit.target_new_id not in table.objects(edit.subject_id or "", "P17") for edit in drawn)
    assert len({edit.id for edit in drawn}) == len(drawn) == 3 * len({edit.subject for edit in drawn})
    assert drawn == training_edits(table, ["P17"], n=100, seed=0, excluded=NOTHING, per_subject=3)
    assert drawn != training_edits(table, ["P17"], n=100, seed=1, excluded=NOTHING, per_subject=3)


def test_training_edits_leave_out_excluded_things(tmp_path: Path) -> None:
    gone = Excluded(ids=frozenset({"Q12"}), names=frozenset({"milan"}))
    drawn = training_edits(table_of(tmp_path), ["P17"], n=100, seed=0, excluded=gone, per_subject=3)
    assert drawn and not {"Q2", "Q12"} & {item for edit in drawn for item in (edit.subject_id, edit.target_new_id)}


def test_relation_without_a_noun_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="relation P9999 has no noun or no template"):
        training_edits(table_of(tmp_path), ["P9999"], n=1, seed=0, excluded=NOTHING, per_subject=1)
