"""How good a covariance is: how far the direction that is solved for turns when the tokens double.

An edit moves the weight along C^-1 k, so what matters of C is that direction. With C from half of the text and C from
all of it, the angle between both directions is about the angle that still separates the second from the one of endless
text: the half and the whole differ by half the difference of two independent halves, whose variance is that of the
whole's own mean. For independent tokens it shrinks with the square root of their number. Neighbouring texts are alike,
so that the true angle is somewhat larger and shrinks somewhat slower: SmolLM2-135M, layer 6, WikiText-2 said 23 degrees
at 29 thousand tokens, which were 26 degrees from 230 thousand; 16 degrees at 87 thousand, 13 at 174 thousand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.errors import CovarianceError

KEYS = 16
_KEYS_A_CALL = 4


class ConvergenceCheck(BaseModel):
    """The angle in degrees between C^-1 k from ``tokens_before`` and from ``tokens`` tokens, over ``keys`` keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_before: int
    tokens: int
    keys: int
    ridge: float
    median_degrees: float
    max_degrees: float


def doubling(before: Covariance, after: Covariance, keys: Tensor) -> ConvergenceCheck | None:
    """Compare C^-1 k of both for ``keys`` [n, d_ff]; None where there is no key or C can't be solved with."""
    if len(keys) == 0:
        return None
    try:
        found = [_degrees(before.solve(key), after.solve(key)) for key in keys]
    except CovarianceError:  # too few tokens for a ridge of 0: nothing to compare yet
        return None
    degrees = torch.tensor(found, dtype=torch.float64)
    return ConvergenceCheck(
        tokens_before=before.tokens,
        tokens=after.tokens,
        keys=len(keys),
        ridge=after.ridge,
        median_degrees=round(float(degrees.median()), 4),
        max_degrees=round(float(degrees.max()), 4),
    )


def _degrees(left: Tensor, right: Tensor) -> float:
    """The angle between two vectors; from the chord, as a cosine says little about small angles."""
    chord = (left / left.norm() - right / right.norm()).norm()
    return float(torch.rad2deg(2 * torch.asin((chord / 2).clamp(max=1))))


class ProbeKeys:
    """Keys of the text itself on which doublings are measured: some of each call, the latest `KEYS` of them.

    That a probe is in the sum itself does not turn its direction: (C + k k^T)^-1 k is parallel to C^-1 k.
    """

    def __init__(self, kept: Sequence[Tensor] = ()) -> None:
        self._kept = list(kept)
        self._generator = torch.Generator().manual_seed(0)

    def see(self, keys: Tensor) -> None:
        """Keep some of ``keys`` [..., d_ff]."""
        rows = keys.detach().reshape(-1, keys.shape[-1])
        chosen = torch.randperm(len(rows), generator=self._generator)[:_KEYS_A_CALL]
        self._kept = [*self._kept, *rows[chosen.to(rows.device)].float().cpu()][-KEYS:]

    def keys(self, size: int) -> Tensor:
        """[at most `KEYS`, size], in float32."""
        return torch.stack(self._kept) if self._kept else torch.zeros(0, size)
