"""GRACE's codebook: keys, values, and the balls in which a value is used (Hartvigsen et al., NeurIPS 2023).

- `Codebook`: keys k_i [d_ff], values v_i [d] and labels in the order of the edits.
- `Deferral`, `regions`: the rule that computes the radii eps_i from the order of the edits. The radii are not stored,
  so a codebook without one of its edits is the same as if the edit had never been made.
- `Regions.of`: the entry in whose ball ||x - k_i|| <= eps_i a key x lies.

MELO has codebooks too, whose balls grow by ``expand="mean"`` (`kg_edit.zoo.melo.blocks`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Metric = Literal["euclidean", "unit"]
Expand = Literal["coverage", "mean", "moving-average", "widen"]
Lookup = Literal["every-token", "prompt-end"]
_SAME_KEY = 1e-3  # two keys closer than this, times the initial radius, count as the same key
_ROUNDING = 4  # so do keys whose distance is at most this many units of rounding, which batching may change
_GAP = 1e-5  # after a split, the older ball's radius is smaller than half of the distance by this much
_SLACK = 1 + 1e-3  # keys on the rim of a ball count as inside, although batching changes their rounding


class Deferral(BaseModel):
    """Settings of the deferral rule: which inputs belong to a key. The defaults are those of Algorithm 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    radius: float = Field(
        1.0, gt=0, description="ε, the radius of a new key; keys differ in size, see norms.key of an edit"
    )
    expand: Expand = Field(
        "widen",
        description="a near key of the same target: ε more (widen, as in Algorithm 1), reach it (coverage), also move "
        "half of the way (moving-average), or move to the mean of the keys and reach them all (mean, as in MELO)",
    )
    metric: Metric = Field(
        "euclidean", description="distance of two keys as they are, or scaled to length 1 (unit: 0 to 2)"
    )
    lookup: Lookup = Field(
        "prompt-end",
        description="tokens at which the codebook is asked: the prompt's last one (prompt-end), or every-token",
    )

    def placed(self, keys: Tensor) -> Tensor:
        """Return keys [..., d_ff] as float32 points whose Euclidean distance is the metric."""
        points = keys.float()
        return torch.nn.functional.normalize(points, dim=-1) if self.metric == "unit" else points


