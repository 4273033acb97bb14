"""A step is a pure function, so that it can be captured as a CUDA graph; here a stand-in captures it on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.locate_then_edit import repeated
from kg_edit.locate_then_edit.descent import Descent, FreeDelta, Stops, optimise_values
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.locate_then_edit.repeated import Repeated, Work, captured
from kg_edit.methods.rome.method import RomeConfig
from tests.kg_edit.locate_then_edit.test_operators import CONTEXTS, EDITS
from tests.kg_edit.tiny import tiny


def objective(family: str) -> Objective:
    model = tiny(family)
    return Objective(model, 1, [Request.of(model, edit, CONTEXTS) for edit in EDITS], kl_weight=0.06)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj"])
def test_a_step_reads_only_its_buffer(family: str) -> None:
    """Three times on one buffer, each with another change, it gives what a new objective gives for the change."""
    found, draw = objective(family), torch.Generator().manual_seed(0)
    buffer = torch.zeros_like(found.value)
    for _ in range(3):
        buffer.copy_(torch.randn(buffer.shape, generator=draw))
        terms, gradient = found._gradient(buffer, margin=0.1)
        expected_terms, expected = objective(family)._gradient(buffer.clone(), margin=0.1)
        assert torch.equal(terms, expected_terms) and torch.equal(gradient, expected)


def on_buffers(work: Work, example: Tensor) -> Work:
    """A stand-in for a graph: inputs and outputs are always in the same memory, and are read as soon as it has run."""
    given = example.clone()
    results = [result.clone() for result in work(given)]

    def replay(now: Tensor) -> tuple[Tensor, ...]:
        given.copy_(now)
        for result, value in zip(results, work(given), strict=True):
            result.copy_(value)
        return tuple(result.clone() for result in results)

    return replay


def descended(found: Objective, stops: Stops) -> list[Descent]:
    return optimise_values(found, [FreeDelta(value, RomeConfig()) for value in found.value], stops)


def test_a_captured_step_gives_the_same_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when edits end, so that another pass is captured, and when targets are checked after ``steps``."""
    captures = list[int]()

    def counted(work: Work, example: Tensor) -> Work:
        captures.append(len(example))
        return on_buffers(work, example)

    start = objective("llama").gradient(torch.zeros_like(objective("llama").value))[0].nll
    stops = Stops(steps=6, further_steps=4, stop_below=-1.0, stop_nll=float(start.mean()) - 0.1)
    plain = descended(objective("llama"), stops)
    assert len({len(one.losses) for one in plain}) > 1
    monkeypatch.setattr(repeated, "captured", counted)
    capturing = objective("llama")
    capturing._captures = True
    for one, other in zip(descended(capturing, stops), plain, strict=True):
        assert one.losses == other.losses and torch.equal(one.change, other.change)
    assert len(captures) > 1


def test_a_step_that_can_not_be_captured_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried once."""
    tried = list[Tensor]()
    monkeypatch.setattr(repeated, "captured", lambda work, given: tried.append(given))
    step = Repeated(capture=True)
    assert [step(lambda given: (2 * given,), torch.tensor(n))[0].item() for n in range(4)] == [0, 2, 4, 6]
    assert len(tried) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_function_is_captured_unless_it_reads_a_number_back() -> None:
    def doubled(given: Tensor) -> tuple[Tensor, ...]:
        return (2 * given,)

    graph = captured(doubled, torch.ones(2, device="cuda"))
    assert graph and [graph(torch.full((2,), n, device="cuda"))[0].tolist() for n in (1.0, 3.0)] == [[2, 2], [6, 6]]
    assert captured(lambda given: (given * float(given[0]),), torch.ones(2, device="cuda")) is None
