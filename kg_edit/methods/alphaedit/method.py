"""AlphaEdit (Fang et al., ICLR 2025, arXiv 2410.02355): MEMIT's spread, with updates in the null space of C.

    W += R K^T P (K_p K_p^T P + K K^T P + ridge I)^-1

P [d_ff, d_ff] projects onto the directions that the model's keys hardly use (`NullSpace`), so that an update changes
little else; K_p are the keys of earlier batches, K [d_ff, facts] those of this one, R [d, facts] the wanted changes.
Beyond the paper, hold H P is added in the brackets: H [d_ff, d_ff] is the sum of n n^T over the keys n of the prompts'
other tokens (`AlphaEdit.directions`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.covariance.factor import CPU, has_fast_float64
from kg_edit.covariance.moment import Covariance, OtherKeys
from kg_edit.errors import CovarianceError
from kg_edit.locate_then_edit.joint import joint_directions
from kg_edit.methods.entries import method_entry
from kg_edit.methods.memit.joint_config import JOINT_FAST, JOINT_PUBLISHED, SpreadConfig
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.models.devices import exact, has_float64
from kg_edit.models.language_model import weight_matrix

log = logging.getLogger(__name__)


class AlphaEditConfig(SpreadConfig):
    """AlphaEdit's settings. The preset ``paper`` has those of the published code for GPT-2 XL, except the layers.

    If C has no eigenvalues near 0, it has no null space in the strict sense. By default the edits then use the
    directions with an eigenvalue below the mean. On SmolLM2-135M these are 66 to 77 % of the directions, with about a
    third of the keys' energy; the published absolute threshold leaves 61 to 76 %.
    """

    threshold: float = Field(1.0, gt=0, description="eigenvectors of C with eigenvalues below this are free for edits")
    relative: bool = Field(True, description="threshold is a multiple of the mean eigenvalue of C; published: absolute")
    ridge: float = Field(
        1.0, gt=0, description="L2 term, added to the diagonal of the keys' second moment; published: 10"
    )
    hold: float = Field(
        1.0, ge=0, description="weight of the keys of the prompts' other tokens; a new key has 1; published: 0"
    )
    remember: float = Field(
        1.0, ge=0, description="weight of the keys of earlier edits in one model; a new key has 1; 0: off; published: 1"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": JOINT_FAST,
        "paper": {**JOINT_PUBLISHED, "remember": 1.0, "threshold": 0.02, "relative": False, "ridge": 10.0},
    }

    def idle(self) -> dict[str, str]:
        """Return the ridge of C too, which only its inverse needs."""
        why = "AlphaEdit reads the eigenvectors of C, which a ridge does not change"
        return {**super().idle(), "covariance.ridge": why}


class AlphaEdit(JointMethod):
    """MEMIT without C in the least squares: the update stays in C's null space, and away from earlier edits' keys.

    The keys of earlier batches are stored only in the state of the patch that is applied to the model.
    """

    entry = method_entry("alphaedit")
    config_class = AlphaEditConfig
    config: AlphaEditConfig

    @cached_property
    def _null_spaces(self) -> dict[int, NullSpace]:
        """P of each layer, once `null_space` has computed it."""
        return {}

    def prepare(self) -> None:
        """Prepare as every method with values does, and find P of each layer: without it, no edit can be made."""
        super().prepare()
        for layer in self.layers:
            self.null_space(layer)

    def null_space(self, layer: int) -> NullSpace:
        """Return P, the projection onto the free directions of the keys of ``layer``; computed once per layer."""
        if layer not in self._null_spaces:
            self._null_spaces[layer] = find_null_space(
                self.covariances[layer],
                threshold=self.config.threshold,
                relative=self.config.relative,
                device=weight_matrix(self.model.down_projection(layer)).device,
            )
        return self._null_spaces[layer]

    def directions(self, layer: int, keys: Tensor, *, others: OtherKeys, protected: Tensor | None) -> Tensor:
        """Return (P (K K^T + K_p K_p^T + hold H) + ridge I)^-1 P K, [d_ff, facts].

        K_p is ``protected``: the keys of earlier batches, already times sqrt(remember). None: there are none.
        H = H_0 + N^T N, where H_0 is the ``moment`` of ``others`` and N [n, d_ff] are its ``rows``. With

            A = [K, K_p, sqrt(hold) N^T],   A A^T = K K^T + K_p K_p^T + hold N^T N
            M = (I + hold / ridge P H_0)^-1 P

        the result has the columns of K in (M A A^T + ridge I)^-1 M A, which is what `joint_directions` computes. It
        needs a symmetric M, which this one is: (I + c P H_0)^-1 P = P (I + c H_0 P)^-1.
        """
        columns = [keys]
        if protected is not None:
            columns.append(protected.to(keys))
        columns.append(self.config.hold**0.5 * others.rows.to(keys).T)
        all_keys = torch.cat(columns, 1)  # A, [d_ff, facts + protected + n]
        solved = self._solve_with_moment(layer, all_keys, others.moment)  # M A
        return joint_directions(all_keys, solved, weight=self.config.ridge, count=keys.shape[1])

    def _solve_with_moment(self, layer: int, keys: Tensor, moment: Tensor | None) -> Tensor:
        """Return (I + hold / ridge P H_0)^-1 P A for ``keys`` A [d_ff, columns]; it is P A without a ``moment`` H_0."""
        null_space = self.null_space(layer)
        projected = null_space.project(keys)  # P A
        if moment is None:
            return projected
        system = self.config.hold / self.config.ridge * null_space.project(moment.to(keys))
        system.diagonal().add_(1.0)
        solution: Tensor = torch.linalg.solve(system, projected)
        return solution


@dataclass(frozen=True, eq=False, kw_only=True)
class NullSpace:
    """P, the projection onto the orthogonal complement of ``used`` [d_ff, directions]; its columns are orthonormal."""

    used: Tensor

    @property
    def free(self) -> int:
        """The number of directions that P keeps: d_ff minus the used ones."""
        return self.used.shape[0] - self.used.shape[1]

    def project(self, keys: Tensor) -> Tensor:
        """Return P K for ``keys`` K [d_ff, facts], in float64, on the device that `exact` gives.

        What is subtracted from K is computed on the device of ``used`` and in its dtype, which may be float32.
        """
        used_part = self.used @ (self.used.T @ keys.to(self.used))
        keys = exact(keys)
        return keys - used_part.to(keys)


def find_null_space(
    covariance: Covariance, *, threshold: float, relative: bool = True, device: torch.device = CPU
) -> NullSpace:
    """Return the projection onto the span of C's eigenvectors with eigenvalues below ``threshold``.

    C is used without its ridge.

    Args:
        covariance: C of a layer's keys.
        threshold: the eigenvalue below which a direction is free.
        relative: the threshold is a multiple of the mean eigenvalue (trace(C) / d_ff), because models differ in scale
            by orders of magnitude; the published threshold is absolute.
        device: where the eigenvectors are computed, and stay; see `_find_eigenvectors`.
    """
    values, vectors = _find_eigenvectors(covariance.moment, device)  # ascending [d_ff], [d_ff, d_ff] in columns
    bound = threshold
    if relative:
        bound *= float(values.mean())
    projection = NullSpace(used=vectors[:, values >= bound])
    if not projection.free:
        raise CovarianceError(
            f"no eigenvalue of the covariance {covariance.id} is below {bound:.2e} (the smallest is {values[0]:.2e}), "
            "so there is no direction to edit in; give a higher threshold"
        )
    return projection


def _find_eigenvectors(moment: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenvectors of C, in float32 if float64 is slow on the device.

    The CPU computes them if the device has no float64, or no room for them.
    """
    if not has_float64(device):
        device = CPU
    try:
        dtype = torch.float32
        if has_fast_float64(device):
            dtype = torch.float64
        values, vectors = torch.linalg.eigh(moment.to(device).to(dtype))
    except RuntimeError as error:  # no room, or its library does not converge
        if device == CPU:
            raise
        log.debug("%s can't compute the eigenvectors of C, so the CPU does: %s", device, error)
        values, vectors = torch.linalg.eigh(moment.cpu().double())
    return values, vectors
