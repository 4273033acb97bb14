"""What holds for every method on every kind of family: the model is left alone, and the patch is a good citizen."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from _pytest.mark.structures import ParameterSet

from kg_edit.edits.edit import Edit, Question
from kg_edit.errors import ChatTemplateError, ModelError
from kg_edit.methods import EditingMethod, find_method, method_names
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.container import read_patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK, UNTRAINED
from tests.kg_edit.methods.refusals import (
    check_refusal,
    refusal_of_family,
    refusal_of_graph,
    refusal_of_mishap,
    refusal_of_no_number,
    settings_of_family,
)
from tests.kg_edit.methods.test_methods import graph, state
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.tiny import KINDS_OF_FAMILY, same_weights, tiny, weights_of

EDIT = Edit(
    id="1",
    subject="LeBron James",
    prompt="{} plays for",
    relation="member of sports team",
    target_true="Miami Heat",
    target_new="Los Angeles Lakers",
    paraphrases=("The team of LeBron James is",),
    neighborhood=("Dwyane Wade plays for",),
    portability=(Question(question="In which city does LeBron James work?", answer="Los Angeles"),),
)
SECOND = Edit(
    id="2",
    subject="France",
    prompt="In {}, the capital is",
    relation="capital",
    target_true="Paris",
    target_new="Rome",
    target_new_id="Q4",
)
METHODS = sorted(QUICK)
GRAPH_VALUES = {"glame", "glame-batch", "glame-gnn", "glame-random"}  # their values come from messages of a graph
# One for each way to compute a patch and each kind of it: these meet every family and every odd input every day
SIX = ("ft", "glame", "grace", "ike", "memit", "rome")


def grid(
    names: Sequence[str], values: Sequence[Any], *, of_all: int = 1, few: Collection[str] = SIX
) -> list[ParameterSet]:
    """Pairs of a method and a value: all with the first ``of_all`` values, ``few`` with the others; else slow."""
    slow = {False: (), True: (pytest.mark.slow,)}
    often = values[:of_all]
    return [pytest.param(n, v, marks=slow[v not in often and n not in few]) for v in values for n in names]


# Variants of another method: a setting or a term of the loss differs. They meet the matrix in `make test-all` alone.
VARIANTS = (
    *("adalora", "calinet", "defer", "eamet", "emmet", "ft-constrained", "ft-ewc", "ft-l", "ft-m", "ft-retrain"),
    *("glame-gnn", "glame-mlp", "glame-random", "locft", "malmen", "melo", "memoe", "memory", "pmet", "r-rome"),
    *("rledit", "rome-kg", "memit-kg", "definition", "memprompt"),
)


# Every day: all methods but the variants on Llama, and one of each kind of patch on the other families
ON_FAMILIES = [
    *grid([name for name in METHODS if name not in VARIANTS], KINDS_OF_FAMILY, few=("grace", "ike", "memit")),
    *grid(VARIANTS, KINDS_OF_FAMILY, of_all=0, few=()),
]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Covariances are measured once for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KG_EDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def method(name: str, model: LanguageModel, **settings: Any) -> EditingMethod:
    return on_tiny(name, model, graph=graph(), **settings)


@cache
def patch_of_both(name: str, family: str) -> tuple[Patch, bool]:
    """The patch of both edits, and whether the model is as it was; a family that the method refuses is skipped."""
    model = copy.deepcopy(tiny(family))
    model.model.train()
    next(model.model.parameters()).requires_grad_(False)
    weights, before = weights_of(model), state(model)
    if refusal := refusal_of_family(name, family):
        with pytest.raises(refusal.error, match="normalises after its MLP") as caught:
            method(name, model).edit([EDIT, SECOND])
        check_refusal(caught.value, refusal)
        assert state(model) == before and same_weights(model, weights)
        pytest.skip(f"{name} says: {caught.value}")
    patch = method(name, model, **settings_of_family(name, family)).edit([EDIT, SECOND])
    return patch, state(model) == before and same_weights(model, weights)


@torch.no_grad()
def logits_after(model: LanguageModel, text: str = EDIT.text) -> torch.Tensor:
    """The logits after a text, as whoever asks the model gets them."""
    ids = torch.tensor([model.encode(text).ids], device=model.device)
    logits: torch.Tensor = model.model(ids).logits[0, -1].float()
    return logits


def marked(names: Sequence[str]) -> list[ParameterSet]:
    """The methods of ``names``: `SIX` every day, the others are slow."""
    return [pytest.param(name, marks=() if name in SIX else pytest.mark.slow) for name in names]


def test_methods_are_all_in_the_matrix() -> None:
    assert set(QUICK) == set(method_names())


@pytest.mark.parametrize("name", METHODS)
def test_method_is_described(name: str) -> None:
    chosen = find_method(name)
    assert (chosen.name, bool(chosen.entry.about), bool(chosen.entry.paper)) == (name, True, True)
    undescribed = [field for field, info in chosen.config_class.model_fields.items() if not info.description]
    assert undescribed == []


# glame-plus's answers need a later layer; serac's network is made at the first edit
LAYERED = [name for name in METHODS if name not in ("glame-plus", "serac")
           and {"layer", "layers"} & find_method(name).config_class.model_fields.keys()]  # fmt: skip


@pytest.mark.parametrize("name", LAYERED)
def test_layer_that_is_not_there_is_refused(name: str) -> None:
    single_layer = "layer" in find_method(name).config_class.model_fields
    with pytest.raises(ModelError, match="there is no layer 9: "):
        method(name, tiny("llama"), **({"layer": 9} if single_layer else {"layers": [1, 9]}))


@pytest.mark.parametrize("name, family", ON_FAMILIES)
def test_edit_and_apply_leave_the_model_unchanged(name: str, family: str) -> None:
    patch, untouched = patch_of_both(name, family)
    assert untouched
    assert patch.changed_part == find_method(name).changed_part and patch.mergeable == (patch.changed_part == "weights")
    assert [edit["edit"]["id"] for edit in patch.edits] == ["1", "2"]
    model = tiny(family)
    weights, before, clean = weights_of(model), state(model), logits_after(model)
    with patch.applied(model) as edited:
        changed = logits_after(edited)
    assert torch.isfinite(changed).all() and not torch.equal(changed, clean)
    assert state(model) == before and same_weights(model, weights)


@pytest.mark.parametrize("name, family", ON_FAMILIES)
def test_patch_is_read_back_as_saved(name: str, family: str, tmp_path: Path) -> None:
    patch, _ = patch_of_both(name, family)
    path, model = patch.save(tmp_path / "patch.safetensors"), tiny(family)
    again = Patch.load(path)
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    if patch.changed_part != "weights":  # those of weights are stored in another form
        assert patch.nbytes == again.nbytes == sum(tensor.nbytes for tensor in read_patch(path).tensors.values())
    with patch.applied(model) as edited:
        expected = logits_after(edited)
    with again.applied(model) as edited:
        assert torch.equal(logits_after(edited), expected)


@pytest.mark.parametrize("name", marked(METHODS))
def test_same_inputs_give_the_same_file(name: str, tmp_path: Path) -> None:
    first = patch_of_both(name, "llama")[0].save(tmp_path / "1.safetensors")
    torch.rand(7)  # whatever else draws in between
    again = method(name, tiny("llama")).edit([EDIT, SECOND]).save(tmp_path / "2.safetensors")
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("name", marked(METHODS))
def test_update_is_the_rest_of_an_edit(name: str) -> None:
    """In one go, or one call after the other: what `update` gives is what a sequence of calls is made of."""
    model = tiny("llama")
    chosen = method(name, model)
    first = chosen.edit([EDIT])
    both, update = chosen.edit([SECOND], start=first), chosen.edit([SECOND], before=first)
    with both.applied(model) as edited:
        expected = logits_after(edited, SECOND.text)
    with (first + update).applied(model) as edited:
        torch.testing.assert_close(logits_after(edited, SECOND.text), expected, rtol=1e-4, atol=1e-4)
    assert [edit["edit"]["id"] for edit in update.edits] == ["2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rome", "wise", "memit", "kn"])
def test_update_of_a_model_in_training_mode_has_no_dropout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`update` asks for the provenance before `prepare` has measured anything."""
    settings = {"anchor": 1e6} if "anchor" in find_method(name).config_class.model_fields else {}
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "evaluating"))
    expected = method(name, tiny("gpt2"), **settings).edit([EDIT])
    model = copy.deepcopy(tiny("gpt2"))
    model.model.train().requires_grad_(True)
    before = state(model)
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "training"))
    update = method(name, model, **settings).edit([EDIT])
    assert state(model) == before
    assert (
        update.save(tmp_path / "1.safetensors").read_bytes() == expected.save(tmp_path / "2.safetensors").read_bytes()
    )


