"""GRACE's codebook: keys, values, and the balls in which a value is used (Hartvigsen et al., NeurIPS 2023).

- `Codebook`: keys k_i [d_ff], values v_i [d] and labels in the order of the edits.
- `Deferral`, `find_regions`: the rule that computes the radii eps_i from the order of the edits. The radii are not
  stored, so a codebook without one of its edits is the same as if the edit had never been made.
- `Regions.find_entries`: the entry in whose ball ||x - k_i|| <= eps_i a key x lies.

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

    def to_points(self, keys: Tensor) -> Tensor:
        """Return keys [..., d_ff] as float32 points whose Euclidean distance is the metric."""
        points = keys.float()
        if self.metric == "unit":
            return torch.nn.functional.normalize(points, dim=-1)
        return points


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
        """The balls in which the codebook replaces the output (see `find_regions`); computed once."""
        return find_regions(self.keys, self.labels, self.deferral)

    def move_to(self, device: torch.device) -> Self:
        """Return the same codebook with its tensors and its balls on ``device``."""
        moved = replace(self, keys=self.keys.to(device), values=self.values.to(device))
        # The copy takes over the cached `regions`: radii that are computed on another device are rounded differently.
        moved.__dict__["regions"] = self.regions.to(device)
        return moved


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

    def find_entries(self, points: Tensor) -> Tensor:
        """Return the entry for each of ``points`` [points, d_ff]: that of the nearest ball if it is inside, else -1."""
        balls = self.find_balls(points)
        if not len(self.entries):
            return balls
        return torch.where(balls >= 0, self.entries[balls], -1)

    def find_balls(self, points: Tensor) -> Tensor:
        """Return the nearest ball for each of ``points`` [points, d_ff] that is inside of it, else -1."""
        if not len(self.entries):
            return torch.full((len(points),), -1, device=points.device)
        # By default, `cdist` uses products for more than 25 rows, which are inexact for near points.
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


def find_regions(keys: Tensor, labels: Sequence[str], rule: Deferral) -> Regions:
    """Compute the balls of the keys by the paper's Algorithm 1.

    Each entry in turn is compared with the nearest earlier ball i, at distance d from its centre:

    - init: if d > ε_i + ε, the entry gets a new ball with radius ε.
    - expand: otherwise, if the labels are equal, ball i grows (`_GrowingBalls.expand`).
    - split: otherwise, the entry gets a new ball, and both balls end half-way between the key and the older centre.

    Beyond the paper: if two edits with different labels have the same key, only the later one is used.

    Args:
        keys: [entries, d_ff], in the order of the edits.
        labels: of the entries; two edits agree if their labels are equal.
        rule: the settings.
    """
    points = rule.to_points(keys)
    superseded = _find_superseded(keys, points, labels, rule.radius)
    balls = _GrowingBalls(points, rule)
    for entry in range(len(labels)):
        if entry in superseded:
            continue
        if not balls.entries:
            balls.add(entry, radius=rule.radius)
            continue
        nearest, distance = balls.find_nearest(entry)
        if distance > rule.radius + balls.radii[nearest]:  # init
            balls.add(entry, radius=rule.radius)
        elif labels[entry] == labels[balls.entries[nearest]]:
            balls.expand(nearest, entry, distance)
        else:  # split
            balls.shrink(nearest, radius=max(distance / 2 - _GAP, 0.0))
            balls.add(entry, radius=distance / 2)
    return balls.to_regions()


class _GrowingBalls:
    """The balls while the entries are added, one after the other.

    ``entries`` and ``radii`` have an item for each ball: the entry that made it, and its radius. ``centres`` has room
    for a ball of each entry, [entries, d_ff]. ``owners`` is as in `Regions`.
    """

    def __init__(self, points: Tensor, rule: Deferral) -> None:
        self.points = points
        self.rule = rule
        self.entries = list[int]()
        self.radii = list[float]()
        self.centres = torch.empty_like(points)
        self.owners = torch.full((len(points),), -1, device=points.device)

    def find_nearest(self, entry: int) -> tuple[int, float]:
        """Return the ball whose centre is nearest to an entry's key, and its distance."""
        distances = (self.centres[: len(self.entries)] - self.points[entry]).norm(dim=-1)
        nearest = int(distances.argmin())
        return nearest, float(distances[nearest])

    def add(self, entry: int, *, radius: float) -> None:
        """Add a ball around an entry's key."""
        ball = len(self.entries)
        self.owners[entry] = ball
        self.centres[ball] = self.points[entry]
        self.entries.append(entry)
        self.radii.append(radius)

    def expand(self, ball: int, entry: int, distance: float) -> None:
        """Let a ball grow to an entry's key, which is at this distance from its centre.

        Algorithm 1 adds ε to the radius (``widen``), so that the ball contains the key, or else the key would be an
        init. The published program extends the ball to the key (``coverage``). If the key is already inside, nothing
        changes. In MELO the centre becomes the mean of the ball's keys, and the radius the largest distance of one of
        them, at least ε (``mean``).
        """
        self.owners[entry] = ball
        if self.rule.expand == "mean":
            members = self.points[self.owners == ball]
            self.centres[ball] = members.mean(0)
            farthest = float((members - self.centres[ball]).norm(dim=-1).max())
            self.radii[ball] = max(self.rule.radius, farthest)
            return
        if distance <= self.radii[ball]:
            return
        if self.rule.expand == "widen":
            self.radii[ball] += self.rule.radius
        else:
            self.radii[ball] = distance
        if self.rule.expand == "moving-average":
            self.centres[ball] = (self.centres[ball] + self.points[entry]) / 2

    def shrink(self, ball: int, *, radius: float) -> None:
        """Give a ball a smaller radius; keys that are outside then have no ball."""
        self.radii[ball] = radius
        is_outside = (self.points - self.centres[ball]).norm(dim=-1) > radius
        self.owners[is_outside & (self.owners == ball)] = -1

    def to_regions(self) -> Regions:
        """Return the balls as tensors."""
        device = self.points.device
        return Regions(
            centres=self.centres[: len(self.entries)].clone(),
            radii=torch.tensor(self.radii, dtype=torch.float32, device=device),
            entries=torch.tensor(self.entries, dtype=torch.long, device=device),
            owners=self.owners,
        )


