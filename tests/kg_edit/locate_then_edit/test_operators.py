"""A step of a descent dispatches few operators beside the forward and backward pass, for any number of edits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import Engine, find_engine
from kg_edit.engine.passes import PassLimit
from kg_edit.engine.tail_forward import TailForward
from kg_edit.graphs.encoding import EncodedSubgraph
from kg_edit.locate_then_edit.descent import Delta, FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty
from kg_edit.methods.glame.method import GlameConfig, GraphDelta, new_rgnn
from kg_edit.models.language_model import LanguageModel
from tests.everyday import keep_first
from tests.kg_edit.tiny import tiny

EDITS = [
    Edit(subject=subject, prompt="{} lives in", target_new=target)
    for subject in ("The lazy dog", "Spike Hughes")
    for target in ("London", "Paris")
]
CONTEXTS = ("{}", "It is known that {}", "The river and the people. {}")
LAYER = 0  # so that a step runs as many blocks as the model's own forward pass


class Operators(TorchDispatchMode):
    """Counts the operators on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation._schema.name
        self.count += name.startswith("aten::")
        return operation(*args, **(kwargs or {}))


def operators(work: Callable[[], object]) -> int:
    with Operators() as counted:
        work()
    return counted.count


Parameters = Callable[[Tensor, int], Delta]
"""(m [edits, d], number of the first edit) -> the parameters of their changes."""


def free(values: Tensor, _: int = 0) -> FreeDelta:
    return FreeDelta(values, learning_rate=1.0, clamp_norm_factor=2.0)


def graphs_made(values: Tensor, first: int = 0) -> GraphDelta:
    return GraphDelta.together([graph_made(value, edit) for edit, value in enumerate(values, first)])


def graph_made(value: Tensor, edit: int) -> GraphDelta:
    """A change by an R-GNN on a small graph, whose size depends on the edit."""
    draw, config = torch.Generator().manual_seed(edit), GlameConfig(hops=2)
    nodes = torch.randn(3 + edit, len(value), generator=draw)
    edges = torch.tensor([range(1, len(nodes)), [0] * (len(nodes) - 1)])
    graph = EncodedSubgraph(nodes=nodes, edges=edges, relations=nodes[1:], subject=0)
    return GraphDelta(graph, value, config, rgnn=new_rgnn(len(value), config))


def of_a_step(model: LanguageModel, edits: list[Edit], parameters_of: Parameters = free) -> float:
    """The operators of one step of a descent: the difference of two descents, without what happens once."""

    def descent(steps: int) -> int:
        requests = [Request.of(model, edit, CONTEXTS) for edit in edits]
        penalty = partial(norm_penalty, weight=0.5)
        engine = Engine(forward=TailForward, limit=PassLimit(10_000, padding=100))
        loss = Objective(model, LAYER, requests, kl_weight=0.06, penalty=penalty, engine=engine)
        delta = parameters_of(loss.value, 0)
        return operators(lambda: descend(loss, delta, Stops(steps=steps, stop_below=-1.0)))

    return (descent(5) - descent(2)) / 3


@pytest.mark.slow
def test_a_step_of_many_r_gnns_has_the_operators_of_one() -> None:
    assert of_a_step(tiny("llama"), EDITS, graphs_made) == of_a_step(tiny("llama"), EDITS[:1], graphs_made)


@pytest.mark.parametrize("parameters_of", keep_first([graphs_made, free]))
def test_edits_that_step_together_get_the_changes_of_those_that_step_alone(parameters_of: Parameters) -> None:
    """Also if one of them ends earlier."""
    model = tiny("llama")
    engine = find_engine(model, LAYER)
    requests = [Request.of(model, edit, CONTEXTS) for edit in EDITS]
    loss = Objective(model, LAYER, requests, kl_weight=0.06, engine=engine)
    start = loss.gradient(torch.zeros_like(loss.value))[0].nll
    stops = Stops(steps=8, stop_below=-1.0, stop_nll=float(start.sort().values[1]) - 0.01)
    together = descend(loss, parameters_of(loss.value, 0), stops)
    for edit, request in enumerate(requests):
        single = Objective(model, LAYER, [request], kl_weight=0.06, engine=engine)
        (alone,) = descend(single, parameters_of(single.value, edit), stops)
        assert len(alone.losses) == len(together[edit].losses)
        torch.testing.assert_close(together[edit].change, alone.change, rtol=1e-4, atol=1e-5)
    assert len({len(descent.losses) for descent in together}) > 1


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2", "gptj"]))
def test_a_step_has_few_operators_beside_the_models_own(family: str) -> None:
    model = tiny(family)
    flags = [weight.requires_grad for weight in model.model.parameters()]
    model.model.requires_grad_(False)
    try:
        one, four = of_a_step(model, EDITS[:1]), of_a_step(model, EDITS)
        states = torch.zeros(3, 8, model.width, requires_grad=True)
        of_the_model = operators(
            lambda: model.model(inputs_embeds=states, use_cache=False).logits.logsumexp(-1).sum().backward()
        )
    finally:
        for weight, flag in zip(model.model.parameters(), flags, strict=True):
            weight.requires_grad_(flag)
    assert four == one, "one step of the optimiser for all edits"
    assert one <= 1.15 * of_the_model
