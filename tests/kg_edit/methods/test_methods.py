"""What holds for every method: the model is left alone, m* is met, the same inputs give the same file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.descent import Descent, descend
from kg_edit.methods import find_method, method_names
from kg_edit.methods.rome import method as rome_method
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.methods.quick import UNTRAINED
from tests.kg_edit.tiny import CONFIGS, tiny

EDIT = Edit(
    id="1", subject="LeBron James", prompt="{} plays for", target_new="Los Angeles Lakers", target_true="Miami Heat"
)
SECOND = Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome")
CONTEXTS = ("{}", "The quick brown fox. {}")


def graph() -> nx.MultiDiGraph:
    subgraph = nx.MultiDiGraph()
    subgraph.add_node("Q1", label="LeBron James", role="subject")
    subgraph.add_node("Q2", label="Los Angeles Lakers", role="target_new")
    subgraph.add_node("Q3", label="Los Angeles", role="neighbour")
    subgraph.add_edge("Q1", "Q2", key="P54", label="member of sports team", role="edit")
    subgraph.add_edge("Q2", "Q3", key="P159", label="headquarters location", role="statement")
    subgraph.add_node("Q4", label="Rome")
    subgraph.add_edge("Q4", "Q5", label="capital of")
    return subgraph


def method(name: str, model: LanguageModel, **settings: Any) -> RankOneMethod:
    chosen = find_method(name)
    assert issubclass(chosen, RankOneMethod)
    config = chosen.config_class.preset(
        "default", {"layer": 1, "steps": 6, "further_steps": 0, **UNTRAINED.get(name, {}), **settings}
    )
    return chosen(
        model,
        config,  # type: ignore[arg-type]
        graph=graph(),
        contexts=CONTEXTS,
        covariance=Covariance(moment=toy_moment(model), tokens=1, ridge=0.0, id="toy"),
    )


def toy_moment(model: LanguageModel) -> Tensor:
    """A made-up C of full rank, [d_ff, d_ff]."""
    size = weight_matrix(model.down_projection(1)).shape[1]
    rotation = torch.randn(size, size, generator=torch.Generator().manual_seed(5))
    return rotation @ rotation.T / size + torch.eye(size)


def delta(patch: Patch) -> Tensor:
    (pair,) = patch.factors.values()
    return pair.left @ pair.right.T


def key_and_value(model: LanguageModel, edit: Edit, *, context: str = "{}") -> tuple[Tensor, Tensor]:
    """Input [d_ff] and output [d] of the edited module at the subject's last token, in a plain forward."""
    prompt = encode(model.tokenizer, edit.prompt, subject=edit.subject, context=context)
    seen: list[Tensor] = []
    with torch.no_grad(), watch(model.down_projection(1), lambda key, value: seen.extend((key, value))):
        model.model(torch.tensor([prompt.ids]))
    key, value = (state.reshape(len(prompt.ids), -1)[prompt.edited_at] for state in seen)
    return key, value


def value_at(model: LanguageModel, edit: Edit) -> Tensor:
    """The edited module's output at the subject's last token of the bare prompt."""
    return key_and_value(model, edit)[1]


def mean_key(model: LanguageModel, edit: Edit) -> Tensor:
    """k*, the mean of the keys in all contexts, [d_ff]."""
    return torch.stack([key_and_value(model, edit, context=context)[0] for context in CONTEXTS]).mean(0)


def hooks(model: nn.Module) -> Iterator[int]:
    for module in model.modules():
        yield len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)


def state(model: LanguageModel) -> tuple[Any, ...]:
    """All that an edit must leave as it was, but for the weights."""
    hf = model.model
    flags = [(p.requires_grad, p.grad is None, p.dtype) for p in hf.parameters()]
    return flags, [m.training for m in hf.modules()], list(hooks(hf)), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", ["rome", "glame"])
