"""C = E[k k^T], the uncentred second moment of a module's inputs k [d_ff]: how to solve with it, sum it, and test it.

- `Covariance`: C [d_ff, d_ff] of one module, and C^-1 k (ROME, arXiv 2202.05262, Eq. 2; GLAME's Eq. 8).
- `OtherKeys`: H, the moment of few keys that count besides C, as in (C + w H)^-1 k.
- `SecondMoment`: the running sum of k k^T, whose mean is C.
- `directions`, `compare_directions`: the angle by which C^-1 k still turns when the number of tokens doubles.

An edit changes the weight along C^-1 k, so the direction of C^-1 k is what matters. It is computed with C from half of
the text, and with C from all of it. The angle between both directions estimates the angle between the second one and
that of endless text. The reason: let a be the mean of k k^T over one half of the text, and b that over the other half.
The half a differs from the whole by

    a - (a + b) / 2 = (a - b) / 2,

and for independent halves the variance of (a - b) / 2 is that of (a + b) / 2, the mean over the whole. For independent
tokens, the angle shrinks with the square root of their number. Neighbouring texts are similar, so the true angle is
somewhat larger and shrinks somewhat slower. Measured on SmolLM2-135M, layer 6, WikiText-2, where "found" is the angle
to C^-1 k from 230 thousand tokens:

    tokens     estimated    found
    29,000     23 degrees   26 degrees
    87,000     16 degrees   not measured
    174,000    13 degrees   not measured
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from kg_edit.covariance.factor import CPU, Factor
from kg_edit.errors import CovarianceError
from kg_edit.models.devices import exact, has_float64, product, takes_onednn

_BLOCK = 256  # rows of k k^T that one matrix product computes
_NEARLY = 1.001  # tolerance of `moment_problem`, for rounding
_TINY = 1e-30  # the same, for entries of 0
WAITING = 2048  # keys that are collected before they are added; enough for a matrix product at full speed


@dataclass(frozen=True, eq=False, kw_only=True)
class Covariance:
    """C = ``moment`` [d_ff, d_ff] of one module, the mean over ``tokens`` tokens.

    ``ridge`` makes it invertible; it is relative: `solve` uses C + ridge * mean(diag C) * I. ``id`` identifies the
    content.
    """

    moment: Tensor
    tokens: int
    ridge: float
    id: str
    _factors: dict[torch.device, Factor] = field(default_factory=dict, init=False, repr=False)
    _ridged: dict[float, Covariance] = field(default_factory=dict, init=False, repr=False)

    def with_ridge(self, ridge: float) -> Covariance:
        """Return C with another ridge. The same object is returned each time, so it is factored only once."""
        if ridge == self.ridge:
            return self
        return self._ridged.setdefault(ridge, replace(self, ridge=ridge))

    def solve(self, key: Tensor, *, others: OtherKeys | None = None, weight: float = 0.0) -> Tensor:
        """Return (C + w H)^-1 k in float64, with the ridge in C: on k's device if that has float64, else on the CPU.

        Args:
            key: k [d_ff], or one key in each column of [d_ff, keys].
            others: H, the moment of keys whose outputs should change little; None: 0.
            weight: w, where C has weight 1.
        """
        columns = exact(key).reshape(len(key), -1)  # K [d_ff, keys] in float64
        if others is None or not weight:
            return self._solve(columns).reshape(key.shape)

        # Woodbury with N = others.rows [n, d_ff] and A = C + w others.moment:
        # (A + w N^T N)^-1 K = A^-1 K - A^-1 N^T (N A^-1 N^T + I / w)^-1 N A^-1 K
        rows = others.rows.to(columns)  # N, on the device of K and in float64
        a = others.add_moment_to(self, weight=weight)
        both = a.solve(torch.cat([columns, rows.T], 1))  # A^-1 [K, N^T], [d_ff, keys + n]
        solved_keys = both[:, : columns.shape[1]]  # A^-1 K
        solved_rows = both[:, columns.shape[1] :]  # A^-1 N^T
        inner = rows @ solved_rows
        inner.diagonal().add_(1 / weight)  # N A^-1 N^T + I / w
        solution: Tensor = solved_keys - solved_rows @ torch.linalg.solve(inner, rows @ solved_keys)
        return solution.reshape(key.shape)

    def _solve(self, columns: Tensor) -> Tensor:
        """Return C^-1 B of ``columns`` B [d_ff, n] in float64, with the ridge in C.

        It is computed where C is, if that is an accelerator with float64, else where B is. The factor of C is made at
        the first call on a device.
        """
        device = columns.device
        if self.moment.device != CPU and has_float64(self.moment.device):
            device = self.moment.device
        try:
            if device not in self._factors:
                self._factors[device] = Factor(self.moment, self.ridge, device)
            return self._factors[device].solve(columns)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise CovarianceError(
                f"the covariance {self.id} from {self.tokens} tokens is not positive definite; "
                f"use at least {10 * len(self.moment)} tokens, or a ridge above {self.ridge:g}"
            ) from error


@dataclass(frozen=True, eq=False)
class OtherKeys:
    """H = sum_e N_e^T N_e / n_e [d_ff, d_ff] in float64, of the keys N_e [n_e, d_ff] of several edits e.

    H = ``moment`` + ``rows``^T ``rows``, where ``rows`` [n, d_ff] has fewer than d_ff rows: few keys are cheaper as
    rows (Woodbury), and more are summed into ``moment`` [d_ff, d_ff].
    """

    rows: Tensor
    moment: Tensor | None = None

    @classmethod
    def none(cls, size: int, device: torch.device = CPU) -> Self:
        """Return H = 0 on ``device``, or on the CPU if that has no float64, for keys with ``size`` components."""
        return cls(exact(torch.empty(0, size, device=device)))

    def plus(self, keys: Tensor, *, weight: float | None = None) -> OtherKeys:
        """Return H plus the mean of k k^T over an edit's ``keys`` [n_e, d_ff].

        With a ``weight``, which is not the w of `Covariance.solve`, H plus ``weight`` times the sum of k k^T.
        """
        if weight is None:
            weight = 1 / max(1, len(keys))
        rows = torch.cat([self.rows, weight**0.5 * exact(keys).to(self.rows)])
        if len(rows) < rows.shape[1]:
            return OtherKeys(rows, self.moment)
        # As many rows as columns: they become a matrix.
        moment = rows.T @ rows
        if self.moment is not None:
            moment.add_(self.moment)
        return OtherKeys(rows[:0], moment)

    def add_moment_to(self, covariance: Covariance, *, weight: float) -> Covariance:
        """Return C + weight ``moment``, with C's ridge on the diagonal."""
        if self.moment is None:
            return covariance
        moment = weight * self.moment + covariance.moment.to(self.moment)
        moment.diagonal().add_(covariance.ridge * covariance.moment.diagonal().mean())
        return replace(covariance, moment=moment, ridge=0.0)


