"""What is known of a method's computation before a model is loaded: its family, what it trains, and how much.

`kg_edit.planning` computes the needed memory from these, so it does not have to know the settings of methods:
`EditingMethod.family` and `EditingMethod.trains` select its formulas, `MethodConfig.workload` gives it the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kg_edit.covariance.store import CovarianceConfig

Family = Literal[
    "rank-one",  # a value by descent, written under one key in one layer (ROME, GLAME)
    "joint",  # values by descent, written together in one or several layers (MEMIT)
    "fine-tuning",  # descent on a whole weight
    "low-rank",  # descent on low-rank factors (LoRA)
    "adapter",  # a trained module that changes the output of a layer (MEMOIR, T-Patcher)
    "codebook",  # a value by descent, that replaces the output of a layer (GRACE)
    "neurons",  # integrated gradients in all layers (KN)
    "gradient",  # one gradient, written by least squares (UltraEdit)
    "hypernetwork",  # one gradient, changed by a trained network (MEND)
    "in-context",  # a prompt: nothing is computed
]

Trains = Literal["value", "graph network", "weight", "all weights", "adapters", "nothing"]
"""What an optimiser trains: a value [d], an R-GNN, a matrix [d, d_ff], all matrices of the blocks, low-rank factors."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The numbers that decide how much memory one edit takes; none of them needs a model.

    Attributes:
        rows: the rows of tokens that one evaluation of the loss runs: the prompt in each of its contexts, or the
            prompts that are trained.
        context_tokens: the tokens of all contexts together, which run once for all edits. In training: the tokens of
            all texts of a step that are not its prompts.
        facts: the number of facts that are written for one edit, each with a descent of its own.
        covariance: from what C is measured; None if the method uses no C.
        hops: the number of layers of the R-GNN that is trained; 0 if there is no R-GNN.
        rank: the rank of the trained change (LoRA's r).
        matrices: the number of changed weights in each layer.
        dense: whether the patch stores whole matrices, although the change that was found has a low rank.
        keys: whether the patch stores a key [d_ff] of each fact in each layer, for later edits.
        together: how many edits run in the same passes, although each is written alone.
        kept: how many tokens of an edit have their keys and values kept for later edits
            (`kg_edit.engine.prefix_store`).
    """

    rows: int = 1
    context_tokens: int = 0
    facts: int = 1
    covariance: CovarianceConfig | None = None
    hops: int = 0
    rank: int = 1
    matrices: int = 1
    dense: bool = False
    keys: bool = False
    together: int = 1
    kept: int = 0
