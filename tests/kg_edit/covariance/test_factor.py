"""C's factor on a device without fast float64: refined to float64's residual, and in float64 where that does not do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kg_edit.covariance import factor
from kg_edit.covariance.factor import CPU, Factor, has_fast_float64, refine
from kg_edit.covariance.moment import Covariance, SecondMoment, square
from kg_edit.engine.replay import block_output
from kg_edit.errors import CovarianceError
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad
from tests.kg_edit.methods.test_matrix import EDIT, SECOND, method
from tests.kg_edit.tiny import tiny

LAYER = 5


@pytest.fixture
def slow_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor, "has_fast_float64", lambda device: False)


def covariance(matrix: Tensor, *, ridge: float = 1e-4) -> Covariance:
    return Covariance(moment=matrix, tokens=1, ridge=ridge, id="made up")


def test_refinement_removes_the_error_of_the_factor() -> None:
    """A factor of 1.01 A: each step leaves 1/101 of the error. One of 2 A leaves half of it, which is too much."""
    matrix, shift = torch.tensor([[4.0, 2.0], [2.0, 2.0]]), torch.tensor(1.0, dtype=torch.float64)
    expected = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    columns = torch.tensor([[1.0], [-4.0]], dtype=torch.float64)  # (C + I) times the expected solution
    lower = torch.linalg.cholesky(matrix + torch.eye(2))
    solution = refine(matrix, shift, 1.01**0.5 * lower, columns)
    assert solution is not None
    torch.testing.assert_close(solution, expected, rtol=1e-14, atol=0)
    assert refine(matrix, shift, 2**0.5 * lower, columns) is None


@pytest.mark.slow
def test_real_covariance_is_solved_as_precisely_as_in_float64(smollm2: LanguageModel, slow_float64: None) -> None:
    """SmolLM2's C of layer 5, from few tokens: its condition is 24,000, that from many is 250."""
    text = torch.randint(len(smollm2.tokenizer), (16, 128), generator=torch.Generator().manual_seed(0))
    sums = SecondMoment(1536)
    with torch.no_grad(), watch(smollm2.down_projection(LAYER), lambda keys, _: sums.add(keys)):
        block_output(smollm2, left_pad(text.tolist(), device=CPU), LAYER)
    sums.flush()
    c = square(sums.total / sums.count, 1536).float()
    keys = c.double()[:, :20]
    ridged = c.double()
    ridged.diagonal().add_(1e-4 * ridged.diagonal().mean())
    expected = torch.cholesky_solve(keys, torch.linalg.cholesky(ridged))
    solver = Factor(c, 1e-4, CPU)
    solved = solver.solve(keys)
    assert solver._cholesky is not None
    assert solver._cholesky.lower.dtype == torch.float32, "the test must be able to fail"

    def residual(solution: Tensor) -> float:
        return float((keys - ridged @ solution).norm() / keys.norm())

    assert residual(solved) < 10 * residual(expected)
    assert (solved - expected).norm() < 1e-9 * expected.norm()
    rough = torch.cholesky_solve(keys.float(), solver._cholesky.lower).double()
    assert residual(rough) > 1e3 * residual(solved), "the refinement does something"


def test_ill_conditioned_matrix_is_factored_in_float64(slow_float64: None) -> None:
    """A Hilbert matrix of size 8 has the condition 1e10: float32 may factor it, but its refinement fails."""
    number = torch.arange(8, dtype=torch.float64)
    hilbert = (1 / (number[:, None] + number + 1)).float()
    solver, columns = Factor(hilbert, 0.0, CPU), torch.ones(8, 1, dtype=torch.float64)
    solution = solver.solve(columns)
    assert solver._cholesky is not None
    assert solver._cholesky.lower.dtype == torch.float64
    assert (hilbert.double() @ solution - columns).norm() < 1e-4


def test_matrix_that_only_float32_finds_positive_definite_is_an_error(slow_float64: None) -> None:
    """Of keys along one direction, with float64's rounding below 0: [1, a; a, a² - 1e-9]."""
    numbers = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)
    matrices = [torch.tensor([[1.0, a], [a, a * a - 1e-9]], dtype=torch.float64) for a in numbers.tolist()]
    (passing, *_) = (matrix for matrix in matrices if not torch.linalg.cholesky_ex(matrix.float())[1])
    with pytest.raises(CovarianceError, match="not positive definite"):
        covariance(passing, ridge=0.0).solve(torch.ones(2))


