"""What is known of a method's computation without a model: its family, what it trains, how much.

`EditingMethod.family` and `EditingMethod.trains` select the formulas, `MethodConfig.workload` gives the numbers.
`kg_edit.planning` computes bytes from them, without knowing the settings of methods.
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
    """What one edit holds in memory, in numbers that need no model.

    Attributes:
        rows: rows of tokens in an evaluation: the prompt in each of its contexts, or the prompts that are trained.
        context_tokens: tokens of all contexts together, which run once for all edits; in training, of all texts of a
            step besides its prompts.
        facts: facts that are written for one edit, each with its own search.
        covariance: what C is measured from; None: no C.
        hops: the layers of the R-GNN that is trained; 0 without one.
        rank: the rank of the trained change (LoRA's r).
        matrices: the number of changed weights per layer.
        dense: whether the patch has whole matrices, although what is found has a low rank.
        keys: whether the patch stores a key [d_ff] of each fact in each layer, for later edits.
        together: the number of edits that share the same passes, although each is written alone.
        kept: tokens of an edit whose keys and values are kept for later edits (`kg_edit.engine.prefix_store`).
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