@dataclass(frozen=True, eq=False, kw_only=True)
class Codebook:
    """Entries in the order of their edits, for one weight [d, d_ff].

    Attributes:
        keys: [entries, d_ff], in the precision of the model that computed them.
        values: [entries, d]; another kind of codebook may have other ``axes``.
        labels: the texts of the targets; two edits agree if their labels are equal.
        ids: of the edits.
        deferral: the rule for the radii.
    """

    axes: ClassVar[int] = 2

    keys: Tensor
    values: Tensor
    labels: tuple[str, ...]
    ids: tuple[str, ...]
    deferral: Deferral

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d, d_ff) of the weight whose output the codebook replaces."""
        return self.values.shape[1], self.keys.shape[1]

    def __add__(self, other: Self) -> Self:
        """Return the entries of both codebooks, this one's first; both must have the same deferral rule."""
        return replace(
            self,
            keys=torch.cat([self.keys, other.keys]),
            values=torch.cat([self.values, other.values]),
            labels=self.labels + other.labels,
            ids=self.ids + other.ids,
        )

    def without(self, ids: Collection[str]) -> Self:
        """Return the codebook without the edits with these ids, as if they had never been made."""
        remaining = [index for index, edit_id in enumerate(self.ids) if edit_id not in ids]
        return replace(
            self,
            keys=self.keys[remaining],
            values=self.values[remaining],
            labels=tuple(self.labels[index] for index in remaining),
            ids=tuple(self.ids[index] for index in remaining),
        )

    @cached_property
    def regions(self) -> Regions:
        """The balls in which the codebook replaces the output (see `regions`); computed once."""
        return regions(self.keys, self.labels, self.deferral)


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions:
    """The balls in which a codebook replaces the output.

    Attributes:
        centres: [balls, d_ff].
        radii: [balls].
        entries: [balls], the index of the entry whose value is the output in the ball.
        owners: [entries], the ball that each key belongs to; -1 if a split left it outside, or a later edit has it.
    """

    centres: Tensor
    radii: Tensor
    entries: Tensor
    owners: Tensor

    def of(self, points: Tensor) -> Tensor:
        """Return the entry for each of ``points`` [points, d_ff]: that of the nearest ball if it is inside, else -1."""
        balls = self.balls(points)
        return balls if not len(self.entries) else torch.where(balls >= 0, self.entries[balls], -1)

    def balls(self, points: Tensor) -> Tensor:
        """Return the nearest ball for each of ``points`` [points, d_ff] that is inside of it, else -1."""
        if not len(self.entries):
            return torch.full((len(points),), -1, device=points.device)
        # for more than 25 rows `cdist` would use products, which are inexact for near points
        nearest = torch.cdist(points, self.centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
        distance = (points - self.centres[nearest]).norm(dim=-1)
        inside = distance <= self.radii[nearest] * _SLACK
        return torch.where(inside, nearest, -1)

    def to(self, device: torch.device) -> Regions:
        """Return the same regions, with their tensors on ``device``."""
        return Regions(
            centres=self.centres.to(device),
            radii=self.radii.to(device),
            entries=self.entries.to(device),
            owners=self.owners.to(device),
        )


def regions(keys: Tensor, labels: Sequence[str], rule: Deferral) -> Regions:
    """Compute the balls of the keys by the paper's Algorithm 1.

    Each entry in turn is compared with the nearest earlier ball i, at distance d from its centre:

    - init: if d > ε_i + ε, the entry gets a new ball with radius ε.
    - expand: otherwise, if the labels are equal, ball i grows. Algorithm 1 adds ε to its radius (``widen``), the
      published program extends it to the new key (``coverage``). If the key is already inside, nothing changes.
      In MELO the centre becomes the mean of the ball's keys, and the radius the largest distance of one of them, at
      least ε (``mean``).
    - split: otherwise, the entry gets a new ball, and both balls end half-way between the key and the older centre.

    Beyond the paper: if two edits with different labels have the same key, only the later one is used.

    Args:
        keys: [entries, d_ff], in the order of the edits.
        labels: of the entries; two edits agree if their labels are equal.
        rule: the settings.
    """
    points = rule.placed(keys)
    epsilon = rule.radius
    passed = _superseded(keys, points, labels, epsilon)
    centres = torch.empty_like(points)
    radii = list[float]()
    entries = list[int]()  # the entry that made each ball
    owners = torch.full((len(labels),), -1, device=points.device)
    for entry in range(len(labels)):
        if entry in passed:
            continue
        nearest = 0
        distance = 0.0
        if entries:
            distances = (centres[: len(entries)] - points[entry]).norm(dim=-1)
            nearest = int(distances.argmin())
            distance = float(distances[nearest])
        if not entries or distance > epsilon + radii[nearest]:  # init
            radius = epsilon
        elif labels[entry] == labels[entries[nearest]]:  # expand
            owners[entry] = nearest
            if rule.expand == "mean":
                members = points[owners == nearest]
                centres[nearest] = members.mean(0)
                radii[nearest] = max(epsilon, float((members - centres[nearest]).norm(dim=-1).max()))
            elif distance > radii[nearest]:
                # a wider ball contains the key, else it would be an init
                radii[nearest] = radii[nearest] + epsilon if rule.expand == "widen" else distance
                if rule.expand == "moving-average":
                    centres[nearest] = (centres[nearest] + points[entry]) / 2
            continue
        else:  # split
            radii[nearest] = max(distance / 2 - _GAP, 0.0)
            radius = distance / 2
            outside = (points - centres[nearest]).norm(dim=-1) > radii[nearest]
            owners[outside & (owners == nearest)] = -1
        owners[entry] = len(entries)
        centres[len(entries)] = points[entry]
        entries.append(entry)
        radii.append(radius)
    return Regions(
        centres=centres[: len(entries)].clone(),
        radii=torch.tensor(radii, dtype=torch.float32, device=points.device),
        entries=torch.tensor(entries, dtype=torch.long, device=points.device),
        owners=owners,
    )


def _superseded(keys: Tensor, points: Tensor, labels: Sequence[str], epsilon: float) -> set[int]:
    """The indices of entries for which a later entry has the same key and another label.

    Keys count as the same if they differ by rounding, in the coarser of the types in which they were computed.
    """
    if len(labels) < 2:
        return set()
    # eps of the type in which each key was computed, [entries]: a sum of codebooks has the finer type
    eps = torch.full(keys.shape[:1], torch.finfo(keys.dtype).eps, device=keys.device)
    for coarser in (torch.float16, torch.bfloat16):
        exact = (keys.to(coarser).to(keys.dtype) == keys).all(dim=-1)
        eps = torch.where(exact, eps.clamp(min=torch.finfo(coarser).eps), eps)
    near = (_ROUNDING * eps * points.norm(dim=-1)).clamp(min=_SAME_KEY * epsilon)
    wide = torch.maximum(near[:, None], near[None])  # [entries, entries]
    rough = torch.cdist(points, points)  # inexact, but by far less than 1e-2 of a key's length
    pairs = (rough <= wide + 1e-2 * points.norm(dim=-1)[:, None]).triu(1).nonzero().tolist()
    passed = set[int]()
    for first, second in pairs:
        is_same_key = (points[first] - points[second]).norm() <= wide[first, second]
        if labels[first] != labels[second] and is_same_key:
            passed.add(first)
    return passed