def _find_superseded(keys: Tensor, points: Tensor, labels: Sequence[str], epsilon: float) -> set[int]:
    """Return the indices of entries for which a later entry has the same key and another label.

    Keys count as the same if they differ by rounding, in the coarser of the types in which they were computed.
    """
    if len(labels) < 2:
        return set()
    lengths = points.norm(dim=-1)  # [entries]
    own_tolerances = (_ROUNDING * _rounding_units(keys) * lengths).clamp(min=_SAME_KEY * epsilon)  # [entries]
    tolerances = torch.maximum(own_tolerances[:, None], own_tolerances[None])  # of each pair, [entries, entries]
    # `cdist` is fast and inexact, but by far less than 1e-2 of a key's length. So it finds the pairs (earlier, later)
    # that may have the same key; these are compared exactly below.
    distances = torch.cdist(points, points)  # [entries, entries]
    may_be_same = distances <= tolerances + 1e-2 * lengths[:, None]
    pairs = may_be_same.triu(1).nonzero().tolist()
    superseded = set[int]()
    for first, second in pairs:
        is_same_key = (points[first] - points[second]).norm() <= tolerances[first, second]
        if labels[first] != labels[second] and is_same_key:
            superseded.add(first)
    return superseded


def _rounding_units(keys: Tensor) -> Tensor:
    """Return the rounding unit of the type in which each of ``keys`` [entries, d_ff] was computed, [entries].

    A sum of codebooks has the finer type of both. A key that the coarser type holds exactly was computed in that one.
    """
    units = torch.full(keys.shape[:1], torch.finfo(keys.dtype).eps, device=keys.device)
    for coarser in (torch.float16, torch.bfloat16):
        is_exact = (keys.to(coarser).to(keys.dtype) == keys).all(dim=-1)  # [entries]
        units = torch.where(is_exact, units.clamp(min=torch.finfo(coarser).eps), units)
    return units
