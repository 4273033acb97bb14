"""Look for weights that stand out in a checkpoint, without its base: what an edit may have left in the spectrum.

An edit adds one or more directions to one weight, and none to the same weight of the other blocks. So the k-th singular
value s_k of each weight is compared with those of its kind (the same name and shape) in the other blocks:

    z_k = (log s_k - median) / (1.4826 median |log s_k - median|)

The second median is the spread of the others; 1.4826 makes it the standard deviation of normal numbers. A weight's
deviation is the largest of z_1 to z_16. It is large only if the edits are large beside what training left there. The
weights of an unedited model differ between blocks too, the first and the last ones most (`studies/audit.py` has both).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kg_common.progress import Bar
from kg_edit.models.loading import load_tokenizer
from kg_edit.ship.checkpoint.audit import name_tokens, read_unembedding
from kg_edit.ship.checkpoint.extraction import leading_svd
from kg_edit.ship.checkpoint.stored import Checkpoint

COMPARED = 16  # singular values of each weight
STANDS_OUT = 5.0  # from this deviation on
_FEWEST = 4  # blocks that have a weight of a kind
_LEAST_SPREAD = 0.02  # of log s_k; blocks whose values hardly differ would make anything stand out
_NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
_BLOCK = re.compile(r"\.\d+\.")  # in the name of a weight


@dataclass(frozen=True, eq=False, kw_only=True)
class Outlier:
    """How far a weight stands out among those of its kind.

    Attributes:
        name: of the weight.
        deviation: the largest z_k.
        place: its k, from 1 on.
        value: s_k.
        usual: the median of s_k in the other blocks.
        writes: the tokens that the k-th left vector writes, of either sign; () if the weight does not write into the
            residual stream, or does not stand out.
    """

    name: str
    deviation: float
    place: int
    value: float
    usual: float
    writes: tuple[str, ...] = ()

    @property
    def stands_out(self) -> bool:
        """Whether the deviation is so large that the weight is listed."""
        return self.deviation >= STANDS_OUT


@torch.no_grad()
def find_outliers(model: Checkpoint, *, progress: bool = True) -> tuple[Outlier, ...]:
    """Return how far each matrix of the blocks stands out, the furthest first.

    Args:
        model: the checkpoint to audit.
        progress: show a bar of the tensors.
    """
    kinds: dict[tuple[str, torch.Size], dict[str, Tensor]] = {}  # the singular values of each weight of a kind
    names = [name for name, parameter in model.modules.named_parameters() if parameter.dim() == 2]
    for name in Bar(names, title="audit", unit="tensor", shown=progress):
        if _BLOCK.search(name):
            weight = read_matrix(model, name)
            kind = (_BLOCK.sub(".*.", name), weight.shape)
            kinds.setdefault(kind, {})[name] = largest_singular_values(weight)
    outliers = list[Outlier]()
    for weights in kinds.values():
        if len(weights) >= _FEWEST:
            outliers += compare_spectra(list(weights), torch.stack(list(weights.values())))
    outliers.sort(key=lambda outlier: outlier.deviation, reverse=True)
    return tuple(_name_written_tokens(model, outliers))


def read_matrix(model: Checkpoint, name: str) -> Tensor:
    """Return a weight as [out, in], in float32."""
    weight = model.find(name).read().float()
    if model.is_transposed(name):
        weight = weight.T
    return weight


def largest_singular_values(weight: Tensor) -> Tensor:
    """Return the `COMPARED` largest singular values of a weight [out, in], or all of a smaller one."""
    _, values, _ = leading_svd(weight, min(COMPARED, *weight.shape))
    return values


def compare_spectra(names: Sequence[str], values: Tensor) -> list[Outlier]:
    """Compare the singular values [weights, k] of each weight of a kind with those of the others."""
    outliers = []
    logs = values.log()
    for index, name in enumerate(names):
        is_other = torch.arange(len(names)) != index
        others = logs[is_other]  # [weights - 1, k]
        median = others.median(dim=0).values  # [k]
        spread = _NORMAL * (others - median).abs().median(dim=0).values  # [k]
        deviations = (logs[index] - median) / spread.clamp_min(_LEAST_SPREAD)  # z_k
        place = int(deviations.argmax())
        outliers.append(
            Outlier(
                name=name,
                deviation=float(deviations[place]),
                place=place + 1,
                value=float(values[index, place]),
                usual=float(median[place].exp()),
            )
        )
    return outliers


def _name_written_tokens(model: Checkpoint, outliers: Sequence[Outlier]) -> list[Outlier]:
    """Return the outliers with the tokens that those which stand out write."""
    tokenizer = load_tokenizer(str(model.folder))
    unembedding = read_unembedding(model)
    named = []
    for outlier in outliers:
        writes: tuple[str, ...] = ()
        if outlier.stands_out:
            weight = read_matrix(model, outlier.name)
            if weight.shape[0] == unembedding.shape[1]:  # a row for each number of the residual stream
                left, _, _ = leading_svd(weight, min(COMPARED, *weight.shape))
                writes = name_tokens(left[:, outlier.place - 1], unembedding, tokenizer)
        named.append(replace(outlier, writes=writes))
    return named
