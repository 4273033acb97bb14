"""PMET (Li et al., AAAI 2024, arXiv 2308.08742): MEMIT's closed form for values that leave the attention's part out.

1. Gradient descent finds two changes [d] at the subject's last token in the last edited layer, with which the model
   predicts the fact: delta_a of the attention's output, delta_m of the MLP's. The loss is ROME's, with a penalty for
   each. Only v* = m + delta_m is written, into the MLP: the paper says that what delta_a does is not knowledge of the
   fact.
2. Layer by layer, in ascending order, MEMIT's update with a square root in place of the number of layers left:

    W_l += R K^T (lambda C_l + K K^T)^-1,   R = (v* - m) / sqrt(layers left)  [d, facts]

    m is the present output of the last layer's MLP.

The public code also counts L_p a tenth from when o* is the likeliest token in each context, and then ends at
L_a <= 0.01. Here the weight of L_p is constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kg_edit.engine.prefix_cache import Prefix, SharedContexts
from kg_edit.engine.tail_forward import TailForward
from kg_edit.locate_then_edit.descent import Descent
from kg_edit.locate_then_edit.objective import Objective
from kg_edit.locate_then_edit.states import subject_states
from kg_edit.methods.memit.joint_config import JOINT_FAST, JOINT_PUBLISHED
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.models.hooks import change_output, hidden_state
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.zoo.entries import method_entry


class PmetConfig(MemitConfig):
    """PMET's settings. The preset ``paper`` has those of the public code for GPT-J, except the layers.

    The published bound is too narrow for SmolLM2-135M: half of the first 24 edits of CounterFactPlus fail.
    """

    clamp_norm_factor: float = Field(
        2.0, gt=0, description="maximum of each change, as a multiple of the output's norm; published: 0.75"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "fast": JOINT_FAST,
        "paper": {
            **JOINT_PUBLISHED,
            "steps": 30,
            "learning_rate": 0.2,
            "kl_weight": 1.0,
            "clamp_norm_factor": 0.75,
            "mom2_weight": 6_000.0,
        },
    }


class BothOutputs(TailForward):
    """A forward whose change is of both outputs of block ``layer``: ``values`` and changes are [rows, 2, d].

    The first is the MLP's, the second the attention's. In families whose MLP reads the attention's output, as in
    Llama's, the second change reaches the MLP too.
    """

    def __init__(
        self,
        model: LanguageModel,
        layer: int,
        rows: Sequence[Prompt],
        *,
        contexts: SharedContexts | None = None,
        prefix: Prefix | None = None,
    ) -> None:
        """Run the tails once without a change, as `TailForward`."""
        self._attention = model.attention(layer)
        seen = dict[str, Tensor]()

        def see(_: nn.Module, __: Any, output: Any) -> None:
            seen["attended"] = hidden_state(output).clone()

        with self._attention.register_forward_hook(see):
            super().__init__(model, layer, rows, contexts=contexts, prefix=prefix)
        # The constructor runs the prefixes and then the tails, so what was seen last is of the tails. Their first token
        # is the subject's last one.
        attended = seen["attended"].reshape(len(rows), -1, self.values.shape[-1])  # [rows, tokens, d]
        attended = attended[:, 0]  # [rows, d]
        self.values = torch.stack([self.values, attended.to(self.values)], 1)

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Return logits [reads, vocabulary] under ``change`` [rows, 2, d], as `TailForward`."""
        if change is None:
            return super().logits()
        value, attended = change.unbind(1)  # of the MLP's output and of the attention's, [rows, d] each

        def shifted(output: Any) -> Any:
            state = hidden_state(output)
            moved = state + attended.to(state).reshape(state.shape)
            if isinstance(output, tuple):
                return (moved, *output[1:])
            return moved

        with change_output(self._attention, shifted):
            return super().logits(value)


class Pmet(Memit):
    """Values of the MLP alone, found beside a change of the attention, in larger shares of the lower layers."""

    entry = method_entry("pmet")
    takes_recurrent = False
    site = "value"
    forward = BothOutputs
    config_class = PmetConfig
    config: PmetConfig

    @property
    def parameter_count(self) -> int:
        """The number of values that are trained for a fact: those of both changes."""
        return 2 * self.model.width

    def find_states(self, loss: Objective, bare: Sequence[Prompt]) -> Tensor:
        """Return both outputs of the last layer at the subject's last token of each bare prompt, [facts, 2, d].

        What is written is m + delta_m, so m is always that of the model itself, and not of a copy in bfloat16.
        """
        if self.config.descent_dtype == "model":
            return loss.value
        last = self.layers[-1]
        _, m = subject_states(self.model, bare, layer=last, last=last, site="value")
        return torch.stack([m, loss.value[:, 1]], 1)

    def penalty(self, change: Tensor, state: Tensor) -> Tensor:
        """Return the regulariser of both changes, weight_decay (|delta_m| / |m|^2 + |delta_a| / |a|^2), [facts]."""
        return super().penalty(change, state).sum(-1)

    def split_written(self, states: Tensor, descents: Sequence[Descent]) -> tuple[Tensor, list[Descent]]:
        """Return m [facts, d] and delta_m: the attention's part is not written."""
        of_mlp = [replace(descent, change=descent.change[0]) for descent in descents]
        return states[:, 0], of_mlp

    def share_of_layer(self, remaining: int) -> float:
        """Return 1 / sqrt(layers left)."""
        return 1 / math.sqrt(remaining)