class SecondMoment:
    """A running sum of k k^T; only the upper block triangle is computed and stored.

    Keys are collected and multiplied in float32, some thousand rows at a time; the products are summed in float64. The
    memory depends only on ``size``. ``total`` is flat: first the rows 0 to 255 of the matrix from column 0 on, then the
    rows 256 to 511 from column 256 on, and so on; each block is stored row by row. With blocks of 2 rows instead of
    256, ``total`` of a matrix [4, 4] would be a b c d e f g h i j k l:

        a b c d
        e f g h
            i j
            k l

    Attributes:
        size: the number of components of a key.
        count: the number of keys that were added, also of those that wait for the next `flush`.
        total: the sum of k k^T, flat, in float64; without the keys that wait.
    """

    def __init__(self, size: int, total: Tensor | None = None, count: int = 0) -> None:
        self.size = size
        self.count = count
        if total is None:
            total = torch.zeros(flat_size(size), dtype=torch.float64)
        self.total = total
        self._waiting: list[Tensor] = []  # keys that are not in ``total`` yet

    def add(self, keys: Tensor) -> None:
        """Add ``keys`` [..., size]; the caller must not change them before the next `flush`."""
        rows = keys.detach().reshape(-1, self.size)
        self.count += len(rows)
        self._waiting.append(rows)
        if sum(len(waiting) for waiting in self._waiting) >= WAITING:
            self.flush()

    def mean(self) -> Tensor:
        """Return the mean of k k^T over all keys that were added, flat as ``total``; 0 if there are none."""
        self.flush()
        return self.total / max(1, self.count)

    def flush(self) -> None:
        """Add the collected keys to ``total``."""
        if not self._waiting:
            return
        rows = self._waiting[0]
        if len(self._waiting) > 1:
            rows = torch.cat(self._waiting)
        rows = rows.float()
        self._waiting = []
        if self.total.device != rows.device and rows.device.type == "cuda":  # keep the sum on the keys' device
            self.total = self.total.to(rows.device)
        columns = rows.T.contiguous()  # K^T [size, keys]; oneDNN takes dense rows only
        # (A, B) -> A B^T. Both functions return the same up to rounding; the first one is faster where it is available.
        multiply = product if takes_onednn() else nn.functional.linear
        for start, block in _blocks(self.total, self.size):  # views into ``total``, which are changed in place
            # 256 rows of K^T K, from their first column on the diagonal: [256, size - start]
            block += multiply(columns[start : start + _BLOCK], columns[start:]).to(block.device)


