"""What a method says of itself before there is a model: its family, what it trains, and how much it computes.

`EditingMethod.family` and `EditingMethod.trains` say which formulas hold, `MethodConfig.workload` gives the numbers.
`kg_edit.planning` makes floating-point operations and bytes of them, and knows no method's settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kg_edit.covariance.store import CovarianceConfig

Family = Literal[
    "rank-one",  # a value by descent, written under one key in one layer (ROME, GLAME)
    "joint",  # values by descent, written together in one or several layers (MEMIT)
    "fine-tuning",  # descent on a whole weight
    "adapters",  # descent on low-rank factors (LoRA)
    "codebook",  # a value by descent, kept beside a layer (GRACE)
    "neurons",  # integrated gradients in all layers (KN)
    "hypernetwork",  # one gradient, changed by a trained network (MEND)
    "in-context",  # a prompt: nothing is computed
]

Trains = Literal["value", "graph network", "weight", "all weights", "adapters", "nothing"]
"""What an optimiser holds: a value [d], an R-GNN, a matrix [d, d_ff], all matrices of the blocks, low-rank factors."""


@dataclass(frozen=True, kw_only=True)
class GraphNetwork:
    """An R-GNN of so many ``hops`` on ``per_node`` statements a node; labels are read up to ``layer``.

    ``layer`` None: not below the layer that is written, so that a plan errs on the safe side.
    """

    hops: int
    per_node: int
    layer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one edit takes, in numbers that need no model.

    Attributes:
        steps: evaluations of the loss at most, or pieces of an integral.
        rows: rows of tokens in an evaluation: the prompt in each of its contexts, or the edits that are trained on.
        context_tokens: tokens of all contexts together, which run once for all edits.
        facts: facts that are written for one edit, each with a search of its own.
        covariance: what C is measured from; None: no C.
        eigenvectors: whether C's eigenvectors are needed, and not its Cholesky factor alone.
        network: the R-GNN, for methods that train one.
        rank: the rank of the change that is trained (LoRA's r).
        matrices: weights that are changed in a layer.
        held: rows of a fact that run once more up to each written layer, for the keys of their other tokens.
        together: edits that are sought in the same passes, though each is written alone.
        kept: tokens of an edit whose keys and values are kept for later edits (`kg_edit.models.prefix_store`).
    """

    steps: int = 1
    rows: int = 1
    context_tokens: int = 0
    facts: int = 1
    covariance: CovarianceConfig | None = None
    eigenvectors: bool = False
    network: GraphNetwork | None = None
    rank: int = 1
    matrices: int = 1
    held: int = 0
    together: int = 1
    kept: int = 0