@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_failure_inside_a_block_leaves_the_model_unchanged(
    name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks are in place then: in the prefix pass, in the recording ones, in the descent."""
    model = tiny("llama")
    chosen, before, calls = method(name, model, stop_below=-1.0), state(model), []
    forward = type(model.block(2)).forward

    def failing(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4 * call:
            raise RuntimeError("a broken block")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.block(2)), "forward", failing)
    with pytest.raises(RuntimeError, match="a broken block"):
        chosen.edit([EDIT])
    assert state(model) == before


NARROW: dict[str, dict[str, Any]] = {  # as little of the graph as makes the method what it is
    "glame-plus": {"recalled": 1, "stated": 1, "answers": None, "ripple_weight": 2.0},
    "glame-random": {"pool": ["Q2", "Q4"]},
    "rome-kg": {"statements": 1, "composed": 1},
}
RANK_ONE = [name for name in method_names() if issubclass(find_method(name), RankOneMethod)]
EVERY_DAY = {("gpt2", name) for name in RANK_ONE} | {
    (family, "glame") for family in ("llama", "gemma2", "gptj", "falcon")
}
EVERYWHERE = [
    pytest.param(family, name, marks=() if (family, name) in EVERY_DAY else pytest.mark.slow)
    for family in CONFIGS
    for name in RANK_ONE
    if not (name == "glame-plus" and family in ("lfm2", "lfm3", "qwen3_5_text"))  # recurrent blocks, which it refuses
]


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """m* - m [d] that each descent of a test came to, in order."""
    deltas: list[Tensor] = []

    def noting(*args: Any, **settings: Any) -> list[Descent]:
        descents = descend(*args, **settings)
        deltas.extend(descent.change.clone() for descent in descents)
        return descents

    monkeypatch.setattr(rome_method, "descend", noting)
    return deltas


def test_rank_one_methods_are_all_tested() -> None:
    expected = {"glame", "glame-gnn", "glame-mlp", "glame-plus", "glame-random", "r-rome", "rome", "rome-kg"}
    assert expected <= set(RANK_ONE)


@pytest.mark.parametrize(("family", "name"), EVERYWHERE)
def test_output_for_the_edited_key_is_m_star(family: str, name: str, changes: list[Tensor]) -> None:
    """Invariant 3, on every family: |W' k + b - m*| < 1e-4 |m*|, W' the least change of W for it, as C weighs it.

    k is the bare prompt's key, so that this is the module's output at the subject's last token; R-ROME's is the mean
    key. All but the change that the descent came to is read in plain forwards. ROME-KG writes a request at a time.
    """
    model = tiny(family)
    patch = method(name, model, steps=3, stop_below=-1.0, hold=0.0, **NARROW.get(name, {})).edit([EDIT])
    record = patch.provenance["edits"][0]
    requests = [EDIT, *(Edit(**row["edit"]) for row in record.get("requests", ()))]
    assert (len(requests), len(changes)) == (3, 3) if name == "rome-kg" else (1, 1)
    for number, (request, change) in enumerate(zip(requests, changes, strict=True)):
        bare, mean = key_and_value(model, request)[0], mean_key(model, request)
        key = mean if name == "r-rome" else bare
        with first_columns(patch, number).applied(model):
            m_star = key_and_value(model, request)[1] + change
        with first_columns(patch, number + 1).applied(model):
            output = key_and_value(model, request)[1] + weight_matrix(model.down_projection(1)) @ (key - bare)
        assert change.norm() > 0.01 and (output - m_star).norm() < 1e-4 * m_star.norm()
        along = torch.linalg.solve(toy_moment(model).double(), mean.double())
        assert (column(patch, number) - along / along.norm()).norm() < 1e-4
    assert record["norms"]["change"] == pytest.approx(float(changes[0].norm()), rel=1e-4)
    assert record["loss_after"] < record["loss_before"]


def first_columns(patch: Patch, count: int) -> Patch:
    """What the first ``count`` of a patch's rank-one updates change."""
    assert isinstance(patch, WeightPatch)
    return WeightPatch(
        factors={name: Factors(left=p.left[:, :count], right=p.right[:, :count]) for name, p in patch.factors.items()}
    )


def column(patch: Patch, number: int) -> Tensor:
    """The direction in which one of a patch's rank-one updates reads a key, [d_ff] in float64."""
    assert isinstance(patch, WeightPatch)
    (pair,) = patch.factors.values()
    return pair.right[:, number].double()


def test_rome_clamps_its_change() -> None:
    patch = method("rome", tiny("llama"), clamp_norm_factor=0.25, steps=8, stop_below=-1.0).edit([EDIT])
    norms = patch.provenance["edits"][0]["norms"]
    assert norms["change"] == pytest.approx(0.25 * norms["value"], rel=1e-4)


def test_glame_with_a_gate_starts_from_the_unedited_model() -> None:
    """With the gate, step 0 is the unedited model; in the paper's setting it is not."""
    model = tiny("llama")
    gated = method("glame", model, steps=1, further_steps=0).edit([EDIT]).provenance["edits"][0]
    assert gated["norms"]["change"] == 0
    paper = (
        method("glame", model, steps=1, further_steps=0, gate=False, normalise=False)
        .edit([EDIT])
        .provenance["edits"][0]
    )
    assert paper["norms"]["change"] > 0


def test_setting_in_a_group_is_named_with_a_dot_as_on_the_command_line() -> None:
    config = find_method("rome").config_class
    settings: dict[str, Any] = {"covariance": {"corpus": "self"}, "covariance.tokens": 1000}
    both: Any = config.preset("default", settings)
    assert (both.covariance.corpus, both.covariance.tokens) == ("self", 1000)
    assert settings["covariance"] == {"corpus": "self"}, "the caller's own settings"


def test_one_layer_needs_no_list() -> None:
    config = find_method("memit").config_class.preset("default", {"layers": 5})
    assert config.model_dump()["layers"] == (5,)
