"""MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229): many facts at once, with a share of the change in each layer.

1. For every fact, gradient descent finds z [d] (their Eq. 16; `JointMethod.find_values`). It takes the place of h [d],
   the state of the last edited layer at the subject's last token: with z the model predicts the fact.
2. Layer by layer, in ascending order, one update of the down-projection W_l [d, d_ff] moves the states of all facts
   from h towards z (section 4.3; `JointMethod.write_weights`):

    W_l += R U^T,   U = (lambda C_l + K K^T)^-1 K  [d_ff, facts]                                         (Eq. 14)

    R [d, facts]     what is missing of z - h, divided by the number of layers that are left
    K [d_ff, facts]  the keys of the facts in layer l
    C_l [d_ff, d_ff] the second moment of the layer's keys over ordinary text; lambda is its weight (``mom2_weight``)

Two more terms, which are not in the paper, are on by default and off in the preset ``paper``:

    U = (lambda (C_l + hold H) + K_p K_p^T + K K^T)^-1 K                                      (`Memit.directions`)

    H [d_ff, d_ff]             the second moment of the keys of the prompts' other tokens, at which the descent made no
                               change (`kg_edit.locate_then_edit.states`)
    K_p [d_ff, earlier facts]  the keys of earlier edits, times sqrt(remember) (OTE = SE, arXiv 2605.26670)

`JointMethod` has both steps, which MEMIT shares with AlphaEdit, EMMET, PMET and EAMET. A patch stores the values z, so
that an edit can be removed and the others written again (`JointMethod.without`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kg_edit.covariance.moment import OtherKeys
from kg_edit.locate_then_edit.joint import joint_directions
from kg_edit.methods.entries import method_entry
from kg_edit.methods.memit.joint_config import JOINT_FAST, JOINT_PUBLISHED, SpreadConfig
from kg_edit.methods.memit.joint_method import JointMethod


class MemitConfig(SpreadConfig):
    """MEMIT's settings. The preset ``paper`` has those of the published code for GPT-2 XL, except the layers.

    For keys like those that C was measured from, k C^-1 k is d_ff on average. The default lambda = d_ff / 10 therefore
    lets a layer write most of its share under such a key, in a model of any size. The published number would be too
    strong for a small model.
    """

    mom2_weight: float | None = Field(
        None,
        gt=0,
        description="lambda, the weight of C; a new key has 1; default d_ff / 10 (published: 15000, 20000)",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": JOINT_FAST,
        "paper": {**JOINT_PUBLISHED, "mom2_weight": 20_000.0},
    }


class Memit(JointMethod):
    """Least squares over new and old keys in every layer."""

    entry = method_entry("memit")
    config_class = MemitConfig
    config: MemitConfig

    def directions(self, layer: int, keys: Tensor, *, others: OtherKeys, protected: Tensor | None) -> Tensor:
        """Return (lambda (C + hold H) + K_p K_p^T + K K^T)^-1 K, [d_ff, facts] (Eq. 14).

        Args:
            layer: l, the block that is written.
            keys: K, [d_ff, facts], in float64.
            others: H.
            protected: K_p, [d_ff, earlier facts]; None if there are none.
        """
        lambda_ = self.config.mom2_weight or len(keys) / 10  # by default d_ff / 10
        all_keys = keys
        if protected is not None:
            all_keys = torch.cat([keys, protected.to(keys)], 1)  # [K K_p], whose moment is K K^T + K_p K_p^T
        solved = self.solve(layer, all_keys, others)  # A^-1 [K K_p], where A = C + hold H

        # Woodbury's identity for B = [K K_p]: (lambda A + B B^T)^-1 B = A^-1 B (B^T A^-1 B + lambda I)^-1.
        # The system on the right has as many rows as there are facts, the one on the left d_ff. The first columns of
        # the result are those of K.
        return joint_directions(all_keys, solved, weight=lambda_, count=keys.shape[1])
