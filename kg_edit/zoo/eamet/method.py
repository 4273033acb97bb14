"""EAMET (Dai et al., ICLR 2026, arXiv 2505.11876): MEMIT with changes that are as similar to each other as the keys.

Two facts with similar keys and unlike changes can't both be written: least squares gives each a mixture. So the descent
also aligns the changes r = z - h of the facts of a batch with their keys k. For fact i, over all other facts j:

    P_k(j) = softmax(cos(k_i, k_j) / tau),   P_r(j) = softmax(cos(r_i, r_j) / tau)
    L += w_kl KL(P_k || P_r) + w_mse sum_j P_k(j) (cos(k_i, k_j) - cos(r_i, r_j))^2

The second sum is over the nearest keys alone, with P_k over these. The closed form is MEMIT's.

The public code finds one value after the other, each aligned with those before it. Here all facts of a descent are
found together, each aligned with the present changes of the others; if not all facts fit into one descent, also with
the changes of the batch's earlier descents. In the public code r starts at h |k| / |h| if |h| < 100, here at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn.functional import normalize

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.descent import Descent
from kg_edit.locate_then_edit.objective import Objective, Penalty
from kg_edit.methods.base import EditingMethod
from kg_edit.methods.memit.joint_config import JOINT_FAST, JOINT_PUBLISHED
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.memit.records import Fact, FactValue
from kg_edit.models.sampling import STARTS
from kg_edit.patches.base import Patch
from kg_edit.zoo.entries import method_entry

_FAR = -1e4  # in place of the cosine with itself: a share of 0, and never among the nearest


class EametConfig(MemitConfig):
    """EAMET's settings. The preset ``paper`` has those of the public code for Qwen2.5-7B, except the layers.

    There the weight decay is of |delta| / |h|, with the same weight.
    """

    align_kl: float = Field(1.0, ge=0, description="weight of the KL divergence of the changes' similarities, w_kl")
    align_mse: float = Field(1.0, ge=0, description="weight of the squared error of their cosines, w_mse")
    temperature: float = Field(0.07, gt=0, description="temperature of the similarities, tau")
    nearest: PositiveInt = Field(50, description="number of nearest keys whose cosines are compared")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": JOINT_FAST,
        "paper": {
            **JOINT_PUBLISHED,
            "steps": 25,
            "stop_below": 0.01,
            "weight_decay": 1e-3,
            "clamp_norm_factor": 4.0,
            "context_starts": (*STARTS, "However", "Also", "Nevertheless", "He", "It", "Can"),
            "mom2_weight": 15_000.0,
        },
    }


class Eamet(Memit):
    """MEMIT whose values are found together, so that the changes are as similar to each other as the keys.

    MEMIT's `find_values` runs one descent after the other if not all facts of a batch fit into one. For each descent it
    calls `make_penalty` before, and `split_written` after. EAMET overrides all three, to keep the keys and the changes
    of the batch's earlier descents:

    1. `find_values` begins a batch, without keys and changes.
    2. `make_penalty` adds the keys of the descent that begins, and compares with those of the earlier descents too.
    3. `split_written` adds the changes of the descent that has ended.
    """

    entry = method_entry("eamet")
    config_class = EametConfig
    config: EametConfig

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Make each edit in a descent of its own, as there is nothing to align it with."""
        return EditingMethod.make_each(self, edits, before=before)

    def find_values(self, facts: Sequence[Fact]) -> list[FactValue]:
        """Find z of each fact. Facts that do not fit into one descent are aligned with those found before them."""
        self._keys = list[Tensor]()  # k* of the batch's descents so far, [facts, d_ff] each
        self._changes = list[Tensor]()  # r of those that have ended, [facts, d] each
        return super().find_values(facts)

    def make_penalty(self, loss: Objective) -> Penalty:
        """Return MEMIT's penalty plus how far the changes' similarities are from those of the keys k*."""
        self._keys.append(loss.mean_key)
        # The latest descent first, so that the facts of this one come first.
        keys = torch.cat(self._keys[::-1])  # [all, d_ff]
        earlier = self._changes[::-1]  # of the earlier descents, in the same order

        def penalty(change: Tensor, state: Tensor) -> Tensor:
            return self.penalise_unlikeness(change, state, keys=keys, earlier=earlier)

        return penalty

    def split_written(self, states: Tensor, descents: Sequence[Descent]) -> tuple[Tensor, list[Descent]]:
        """Return all of the states and of their changes, and keep the changes: later descents are aligned with them."""
        self._changes.append(torch.stack([descent.change for descent in descents]))
        return super().split_written(states, descents)

    def penalise_unlikeness(
        self, change: Tensor, state: Tensor, *, keys: Tensor, earlier: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the penalty of each fact, [facts]; its gradient reaches only the fact's own change.

        Args:
            change: r = z - h, [facts, d].
            state: h, [facts, d].
            keys: k*, [all, d_ff], those of the ``facts`` first.
            earlier: r of the batch's facts that were found before, in the order of their keys.
        """
        config = self.config
        penalty = self.penalty(change, state)
        if len(keys) < 2:
            return penalty
        key_cosines = _compare_keys(keys, facts=len(change))  # [facts, all]
        change_cosines = _compare_changes(change, earlier)  # [facts, all]

        # KL(P_k || P_r)
        log_p_k = (key_cosines / config.temperature).log_softmax(1)
        log_p_r = (change_cosines / config.temperature).log_softmax(1)
        divergence = (log_p_k.exp() * (log_p_k - log_p_r)).sum(1)  # [facts]

        # sum_j P_k(j) (cos(k_i, k_j) - cos(r_i, r_j))^2 over the nearest keys
        near_cosines, near = key_cosines.topk(min(config.nearest, len(keys) - 1))  # [facts, nearest] both
        p_k = (near_cosines / config.temperature).softmax(1)
        squared_errors = (near_cosines - change_cosines.gather(1, near)).square()
        mean_error = (p_k * squared_errors).sum(1)  # [facts]
        return penalty + config.align_kl * divergence + config.align_mse * mean_error


def _compare_keys(keys: Tensor, *, facts: int) -> Tensor:
    """Return cos(k_i, k_j) of the first ``facts`` of the keys [all, d_ff] with all keys: [facts, all]."""
    k = normalize(keys, dim=1)
    return _hide_diagonal(k[:facts] @ k.T)


def _compare_changes(change: Tensor, earlier: Sequence[Tensor]) -> Tensor:
    """Return cos(r_i, r_j) of the changes r [facts, d] with themselves and earlier ones: [facts, all].

    The other change of a pair is a constant. So is a change of 0, which has no direction, and whose gradient would be
    infinite.
    """
    has_moved = change.detach().any(1, keepdim=True)
    r = normalize(change.where(has_moved, change.detach()), dim=1)
    earlier_r = [normalize(changes, dim=1) for changes in earlier]
    others = torch.cat([r.detach(), *earlier_r])  # [all, d]
    return _hide_diagonal(r @ others.T)


def _hide_diagonal(cosines: Tensor) -> Tensor:
    """Return cosines [facts, all] with `_FAR` in the place of each fact's cosine with itself."""
    itself = torch.eye(*cosines.shape, dtype=torch.bool, device=cosines.device)
    return cosines.masked_fill(itself, _FAR)