@pytest.mark.parametrize("gone", keep_first(["1", "2"]))
@pytest.mark.parametrize("name", marked(METHODS))
def test_edit_is_removed_from_a_ledger(name: str, gone: str, tmp_path: Path) -> None:
    """After it the model is the one that never had the edit, by whatever way the method allows."""
    model = tiny("llama")
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(patch_of_both(name, "llama")[0], force=True)  # toy edits are wild
    ledger.remove([gone], model=model, graph=graph())
    other = SECOND if gone == "1" else EDIT
    with method(name, model).edit([other]).applied(model) as edited:
        expected = logits_after(edited, other.text)
    with ledger.patch.applied(model) as edited:
        torch.testing.assert_close(logits_after(edited, other.text), expected, rtol=1e-3, atol=1e-3)
    assert [entry.name for entry in ledger.edits if entry.state == "active"] == [other.id]


JOINT = [name for name in METHODS if find_method(name).joint]


@pytest.mark.parametrize("name", keep_first(["mend", *sorted({*JOINT} - {"mend"})], keep=1))
def test_edit_is_removed_from_a_sequence_of_batches(name: str, tmp_path: Path) -> None:
    """The rest is a sequence again, not one batch."""
    model, third = tiny("llama"), SECOND.model_copy(update={"id": "3", "subject": "Spike Hughes", "prompt": "{} is in"})
    editor = method(name, model, **({"edit_lr": 0.5} if name in UNTRAINED else {}))

    def sequence(*edits: Edit) -> Patch:
        patch = editor.edit(edits[:1])
        for edit in edits[1:]:
            patch = editor.edit([edit], start=patch)
        return patch

    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(sequence(EDIT, SECOND, third), force=True)  # toy edits are wild
    ledger.remove(["1"], model=model, graph=graph())
    for text in (SECOND.text, third.text):
        with sequence(SECOND, third).applied(model) as edited:
            expected = logits_after(edited, text)
        with ledger.patch.applied(model) as edited:
            torch.testing.assert_close(logits_after(edited, text), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", marked(METHODS))
def test_edit_each_equals_one_call_per_edit(name: str) -> None:
    model = tiny("llama")
    for edit, patch in zip((EDIT, SECOND), method(name, model).edit_each([EDIT, SECOND]), strict=True):
        assert isinstance(patch, Patch)
        alone = method(name, model).edit([edit])
        assert patch.provenance.get("weight_norms") == alone.provenance.get("weight_norms")
        shares = [made.edits[0].get("share_by_messages", ()) for made in (patch, alone)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-3) and bool(shares[0]) == (name in GRAPH_VALUES)
        with alone.applied(model) as edited:
            expected = logits_after(edited, edit.text)
        with patch.applied(model) as edited:
            torch.testing.assert_close(logits_after(edited, edit.text), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", marked(METHODS))
def test_failure_leaves_the_model_unchanged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    chosen = method(name, model)
    chosen.prepare()
    weights, before, calls = weights_of(model), state(model), list[int]()
    forward = type(model.block(2)).forward

    def failing(self: torch.nn.Module, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == (3 if chosen.family == "gradient" else 6):  # in the second pass over the blocks, or the only
            raise RuntimeError("the power is gone")
        return forward(self, *args, **options)

    monkeypatch.setattr(type(model.block(2)), "forward", failing)
    if chosen.changed_part != "prompt":  # which needs no pass
        with pytest.raises(RuntimeError, match="the power is gone"):
            chosen.edit([EDIT, SECOND])
    monkeypatch.undo()
    assert state(model) == before and same_weights(model, weights)


@pytest.mark.parametrize("name", marked(METHODS))
def test_nan_model_gives_no_nan_patch(name: str) -> None:
    """A model that computes nonsense gives an error that says so and names the edit; no loss, no error."""
    model = copy.deepcopy(tiny("llama"))
    chosen = method(name, model)
    chosen.prepare()
    with torch.no_grad():
        model.model.get_output_embeddings().weight.mul_(float("inf"))
    if refusal := refusal_of_no_number(name):
        with pytest.raises(refusal.error) as caught:
            chosen.edit([EDIT])
        check_refusal(caught.value, refusal)
        return
    patch = chosen.edit([EDIT])
    patch.check_finite()
    json.dumps(patch.provenance, allow_nan=False)  # a loss that is no number is no success either


@pytest.mark.parametrize("name", marked([name for name in METHODS if find_method(name).family != "in-context"]))
def test_edit_that_fails_takes_no_other_with_it(name: str) -> None:
    """The model has no chat template."""
    chosen, broken = method(name, tiny("llama")), SECOND.with_form(chat=True).model_copy(update={"id": "broken"})
    first, failed, last = chosen.edit_each([EDIT, broken, SECOND])
    assert isinstance(failed, ChatTemplateError) and "'broken'" in "".join(failed.__notes__)
    assert [patch.edits[0]["edit"]["id"] for patch in (first, last) if isinstance(patch, Patch)] == ["1", "2"]
    with pytest.raises(ChatTemplateError):
        chosen.check([EDIT, broken])


MISHAPS = {
    "a one-token subject": [Edit(id="1", subject="I", prompt="{} live in", target_true="Paris", target_new="Rome")],
    "a repeated edit": [EDIT, EDIT.model_copy(update={"id": "again"})],
    "contradictory edits": [EDIT, EDIT.model_copy(update={"id": "other", "target_new": "Paris"})],
    "a subject at the end": [Edit(id="1", subject="Rome", prompt="Go to {}", target_true="now", target_new="later")],
    "no old target": [Edit(id="1", subject="France", prompt="In {}, the capital is", target_new="Rome")],
}


@pytest.mark.parametrize("name, mishap", grid(METHODS, list(MISHAPS), of_all=0, few=("glame", "ike")))
def test_odd_edit_is_made_or_refused(name: str, mishap: str) -> None:
    """Which of both, with which error, and what it names: `refusals`."""
    model, edits = tiny("llama"), MISHAPS[mishap]
    weights = weights_of(model)
    if refusal := refusal_of_mishap(name, mishap):
        with pytest.raises(refusal.error) as caught:
            method(name, model).edit(edits)
        check_refusal(caught.value, refusal)
    else:
        patch = method(name, model).edit(edits)
        patch.check_finite()
        assert [record["edit"]["id"] for record in patch.edits] == [edit.id for edit in edits]
        with patch.applied(model) as edited:
            assert torch.isfinite(logits_after(edited)).all()
    assert same_weights(model, weights)


class Nothing:
    """A source of subgraphs that knows no statement at all."""

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        return nx.MultiDiGraph()


def nothing_said() -> nx.MultiDiGraph:
    """The graph's new object, of which nothing is said: what is left is the edit's own edge."""
    subgraph = nx.MultiDiGraph()
    subgraph.add_node("Q2", label=EDIT.target_new)
    return subgraph


EMPTY: dict[str, Callable[[], Any]] = {
    "nothing is said of o*": nothing_said,
    "o* is not there": nx.MultiDiGraph,
    "not even the edit's edge": Nothing,
}


@pytest.mark.parametrize("name, empty", grid(METHODS, list(EMPTY), of_all=0, few=("glame", "ike")))
def test_empty_subgraph_is_edited_or_refused(name: str, empty: str) -> None:
    """What asks for no graph does not mind; the others make do with the edit's edge, and without it say so."""
    model, chosen = tiny("llama"), find_method(name)
    weights, clean = weights_of(model), logits_after(model)
    editor = chosen(model, chosen.config_class.preset("default", QUICK[name]), graph=EMPTY[empty]())
    if refusal := refusal_of_graph(name, empty):
        with pytest.raises(refusal.error) as caught:
            editor.edit([EDIT])
        check_refusal(caught.value, refusal)
    else:
        patch = editor.edit([EDIT])
        with patch.applied(model) as edited:
            assert torch.isfinite(logits_after(edited)).all() and not torch.equal(logits_after(edited), clean)
    assert same_weights(model, weights)


@pytest.mark.parametrize("dtype", keep_first([torch.bfloat16, torch.float16]))
@pytest.mark.parametrize("name", marked(METHODS))
def test_half_precision_model_gets_a_float32_patch(name: str, dtype: torch.dtype) -> None:
    """The model stays in its type, the numbers of the patch are float32."""
    model = copy.deepcopy(tiny("llama"))
    model.model.to(dtype)
    weights = weights_of(model)
    patch = method(name, model).edit([EDIT])
    patch.check_finite()
    if isinstance(patch, WeightPatch):
        assert {pair.left.dtype for pair in patch.factors.values()} == {torch.float32}
    with patch.applied(model) as edited:
        assert torch.isfinite(logits_after(edited)).all()
    assert same_weights(model, weights) and model.model.dtype == dtype


@pytest.mark.parametrize("name", marked(METHODS))
def test_tied_embeddings_stay_tied(name: str) -> None:
    model = copy.deepcopy(tiny("llama"))
    hf = model.model
    hf.config.tie_word_embeddings = True
    hf.tie_weights()
    tied = LanguageModel.wrap(hf, model.tokenizer, name="tied")
    with method(name, tied).edit([EDIT]).applied(tied):
        pass
    assert hf.get_input_embeddings().weight is hf.get_output_embeddings().weight


ROUGH = [
    name
    for name in METHODS
    if "descent_dtype" in find_method(name).config_class.model_fields and find_method(name).changed_part == "weights"
]


@pytest.mark.parametrize("name", marked(ROUGH))
def test_descent_in_bfloat16_writes_in_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the descent is in bfloat16: the keys are the model's own, and the values nearly so."""
    monkeypatch.setattr("kg_edit.locate_then_edit.descent.computes_in_bfloat16", lambda: True)
    model = tiny("llama")
    weights = weights_of(model)
    exact, rough = (method(name, model, descent_dtype=dtype).edit([EDIT]) for dtype in ("model", "bfloat16"))
    assert isinstance(exact, WeightPatch) and isinstance(rough, WeightPatch)
    first = min(exact.factors)  # later layers' keys are those of a model in which the first is written
    one, other = exact.factors[first], rough.factors[first]
    assert not torch.equal(one.left, other.left), "the descent was in bfloat16"
    assert torch.cosine_similarity(one.product.flatten(), other.product.flatten(), dim=0) > 0.9
    assert {pair.left.dtype for pair in rough.factors.values()} == {torch.float32}
    assert same_weights(model, weights)
