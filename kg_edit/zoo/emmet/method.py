"""EMMET (Gupta et al., EMNLP Findings 2024, arXiv 2403.14236): ROME's equality constraint for a whole batch.

    W += R (K^T C^-1 K + eps I)^-1 K^T C^-1,   K [d_ff, facts], R [d, facts]

K are the facts' keys, R the wanted changes of the layer's MLP output. With eps = 0 the output for every key is exact.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.covariance.moment import OtherKeys
from kg_edit.locate_then_edit.joint import joint_directions
from kg_edit.methods.config import LayerConfig
from kg_edit.methods.memit.joint_config import JOINT_FAST, JOINT_PUBLISHED, JointConfig
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.zoo.entries import method_entry

_SAME = 0.02  # relative distance of a key from itself in another pass; bfloat16 has only two significant digits


class EmmetConfig(LayerConfig, JointConfig):
    """EMMET's settings. The values are found as in ROME, where the defaults come from."""

    steps: int = Field(12, gt=0, description="maximum number of evaluations of the objective")
    learning_rate: float = Field(1.0, gt=0, description="learning rate of the optimiser")
    weight_decay: float = Field(0.5, ge=0, description="weight of |m* - m| / |m|^2 in the loss")
    clamp_norm_factor: float = Field(2.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|; published: .75")
    relaxation: float = Field(
        1e-3,
        ge=0,
        description="eps, as a multiple of the mean diagonal of K^T C^-1 K; 0: each key gets its value exactly",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": JOINT_FAST,
        "paper": {**JOINT_PUBLISHED, "steps": 20, "learning_rate": 0.5, "clamp_norm_factor": 0.75, "relaxation": 0.0},
    }


class Emmet(JointMethod):
    """The smallest change of one layer's W, in the norm given by C, that changes the output for every key as wanted.

    A key is the mean of the bare prompt's key and the mean of the other contexts' keys; the wanted change is measured
    at the bare prompt, as in the public code.
    """

    entry = method_entry("emmet")
    site = "value"
    config_class = EmmetConfig
    config: EmmetConfig

    def directions(self, layer: int, keys: Tensor, *, others: OtherKeys, protected: Tensor | None) -> Tensor:
        """Return C^-1 K (K^T C^-1 K + eps I)^-1, [d_ff, facts]; other earlier keys are constraints with a change of 0.

        The key of a fact that is edited again is no such constraint: it would halve the fact's own new change.
        """
        all_keys = keys
        if protected is not None:
            other_keys = self._drop_same(protected.to(keys), keys)
            all_keys = torch.cat([keys, other_keys], 1)  # K, [d_ff, facts + earlier]
        solved = self.solve(layer, all_keys, others)  # C^-1 K
        facts = keys.shape[1]
        diagonal = (all_keys * solved).sum(0)  # of K^T C^-1 K, [facts + earlier]
        eps = self.config.relaxation * float(diagonal[:facts].mean())
        return joint_directions(all_keys, solved, weight=eps, count=facts)

    def _drop_same(self, protected: Tensor, keys: Tensor) -> Tensor:
        """Return the protected keys that are none of ``keys`` [d_ff, facts], [d_ff, remaining].

        ``protected`` are sqrt(remember) times the earlier keys, [d_ff, earlier].
        """
        earlier = protected / self.config.remember**0.5
        distances = torch.cdist(earlier.T, keys.T) / keys.norm(dim=0)  # relative to the fact's key, [earlier, facts]
        is_other = distances.amin(1) > _SAME  # [earlier]
        return protected[:, is_other]