def test_device_that_is_full_by_now_leaves_the_solution_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is ``meta``, which has no numbers, so that only the CPU can have solved."""

    def full(columns: Tensor, lower: Tensor) -> Tensor:
        if columns.is_meta:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return solve(columns, lower)

    solve, solver = torch.cholesky_solve, Factor(torch.diag(torch.tensor([2.0, 4.0])), 0.0, CPU)
    columns = torch.ones(2, 1, dtype=torch.float64)
    solver.solve(columns)  # makes the factor
    solver._attempts.insert(0, factor._Attempt(torch.device("meta"), in_float64=True))
    monkeypatch.setattr(torch, "cholesky_solve", full)
    solution = solver.solve(columns)
    torch.testing.assert_close(solution, torch.tensor([[0.5], [0.25]], dtype=torch.float64))


@pytest.mark.parametrize(("ratio", "fast"), [(2.0, True), (32.0, False)])
def test_float64_is_fast_if_it_is_measured_so(ratio: float, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float64: ratio, torch.float32: 1.0}
    monkeypatch.setattr(factor, "_seconds", lambda device, dtype: seconds[dtype])
    assert has_fast_float64(torch.device("cuda")) is fast
    assert has_fast_float64(CPU)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
    ],
)
def test_device_without_room_leaves_the_factor_to_the_cpu(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is ``meta``, which has no numbers, so that only the CPU can have solved."""

    def full(matrix: Tensor) -> tuple[Tensor, Tensor]:
        if matrix.is_meta:
            raise error
        return cholesky(matrix)

    cholesky = torch.linalg.cholesky_ex
    monkeypatch.setattr(factor, "has_fast_float64", lambda device: True)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", full)
    solver = Factor(torch.diag(torch.tensor([2.0, 4.0])), 0.0, torch.device("meta"))
    solution = solver.solve(torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(solution, torch.tensor([[0.5], [0.25]], dtype=torch.float64))


class Factorisations(TorchDispatchMode):
    """Counts the factorisations of matrices [size, size], by operator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.found = size, Counter[str]()

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation._schema.name
        square = args and isinstance(args[0], Tensor) and args[0].shape[-2:] == (self.size, self.size)
        if square and any(word in name for word in ("cholesky_ex", "eigh", "solve_ex", "lu_factor", "inv_ex")):
            self.found[name.removeprefix("aten::")] += 1
        return operation(*args, **(kwargs or {}))


C, EIGEN, SOLVE = "linalg_cholesky_ex", "_linalg_eigh", "_linalg_solve_ex"
# By method and hold: what the first batch factors, and the second one. In joint methods with hold, the tokens of these
# prompts are more than d_ff, so that each batch has a matrix of its own.
COSTS: dict[tuple[str, float], tuple[dict[str, int], dict[str, int]]] = {
    ("rome", 1.0): ({C: 1}, {}),
    ("glame", 1.0): ({C: 1}, {}),
    ("glame-plus", 1.0): ({C: 2}, {}),  # the edited layer, and the late one
    ("emmet", 0.0): ({C: 1}, {}),
    ("memit", 0.0): ({C: 2}, {}),  # of two layers
    ("memit", 1.0): ({C: 2}, {C: 2}),
    ("comeba", 0.0): ({C: 2}, {}),
    ("alphaedit", 0.0): ({EIGEN: 2}, {}),
    ("alphaedit", 1.0): ({EIGEN: 2, SOLVE: 2}, {SOLVE: 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hold"), COSTS)
def test_a_batch_factors_each_layer_once(name: str, hold: float) -> None:
    editor = method(name, tiny("llama"), hold=hold)
    edit = editor.edit if editor.joint else editor.edit_each
    costs = []
    for _ in range(2):
        with Factorisations(48) as counted:
            editor.prepare()
            edit([EDIT, SECOND])
        costs.append(dict(counted.found))
    assert tuple(costs) == COSTS[name, hold]
