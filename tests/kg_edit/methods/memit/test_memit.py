"""MEMIT, and what holds for every method that writes a batch at once; against the published program too."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.descent import descend
from kg_edit.methods.memit import joint_method
from kg_edit.methods.memit.joint_config import default_layers
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import sample_started_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import edit_norms
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.methods.memit.joint import BARE, EDITS, JOINT, change, joint, state_at
from tests.kg_edit.tiny import same_weights, tiny, weights_of


def test_last_layer_reaches_z() -> None:
    """With next to no weight on C the block's output is z."""
    model = tiny("llama")
    method = joint("memit", model, contexts=BARE, mom2_weight=1e-8)
    patch = method.edit(EDITS)
    assert isinstance(patch, WeightPatch)
    for number, edit in enumerate(EDITS):
        record, z = patch.edits[number], patch.state["value"][:, number]
        *_, clean = state_at(model, edit, 2)
        assert float((z - clean).norm()) == pytest.approx(record["norms"]["change"], rel=1e-4)
        assert float(clean.norm()) == pytest.approx(record["norms"]["value"], rel=1e-4)
        assert record["norms"]["change"] <= 0.7501 * record["norms"]["value"]
        assert record["norms"]["update"] == pytest.approx(edit_norms(patch)[number], rel=1e-4)
        assert record["loss_after"] < record["loss_before"]
        with patch.applied(model):
            *_, edited = state_at(model, edit, 2)
        assert (edited - z).norm() < 1e-3 * z.norm()


@pytest.mark.slow
def test_default_weight_of_c_is_a_tenth_of_d_ff() -> None:
    model = tiny("llama")
    default, set_, published = (
        change(joint("memit", model, mom2_weight=weight).edit(EDITS), model, 1) for weight in (None, 4.8, 20_000.0)
    )
    torch.testing.assert_close(default, set_)
    assert MemitConfig.preset("paper").mom2_weight == 20_000 and published.norm() < 0.1 * default.norm()


@pytest.mark.parametrize("name", keep_first(JOINT, keep=1))
def test_without_equals_a_new_batch_of_the_rest(name: str) -> None:
    model = tiny("llama")
    method = joint(name, model)
    remaining, fresh = method.without(method.edit(EDITS), ["2"]), method.edit([EDITS[0], EDITS[2]])
    assert isinstance(fresh, WeightPatch) and isinstance(remaining, WeightPatch)
    for layer in method.layers:
        expected = change(fresh, model, layer)
        assert (change(remaining, model, layer) - expected).norm() < 1e-4 * expected.norm()
    assert [record["edit"]["id"] for record in remaining.edits] == ["1", "3"]
    assert [record["norms"] for record in remaining.edits] == [
        {key: pytest.approx(value, rel=1e-3) for key, value in record["norms"].items()} for record in fresh.edits
    ]
    torch.testing.assert_close(remaining.state["value"], fresh.state["value"], rtol=1e-4, atol=1e-4)
    assert remaining.state.keys() == fresh.state.keys()
    assert remaining.provenance["weight_norms"] == fresh.provenance["weight_norms"], "its size can be judged alone"
    again = method.without(remaining, ["1"])  # what is left can be taken apart as well
    alone = change(method.edit([EDITS[2]]), model, method.layers[-1])
    assert (change(again, model, method.layers[-1]) - alone).norm() < 1e-4 * alone.norm()
    assert method.without(remaining, ["1", "3"]).is_empty


@pytest.mark.slow
@pytest.mark.parametrize("name", keep_first(JOINT, keep=1))
def test_without_works_on_several_batches_on_top_of_another_patch(name: str) -> None:
    """An edit of the last batch: the earlier batches come out as they were, the rest of the last one as if fresh."""
    model = tiny("llama")
    method = joint(name, model)
    ground = joint("memit", model).edit([Edit(id="0", subject="Paris", prompt="{} is", target_new="Lakers")])
    first = method.edit(EDITS[:1], before=ground)
    both = first + method.edit(EDITS[1:], before=ground + first)
    remaining = method.without(both, ["2"], before=ground)
    expected = first + method.edit(EDITS[2:], before=ground + first)
    for layer in method.layers:
        update = change(expected, model, layer)
        assert (change(remaining, model, layer) - update).norm() < 1e-4 * update.norm()
    assert [record["batch"] for record in remaining.edits] == [1, 1]


