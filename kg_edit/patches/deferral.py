"""GRACE's deferral rule (Hartvigsen et al. 2023): how far each key of a codebook reaches, by the order of the edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Metric = Literal["euclidean", "unit"]
Expand = Literal["coverage", "moving-average"]

_SAME_KEY = 1e-3  # of the initial radius
_GAP = 1e-5  # by which a split leaves the older key less than half of the way
_SLACK = 1 + 1e-3  # a key that lies on the rim by the edits' order is inside, however its prompt is batched


class Deferral(BaseModel):
    """How far a key reaches: the rule by which radii follow from the order of the edits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    radius: float = Field(
        1.0, gt=0, description="ε, the radius of a new key; keys differ in size, see norms.key of an edit"
    )
    expand: Expand = Field(
        "coverage", description="a near key of the same target: reach it, or also move half of the way (moving-average)"
    )
    metric: Metric = Field(
        "euclidean", description="distance of two keys as they are, or scaled to length 1 (unit: 0 to 2)"
    )

    def placed(self, keys: Tensor) -> Tensor:
        """Keys [..., d_in] as points between which the distance is Euclidean; float32."""
        points = keys.float()
        return torch.nn.functional.normalize(points, dim=-1) if self.metric == "unit" else points


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions:
    """Where a codebook answers: balls with ``centres`` [regions, d_in] and ``radii`` [regions].

    ``entries`` [regions] says whose value is given in each.
    """

    centres: Tensor
    radii: Tensor
    entries: Tensor

    def of(self, points: Tensor) -> Tensor:
        """The entry whose value is given at each of ``points`` [points, d_in], -1 for none: the nearest ball's."""
        if not len(self.entries):
            return torch.full((len(points),), -1, device=points.device)
        nearest = torch.cdist(points, self.centres).argmin(-1)
        distance = (points - self.centres[nearest]).norm(dim=-1)  # `cdist` rounds where points are near
        inside = distance <= self.radii[nearest] * _SLACK
        return torch.where(inside, self.entries[nearest], -1)

    def to(self, device: torch.device) -> Regions:
        """The same on another device."""
        return Regions(centres=self.centres.to(device), radii=self.radii.to(device), entries=self.entries.to(device))


def regions(keys: Tensor, labels: Sequence[str], rule: Deferral) -> Regions:
    """The balls of keys [entries, d_in] that came in this order, by the paper's rule (its Algorithm 1).

    Each entry in turn meets the balls before it. Farther than ε from the edge of the nearest one: a ball of its own,
    with radius ε (init). Else, with the nearest one's label, that ball grows to reach it (expand); with another label,
    a ball of its own, and both end half-way between the two (split). Beyond the paper: of two edits with one key the
    later holds, and the earlier is passed over.
    """
    points = rule.placed(keys)
    passed = set(_superseded(points, labels, near=_SAME_KEY * rule.radius))
    replay = _Replay(points, labels, rule)
    for entry in range(len(labels)):
        if entry not in passed:
            replay.meet(entry)
    return replay.regions()


def _superseded(points: Tensor, labels: Sequence[str], *, near: float) -> Iterator[int]:
    """Entries that have the key of a later one with another label."""
    if len(labels) < 2:
        return
    rough = torch.cdist(points, points)  # rounded: 1e-2 of a key's length is far more than it can be wrong
    pairs = (rough <= near + 1e-2 * points.norm(dim=-1)).triu(1).nonzero().tolist()
    for first, second in pairs:
        if labels[first] != labels[second] and (points[first] - points[second]).norm() <= near:
            yield first


class _Replay:
    """The balls so far, as entry after entry meets them."""

    def __init__(self, points: Tensor, labels: Sequence[str], deferral: Deferral) -> None:
        self._points, self._labels, self._deferral = points, labels, deferral
        self._centres = torch.empty_like(points)
        self._radii: list[float] = []
        self._entries: list[int] = []

    def meet(self, entry: int) -> None:
        """Init, expand or split."""
        epsilon = self._deferral.radius
        nearest, distance = self._nearest(entry)
        if nearest is None or distance > epsilon + self._radii[nearest]:
            self._add(entry, epsilon)
        elif self._labels[entry] == self._labels[self._entries[nearest]]:
            self._expand(nearest, entry, distance)
        else:
            self._radii[nearest] = max(distance / 2 - _GAP, 0.0)
            self._add(entry, distance / 2)

    def _nearest(self, entry: int) -> tuple[int | None, float]:
        if not self._entries:
            return None, 0.0
        distances = (self._centres[: len(self._entries)] - self._points[entry]).norm(dim=-1)
        nearest = int(distances.argmin())
        return nearest, float(distances[nearest])

    def _add(self, entry: int, radius: float) -> None:
        self._centres[len(self._entries)] = self._points[entry]
        self._entries.append(entry)
        self._radii.append(radius)

    def _expand(self, nearest: int, entry: int, distance: float) -> None:
        if distance <= self._radii[nearest]:
            return
        self._radii[nearest] = distance
        if self._deferral.expand == "moving-average":
            self._centres[nearest] = (self._centres[nearest] + self._points[entry]) / 2

    def regions(self) -> Regions:
        """The balls as they stand."""
        device = self._points.device
        return Regions(
            centres=self._centres[: len(self._entries)].clone(),
            radii=torch.tensor(self._radii, dtype=torch.float32, device=device),
            entries=torch.tensor(self._entries, dtype=torch.long, device=device),
        )
