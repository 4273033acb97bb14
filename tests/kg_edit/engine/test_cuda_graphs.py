"""A step is a pure function, so that it can be captured as a CUDA graph; here a stand-in captures it on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kg_edit.engine import cuda_graphs
from kg_edit.engine.cuda_graphs import Graphs, Repeated, RepeatedInPlace, Tensors, Work
from kg_edit.engine.fast_loss import FastLoss, find_engine
from kg_edit.locate_then_edit.descent import Descent, FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods.glame import method as glame
from tests.everyday import keep_first
from tests.kg_edit.locate_then_edit.test_operators import CONTEXTS, EDITS, graph_made, graphs_made
from tests.kg_edit.tiny import tiny


def objective(family: str) -> Objective:
    model = tiny(family)
    requests = [Request.of(model, edit, CONTEXTS) for edit in EDITS]
    return Objective(model, 1, requests, kl_weight=0.06, engine=find_engine(model, 1))


def fast(loss: Objective) -> FastLoss:
    assert loss._fast is not None
    return loss._fast


@pytest.mark.parametrize("family", keep_first(["llama", "gpt2", "gptj"]))
def test_a_step_reads_only_its_buffer(family: str) -> None:
    """Three times on one buffer, each with another change, it gives what a new objective gives for the change."""
    loss, draw = objective(family), torch.Generator().manual_seed(0)
    buffer, margin = torch.zeros_like(loss.value), torch.zeros(())
    for number in range(3):
        buffer.copy_(torch.randn(buffer.shape, generator=draw))
        margin.fill_(number)
        results = fast(loss)._compute_step(buffer, margin)
        expected = fast(objective(family))._compute_step(buffer.clone(), margin.clone())
        assert len(results) == 5, "the parts, the missed tokens and the gradient"
        assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))


def on_buffers(work: Work, example: Tensors, expected: Tensors) -> Work:
    """A stand-in for a graph: inputs and outputs are always in the same memory, and are read as soon as it has run."""
    results = [torch.empty_like(result) for result in expected]

    def replay(*now: Tensor) -> Tensors:
        for buffer, tensor in zip(example, now, strict=True):
            buffer.copy_(tensor)
        for result, value in zip(results, work(*example), strict=True):
            result.copy_(value)
        return tuple(result.clone() for result in results)

    return replay


def descended(loss: Objective, stops: Stops) -> list[Descent]:
    return descend(loss, FreeDelta(loss.value, learning_rate=1.0, clamp_norm_factor=2.0), stops)


def test_a_captured_step_gives_the_same_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when edits end, so that another pass is captured, and when targets are checked after ``steps``."""
    captures = list[int]()

    def counted(work: Work, example: Tensors, expected: Tensors) -> Work:
        captures.append(len(example[0]))
        return on_buffers(work, example, expected)

    start = objective("llama").gradient(torch.zeros_like(objective("llama").value))[0].nll
    stops = Stops(steps=6, further_steps=4, stop_below=-1.0, stop_nll=float(start.mean()) - 0.1)
    plain = descended(objective("llama"), stops)
    assert len({len(descent.losses) for descent in plain}) > 1
    monkeypatch.setattr(cuda_graphs, "capture", counted)
    monkeypatch.setattr(cuda_graphs, "run_without_waiting", lambda work, *inputs: work(*inputs))
    capturing = objective("llama")
    fast(capturing)._captures = True
    for one, other in zip(descended(capturing, stops), plain, strict=True):
        assert one.losses == other.losses and torch.equal(one.change, other.change)
    assert len(captures) == 2, "one after an edit has ended, and none for the check of the targets"