@pytest.mark.slow
def test_without_refuses_a_patch_of_other_settings_or_without_values(tmp_path: Path) -> None:
    model = tiny("llama")
    method = joint("memit", model)
    patch = method.edit(EDITS)
    assert isinstance(patch, WeightPatch)
    with pytest.raises(PatchError, match="no edit '7'"):
        method.without(patch, ["7"])
    with pytest.raises(PatchError, match="the current settings"):
        joint("memit", model, mom2_weight=7.0).without(patch, ["1"])
    with pytest.raises(PatchError, match="the current settings"):
        joint("emmet", model).without(patch, ["1"])
    for stateless in (-patch, replace(patch, state={})):
        with pytest.raises(PatchError, match="does not contain the values"):
            method.without(stateless, ["1"])
    kept = Patch.load(patch.save(tmp_path / "patch.safetensors"))
    expected = change(method.without(patch, ["1"]), model, 2)
    torch.testing.assert_close(change(method.without(kept, ["1"]), model, 2), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", keep_first(JOINT))
def test_memory_limit_changes_the_descents_but_no_patch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = tiny("llama"), list[int]()
    original = descend

    def counted(loss: Any, delta: Any, stops: Any) -> Any:
        sizes.append(len(loss.value))
        return original(loss, delta, stops)

    monkeypatch.setattr(joint_method, "descend", counted)
    method, frugal = joint(name, model), joint(name, model)
    frugal.memory = 0.08
    expected, limited = method.edit(EDITS), frugal.edit(EDITS)
    assert sizes[0] == 3 and len(sizes) > 2
    layer = method.layers[-1]
    torch.testing.assert_close(change(limited, model, layer), change(expected, model, layer), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", keep_first(JOINT))
def test_failure_in_the_last_layer_leaves_the_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last layer's system, when the layers before are changed already."""
    model = tiny("llama")
    method = joint(name, model)
    weights = weights_of(model)
    original = type(method).directions

    def failing(self: Any, layer: int, *args: Any, **named: Any) -> Any:
        if layer == method.layers[-1]:
            raise RuntimeError("out of memory")
        return original(self, layer, *args, **named)

    monkeypatch.setattr(type(method), "directions", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        method.edit(EDITS)
    assert same_weights(model, weights)


def test_nan_value_is_refused_with_the_name_of_its_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    method = joint("memit", tiny("llama"))
    original = method.propose

    def poisoned(edits: Sequence[Edit], values: torch.Tensor) -> Any:
        delta, notes = original(edits, values)
        delta.change().data[edits.index(EDITS[1])] = float("nan")
        return delta, notes

    monkeypatch.setattr(method, "propose", poisoned)
    with pytest.raises(PatchError, match="not finite") as caught:
        method.edit(EDITS)
    assert "the edit '2'" in caught.value.__notes__[0]


def test_layers() -> None:
    assert default_layers(30) == default_layers(32) == (4, 5, 6, 7, 8)
    assert default_layers(12) == (1, 2, 3)
    assert default_layers(48) == (8, 9, 10, 11, 12)
    assert default_layers(4) == (1,) and default_layers(1) == (0,)
    assert Memit(tiny("llama"), MemitConfig()).layers == (1,)


def test_contexts_go_on_from_their_words() -> None:
    model = tiny("llama")
    contexts = sample_started_contexts(model, starts=("The", "Spike Hughes", "Paris"), tokens=4)
    assert contexts[0] == "{}" and len(contexts) == 4
    for start, context in zip(("The", "Spike Hughes", "Paris"), contexts[1:], strict=True):
        assert context.startswith(start) and context.endswith(". {}")
    assert contexts == sample_started_contexts(model, starts=("The", "Spike Hughes", "Paris"), tokens=4)
    assert contexts != sample_started_contexts(model, starts=("The", "Spike Hughes", "Paris"), tokens=4, seed=1)
    assert sample_started_contexts(model, starts=()) == ("{}",)


@pytest.fixture(scope="module")
def oracle(shared: Path, smollm2: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The published MEMIT's updates, and our MEMIT with its contexts, text and settings."""
    described = json.loads((shared / "oracle" / "factors.json").read_text())
    memit = described["memit"]
    lines = (shared / "wikitext2" / "valid.txt").read_text().splitlines(keepends=True)
    text = tmp_path_factory.mktemp("oracle") / "text.txt"
    text.write_text("".join([line for line in lines if len(line) > 200][:400]))
    moments = find_covariances(
        smollm2,
        memit["layers"],
        CovarianceConfig(corpus=str(text), tokens=63_030, ridge=0.0),
        folder=text.parent,
        progress=False,
    )
    settings = {name: memit[name] for name in ("steps", "learning_rate", "weight_decay", "clamp_norm_factor")}
    settings |= {"layers": memit["layers"], "kl_weight": memit["kl_weight"], "mom2_weight": memit["mom2_weight"]}
    contexts = tuple(context for group in memit["contexts"] for context in group)
    method = Memit(smollm2, MemitConfig.preset("paper", settings), contexts=contexts, covariances=moments)
    return described["rome"]["records"], load_file(shared / "oracle" / "factors.safetensors"), method


@pytest.mark.slow
@pytest.mark.timeout(3600)  # C of five layers from 63,030 tokens
def test_parity_with_the_published_program(oracle: Any) -> None:
    """The change of each layer's weight for a batch of eight, within 1e-3 in Frobenius norm."""
    records, tensors, method = oracle
    edits = [
        Edit(
            id=str(record["case_id"]),
            subject=record["subject"],
            prompt=record["prompt"],
            target_new=record["target"].strip(),
        )
        for record in records
    ]
    patch = method.edit(edits)
    for layer in method.layers:
        published = tensors[f"memit.{layer}.resid"] @ tensors[f"memit.{layer}.adj_k"].T
        update = patch.factors[method.model.weight_name(layer)].product
        assert (update - published).norm() < 1e-3 * published.norm(), layer


def test_contexts_of_a_model_in_training_mode_are_sampled_without_its_dropout() -> None:
    """`check` asks for them before `prepare` does, and they are kept."""
    training = copy.deepcopy(tiny("gpt2"))
    training.model.train()
    settings = {"context_starts": ["The", "Paris"], "context_tokens": 6}
    methods = [Memit(model, MemitConfig.preset("default", settings)) for model in (tiny("gpt2"), training)]
    for method in methods:
        method.check(EDITS[:1])
    assert methods[0].contexts == methods[1].contexts and training.model.training
