"""Was the text of a covariance long enough? `Doublings` measures how much C still changes as the tokens double.

While the text is read, there are marks at 1/2, 1/4, ... of the wanted number of tokens (`list_marks`). For example, of
100,000 tokens, and with d_ff = 8192, the marks are at 12,500, 25,000 and 50,000. From each mark to the next one, and
from the last one to the end, the number of tokens about doubles (a chunk of the text is read to its end). At the end of
each such "doubling" C is compared with what it was at the mark before: by what angle have the directions C^-1 k of some
probe keys k turned? The manifest of C lists these angles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.covariance.factor import CPU
from kg_edit.covariance.moment import ConvergenceCheck, Covariance, compare_directions, directions, square
from kg_edit.models.devices import free_bytes

KEYS = 16
"""The number of keys on which a layer's C is compared with C from half of the tokens."""

_KEYS_A_CALL = 4  # probe keys drawn in a call, so that the `KEYS` are from several texts


def list_marks(tokens: int, size: int) -> list[float]:
    """Return the numbers of tokens at which sums are compared: 1/2, 1/4, ... of ``tokens``.

    The smallest one is at least ``size``, the largest d_ff of the layers: with fewer tokens C has no inverse. The mark
    at 1/2 is there in any case.
    """
    marks = [tokens / 2]
    while marks[-1] / 2 >= size:
        marks.append(marks[-1] / 2)
    return marks


class Doublings:
    """Compares the C of one layer at each mark with its C at the mark before, on some probe keys.

    A probe key is part of the sum itself, but this does not turn its direction: (C + k k^T)^-1 k is parallel to C^-1 k.

    Attributes:
        checks: the comparisons so far, one for each doubling that has ended at a mark.
        mark: the sum of k k^T at the last mark, flat as in `SecondMoment`, in float32; None before the first mark.
        probes: the probe keys, [at most `KEYS`, d_ff] in float32, drawn in the first chunk of the text.
    """

    def __init__(
        self,
        size: int,
        *,
        ridge: float,
        checks: Sequence[ConvergenceCheck] = (),
        mark: Tensor | None = None,
        count_at_mark: int = 0,
        probes: Tensor | None = None,
    ) -> None:
        """Continue the comparisons of an interrupted pass, or begin new ones.

        Args:
            size: d_ff, the number of components of a key.
            ridge: the ridge that is added to C before it is inverted.
            checks: the attribute of the interrupted pass.
            mark: the attribute of the interrupted pass.
            count_at_mark: the number of tokens in ``mark``.
            probes: the attribute of the interrupted pass.
        """
        self.checks = tuple(checks)
        self.mark = mark
        self.probes = probes if probes is not None else torch.zeros(0, size)
        self._size = size
        self._ridge = ridge
        self._count_at_mark = count_at_mark
        self._generator = torch.Generator().manual_seed(0)
        # C^-1 k of the probe keys, by the number of tokens in C: those of a mark are compared twice, and solved once.
        # They stay right, because the first comparison comes after the first chunk, in which all probe keys are drawn.
        self._directions = dict[int, Tensor | None]()

    def draw_probes(self, keys: Tensor) -> None:
        """Add a few of ``keys`` [..., d_ff], drawn at random, to the probe keys; drop the oldest beyond `KEYS`.

        Not to be called after the first comparison, which is made on all probe keys.
        """
        rows = keys.detach().reshape(-1, self._size)
        chosen = torch.randperm(len(rows), generator=self._generator)[:_KEYS_A_CALL]
        drawn = rows[chosen.to(rows.device)].float().cpu()
        self.probes = torch.cat([self.probes, drawn])[-KEYS:]

    def set_mark(self, total: Tensor, count: int) -> None:
        """Add the comparison that ends here to ``checks``, and make this the last mark; arguments as `with_check`."""
        self.checks = self.with_check(total, count)
        self.mark = total.float()
        self._count_at_mark = count

    def with_check(self, total: Tensor, count: int) -> tuple[ConvergenceCheck, ...]:
        """Return ``checks`` and the comparison with the last mark, if there is a mark and both C have an inverse.

        Nothing is stored: at the end of the text, this is called without a new mark.

        Args:
            total: the present sum of k k^T, flat as in `SecondMoment`.
            count: the number of tokens in it.
        """
        # A damaged file of an interrupted pass may have a mark with an impossible count, which is not compared.
        has_count = 0 < self._count_at_mark < count
        if self.mark is None or not has_count:
            return self.checks
        before = self._solve_directions(self.mark, self._count_at_mark, total.device)
        # Rounded to float32 like the copy at a mark, so that a resumed run finds the same angle.
        now = self._solve_directions(total.float(), count, total.device)
        check = compare_directions(before, now, tokens_before=self._count_at_mark, tokens=count, ridge=self._ridge)
        if check is None:
            return self.checks
        return (*self.checks, check)

    def _solve_directions(self, total: Tensor, count: int, device: torch.device) -> Tensor | None:
        """Return the directions C^-1 k of the probe keys as unit vectors, with C = ``total`` / ``count``.

        They are [d_ff, number of probe keys]; None if there is no probe key, or C has no inverse.
        """
        if count in self._directions:
            return self._directions[count]
        # Three matrices in float64 (8 bytes a number): C, its factor and a copy. The CPU has room for them.
        free = free_bytes(device)
        has_room = free is None or free > 3 * 8 * self._size**2
        if not has_room:
            device = CPU
        c = square(total.to(device, torch.float64) / count, self._size)
        covariance = Covariance(moment=c, tokens=count, ridge=self._ridge, id="")
        self._directions[count] = directions(covariance, self.probes)
        return self._directions[count]