def test_a_step_that_can_not_be_captured_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried once, with the arguments and results of the first call."""
    tried = list[tuple[Tensors, Tensors]]()

    def refused(_: Work, example: Tensors, expected: Tensors) -> Work:
        tried.append((example, expected))
        raise RuntimeError("this can't be captured")

    monkeypatch.setattr(cuda_graphs, "capture", refused)
    monkeypatch.setattr(cuda_graphs, "run_without_waiting", lambda work, *inputs: work(*inputs))
    step = Repeated(capture=True)
    assert [step(lambda x: (2 * x,), torch.tensor(n))[0].item() for n in range(3, 7)] == [6, 8, 10, 12]
    assert tried == [((torch.tensor(3),), (torch.tensor(6),))]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_function_is_captured_unless_it_reads_a_number_back() -> None:
    step, pair = Repeated(capture=True), torch.ones(2, device="cuda")
    calls = list[int]()

    def sum_of(one: Tensor, other: Tensor) -> Tensors:
        calls.append(0)
        return (2 * one + other,)

    numbers = [(1.0, 0.5), (3.0, 0.0), (5.0, 1.0)]
    assert [step(sum_of, n * pair, m * pair)[0].tolist() for n, m in numbers] == [[2.5] * 2, [6.0] * 2, [11.0] * 2]
    assert len(calls) == 2, "as it is, and while it is captured"

    reading = Repeated(capture=True)
    assert [reading(lambda x: (x * float(x[0]),), n * pair)[0].tolist() for n in (1, 2)] == [[1, 1], [4, 4]]


def in_their_memory(
    work: Callable[..., Tensor], parameters: Tensors, expected: Tensor, gradients: Sequence[Tensor]
) -> Graphs:
    """A stand-in for the two graphs: parameters are read where they are, gradients are always in the same memory."""
    leaves, above = [parameter.detach().requires_grad_() for parameter in parameters], torch.empty_like(expected)
    results, buffers = list[Tensor](), tuple(torch.empty_like(gradient) for gradient in gradients)

    def replay() -> Tensor:
        results[:] = [work(*leaves)]
        return results[0].detach().clone()

    def replay_backward(gradient: Tensor) -> Tensors:
        above.copy_(gradient)
        for buffer, value in zip(buffers, torch.autograd.grad(results[0], leaves, above), strict=True):
            buffer.copy_(value)
        return buffers

    return replay, replay_backward


def by_networks(steps: int = 5, edits: int = len(EDITS)) -> list[Descent]:
    requests = [Request.of(tiny("llama"), edit, CONTEXTS) for edit in EDITS[:edits]]
    loss = Objective(tiny("llama"), 1, requests, kl_weight=0, engine=find_engine(tiny("llama"), 1))
    return descend(loss, graphs_made(loss.value), Stops(steps=steps, stop_below=-1.0))


@pytest.mark.parametrize("edits", [1, len(EDITS)])
def test_a_captured_network_gives_the_same_descent(monkeypatch: pytest.MonkeyPatch, edits: int) -> None:
    captures, plain = list[int](), by_networks(edits=edits)

    def counted(work: Callable[..., Tensor], parameters: Tensors, expected: Tensor, gradients: Tensors) -> Graphs:
        captures.append(len(expected))
        return in_their_memory(work, parameters, expected, gradients)

    monkeypatch.setattr(cuda_graphs, "capture_in_place", counted)
    monkeypatch.setattr(cuda_graphs, "run_without_waiting", lambda work, *inputs: work(*inputs))
    monkeypatch.setattr(glame, "RepeatedInPlace", lambda capture: RepeatedInPlace(capture=True))
    for one, other in zip(by_networks(edits=edits), plain, strict=True):
        assert one.losses == other.losses and torch.equal(one.change, other.change)
        assert one.losses[-1][0] < one.losses[0][0]
    assert captures == [edits], "once, of the networks of all edits"


def test_a_network_that_can_not_be_captured_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, plain = list[int](), by_networks(edits=1)

    def refused(*_: object) -> Graphs:
        tried.append(1)
        raise RuntimeError("this can't be captured")

    monkeypatch.setattr(cuda_graphs, "capture_in_place", refused)
    monkeypatch.setattr(cuda_graphs, "run_without_waiting", lambda work, *inputs: work(*inputs))
    monkeypatch.setattr(glame, "RepeatedInPlace", lambda capture: RepeatedInPlace(capture=True))
    (again,) = by_networks(edits=1)
    assert again.losses == plain[0].losses and torch.equal(again.change, plain[0].change)
    assert tried == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("edits", [1, 3])
def test_a_network_on_cuda_is_captured_and_learns_as_it_does_without(edits: int) -> None:
    """In four steps, up to the order of sums."""
    draw, runs = torch.Generator().manual_seed(0), list[list[Tensor]]()
    values = [torch.randn(64, generator=draw).cuda() for _ in range(edits)]
    for capture in (False, True):
        networks = [graph_made(value.cpu(), edit) for edit, value in enumerate(values)]
        moved = [
            glame.GraphDelta(net._subgraph.to(value.device), value, net._config, rgnn=net.rgnn.to(value.device))
            for net, value in zip(networks, values, strict=True)
        ]
        joined = glame.GraphDelta.together(moved)
        joined._replay = RepeatedInPlace(capture=capture)
        changes = list[Tensor]()
        for step in range(4):
            change = joined.change()
            changes.append(change.detach().clone())
            change.backward(torch.full_like(change, 1.0 + step))
            joined.learn()
        assert (joined._replay._graphs is not None) == capture
        runs.append(changes)
    for plain, captured in zip(*runs, strict=True):
        torch.testing.assert_close(captured, plain, rtol=1e-2, atol=1e-3)
    assert not torch.equal(runs[0][0], runs[0][-1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_parameters_that_can_not_be_captured_are_differentiated_as_they_are() -> None:
    """A number is read back, so there is no graph."""
    weight = torch.ones(2, device="cuda", requires_grad=True)
    step = RepeatedInPlace(capture=True)
    for _ in range(2):
        step(lambda x: x * float(x[0]), weight).backward(torch.ones(2, device="cuda"))
    step.pass_on([weight])
    assert step._graphs is None and weight.grad is not None and weight.grad.tolist() == [2.0, 2.0]