def square(flat: Tensor, size: int) -> Tensor:
    """Return the symmetric matrix [size, size] whose upper block triangle is ``flat``, as in `SecondMoment`."""
    matrix = flat.new_empty(size, size)
    for start, block in _blocks(flat, size):
        end = start + _BLOCK
        matrix[start:end, start:] = block
        matrix[start:, start:end] = block.T
        # The square on the diagonal is in both. A product is symmetric only up to rounding, so its upper half counts.
        corner = block[:, : len(block)].triu()
        matrix[start:end, start:end] = corner + corner.triu(1).T
    return matrix


def flat_of(matrix: Tensor) -> Tensor:
    """Return the upper block triangle of a symmetric matrix [size, size], flat; the inverse of `square`."""
    size = len(matrix)
    blocks = [matrix[start : start + _BLOCK, start:].reshape(-1) for start in range(0, size, _BLOCK)]
    return torch.cat(blocks)


def moment_problem(stored: Tensor, size: int) -> str | None:
    """Return why a matrix can't be E[k k^T], in words; None if it can. ``stored`` is flat, as in `square`.

    The diagonal must not be negative, because it has means of squares. No entry may exceed the square root of the
    product of its two diagonal entries (Cauchy-Schwarz), with a tolerance of one thousandth.
    """
    blocks = _blocks(stored, size)
    diagonal = torch.cat([block.diagonal() for _, block in blocks])
    if (diagonal < 0).any():
        return "an entry of the diagonal is negative"
    roots = diagonal.sqrt()
    for start, block in blocks:
        bound = roots[start : start + len(block), None] * roots[None, start:]
        if (block.triu().abs() > _NEARLY * bound + _TINY).any():
            return "an entry is larger than both of its diagonal entries allow"
    return None


def flat_size(size: int) -> int:
    """Return the number of entries in the upper block triangle of a matrix [size, size]."""
    entries = 0
    for start in range(0, size, _BLOCK):
        rows = min(_BLOCK, size - start)
        columns = size - start
        entries += rows * columns
    return entries


def _blocks(flat: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Return views into ``flat``: of each block the index of its first row, and the block [<= 256, size - that]."""
    blocks = []
    offset = 0
    for start in range(0, size, _BLOCK):
        rows = min(_BLOCK, size - start)
        columns = size - start
        blocks.append((start, flat[offset : offset + rows * columns].view(rows, columns)))
        offset += rows * columns
    return blocks


class ConvergenceCheck(BaseModel):
    """The angle in degrees between C^-1 k from ``tokens_before`` and from ``tokens`` tokens, over ``keys`` keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_before: int
    tokens: int
    keys: int
    ridge: float
    median_degrees: float
    max_degrees: float


def directions(covariance: Covariance, keys: Tensor) -> Tensor | None:
    """Return C^-1 k of ``keys`` [n, d_ff] as unit vectors [d_ff, n]; None if there are no keys, or C has no inverse."""
    if len(keys) == 0:
        return None
    try:
        solution = covariance.solve(keys.T)
    except CovarianceError:  # too few tokens for a ridge of 0, so there is nothing to compare yet
        return None
    unit: Tensor = solution / solution.norm(dim=0)
    return unit


def compare_directions(
    first: Tensor | None, second: Tensor | None, *, tokens_before: int, tokens: int, ridge: float
) -> ConvergenceCheck | None:
    """Compare the `directions` [d_ff, n] of two covariances; None if one of them has none."""
    if first is None or second is None:
        return None
    # The angle from the chord |a - b| of the unit vectors, 2 asin(|a - b| / 2): a cosine is inexact at small angles.
    chords = (first - second).norm(dim=0)
    degrees = torch.rad2deg(2 * torch.asin((chords / 2).clamp(max=1)))  # [n]
    return ConvergenceCheck(
        tokens_before=tokens_before,
        tokens=tokens,
        keys=first.shape[1],
        ridge=ridge,
        median_degrees=round(float(degrees.median()), 4),
        max_degrees=round(float(degrees.max()), 4),
    )
