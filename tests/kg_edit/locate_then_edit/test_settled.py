"""The last evaluation of a change with noise is one without noise, unless that is much worse than the best pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.locate_then_edit.optimise import Descent, optimise_values
from kg_edit.models.prompts import encode
from tests.kg_edit.tiny import tiny

STEPS = 4


class Noisy:
    """A free change [d] with the noise of each evaluation added to it; ``offset`` is what it is without noise."""

    def __init__(self, width: int, *, offset: Tensor | None) -> None:
        self._change, self._offset = torch.zeros(width, requires_grad=True), offset
        self._draw = torch.Generator().manual_seed(0)
        self.given = list[Tensor]()

    def change(self) -> Tensor:
        self.given.append(self._change.detach() + 0.01 * torch.randn(self._change.shape, generator=self._draw))
        return self._change + (self.given[-1] - self._change.detach())

    def settled(self) -> Tensor | None:
        return None if self._offset is None else self._change.detach() + self._offset

    def learn(self) -> None:
        with torch.no_grad():
            assert self._change.grad is not None
            self._change -= 0.5 * self._change.grad
            self._change.grad = None


def objective() -> Objective:
    model = tiny("llama")
    names = {"Spike Hughes": "London", "France": "Rome"}
    prompts = [encode(model.tokenizer, "{} is from", subject=name, target=new) for name, new in names.items()]
    return Objective(model, 1, [Request(rewrites=(prompt,)) for prompt in prompts], kl_weight=0.0)


def descended(*offsets: Tensor | None, stop_below: float = -1.0) -> tuple[list[Descent], list[Noisy]]:
    found = objective()
    proposals = [Noisy(found.value.shape[1], offset=offset) for offset in offsets]
    return optimise_values(found, proposals, steps=STEPS, stop_below=stop_below), proposals


def losses_of(*changes: Tensor) -> list[float]:
    with torch.no_grad():
        return [float(loss) for loss in objective()(torch.stack(changes)).total]


def test_the_last_evaluation_has_no_noise() -> None:
    width = tiny("llama").width
    (quiet, noisy), (plain, other) = descended(torch.zeros(width), None)
    assert (expected := plain.settled()) is not None and torch.equal(quiet.change, expected)
    assert len(quiet.losses) == STEPS + 1 and len(noisy.losses) == STEPS
    assert torch.equal(noisy.change, other.given[-1]), "without `settled` the last pass counts"
    assert [quiet.losses[-1][0], noisy.losses[-1][0]] == pytest.approx(losses_of(quiet.change, noisy.change), rel=1e-5)


def test_the_best_pass_counts_if_the_change_without_noise_is_much_worse() -> None:
    far = torch.full((tiny("llama").width,), 50.0)
    (found, _), (proposal, _) = descended(far, None)
    passes = [total for total, _, _ in found.losses[:STEPS]]
    best = passes.index(min(passes))
    assert torch.equal(found.change, proposal.given[best]) and found.losses[-1] == found.losses[best]
    (enough, _), (again, _) = descended(far, None, stop_below=1e9)
    expected = again.settled()
    assert expected is not None and torch.equal(enough.change, expected), "it is below the loss that ends a descent"
