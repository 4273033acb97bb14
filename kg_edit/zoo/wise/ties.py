"""TIES: merge several changes of one weight (Yadav et al., NeurIPS 2023, arXiv 2306.01708).

trim    each change D_k keeps its entries of the largest magnitude, a share ``density`` of them
elect   the sign of an entry is that of sum_k w_k D_k
merge   an entry is the weighted mean of those D_k that have the elected sign there
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_by_ties(changes: Sequence[Tensor], weights: Sequence[float], *, density: float) -> Tensor:
    """Return the merge of changes.

    Args:
        changes: D_k, of one shape.
        weights: w_k of each change.
        density: the share of a change's entries that stay, the largest ones.

    Returns:
        The merged change, in the shape of the others; an entry is 0 where all are 0.
    """
    stacked = torch.stack(list(changes)).flatten(1)  # [changes, entries]
    weight = torch.tensor(weights).to(stacked)[:, None]  # [changes, 1]

    # Trim
    kept = max(1, int(density * stacked.shape[1]))
    largest = stacked.abs().topk(kept).indices  # [changes, kept]
    trimmed = torch.zeros_like(stacked).scatter(1, largest, 1.0) * stacked

    # Elect
    weighted = weight * trimmed
    sign = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)  # [entries]

    # Merge
    agrees = trimmed.sign() == sign  # [changes, entries]
    total = (weight * agrees).sum(0)  # [entries]
    merged = (weighted * agrees).sum(0) / total.where(total > 0, 1.0)
    return merged.reshape(changes[0].shape)
