"""GRACE's codebook of keys and values beside a module (Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031).

- `Codebook`: keys k_i [d_in], values v_i [d_out] and labels in the order of the edits.
- `Deferral`, `regions`: the rule that computes the radii eps_i from the order of the edits. The radii are not stored,
  so a codebook without one of its edits is the same as if the edit had never been made.
- `Regions.of`: the entry in whose ball ||x - k_i|| <= eps_i a key x lies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Metric = Literal["euclidean", "unit"]
Expand = Literal["coverage", "moving-average", "widen"]
Lookup = Literal["every-token", "prompt-end"]
_SAME_KEY = 1e-3  # two keys closer than this, times the initial radius, count as the same key
_ROUNDING = 4  # so do keys whose distance is at most this many units of rounding, which batching may change
_GAP = 1e-5  # after a split, the older ball's radius is smaller than half of the distance by this much
_SLACK = 1 + 1e-3  # keys on the rim of a ball count as inside, although batching changes their rounding


@dataclass(frozen=True, eq=False, kw_only=True)
class Codebook:
    """Entries in the order of their edits: ``keys`` [entries, d_in], ``values`` [entries, d_out], labels, edits' ids.

    The keys have the precision of the model that computed them.

    The label of an entry is the text of its target; two edits agree if their labels are equal.
    """

    keys: Tensor
    values: Tensor
    labels: tuple[str, ...]
    ids: tuple[str, ...]
    deferral: Deferral

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight beside which the codebook stands."""
        return self.values.shape[1], self.keys.shape[1]

    def __add__(self, other: Codebook) -> Codebook:
        """The entries of both codebooks, this one's first; both must have the same deferral rule."""
        return Codebook(
            keys=torch.cat([self.keys, other.keys]),
            values=torch.cat([self.values, other.values]),
            labels=self.labels + other.labels,
            ids=self.ids + other.ids,
            deferral=self.deferral,
        )

    def without(self, ids: Collection[str]) -> Codebook:
        """The codebook without the edits with these ids, as if they had never been made."""
        kept = [place for place, own in enumerate(self.ids) if own not in ids]
        return Codebook(
            keys=self.keys[kept],
            values=self.values[kept],
            labels=tuple(self.labels[place] for place in kept),
            ids=tuple(self.ids[place] for place in kept),
            deferral=self.deferral,
        )

    @property
    def is_finite(self) -> bool:
        """Whether no number is infinite or NaN."""
        return bool(torch.isfinite(self.keys).all() and torch.isfinite(self.values).all())

    @cached_property
    def regions(self) -> Regions:
        """The balls in which the codebook replaces the output (see `regions`); computed once."""
        return regions(self.keys, self.labels, self.deferral)


def as_json(book: Codebook) -> dict[str, object]:
    """The parts of a codebook that are not tensors (labels, edits' ids, deferral rule), as JSON."""
    return {"labels": list(book.labels), "ids": list(book.ids), "deferral": book.deferral.model_dump(mode="json")}


def from_json(said: Mapping[str, object], *, keys: Tensor, values: Tensor) -> Codebook:
    """Build a codebook from its tensors and the JSON of `as_json`.

    Raises:
        ValueError: the tensors and the JSON don't fit together.
    """
    labels, ids = said.get("labels"), said.get("ids")
    if not isinstance(labels, list) or not isinstance(ids, list) or keys.dim() != 2 or values.dim() != 2:
        raise ValueError("labels, ids, keys [entries, in] or values [entries, out] are missing")
    if not len(keys) == len(values) == len(labels) == len(ids):
        raise ValueError(f"{len(keys)} keys, {len(values)} values, {len(labels)} labels and {len(ids)} ids")
    deferral = Deferral.model_validate(said.get("deferral"))
    return Codebook(keys=keys, values=values, labels=tuple(labels), ids=tuple(ids), deferral=deferral)


class Deferral(BaseModel):
    """Settings of the deferral rule, which computes the radius of each key from the order of the edits."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    radius: float = Field(
        1.0, gt=0, description="ε, the radius of a new key; keys differ in size, see norms.key of an edit"
    )
    expand: Expand = Field(
        "coverage",
        description="a near key of the same target: reach it, also move half of the way (moving-average), or ε more "
        "(widen, as in Algorithm 1)",
    )
    metric: Metric = Field(
        "euclidean", description="distance of two keys as they are, or scaled to length 1 (unit: 0 to 2)"
    )
    lookup: Lookup = Field(
        "every-token",
        description="tokens at which the codebook is asked: the prompt's last one (prompt-end), or every-token",
    )

    def placed(self, keys: Tensor) -> Tensor:
        """Keys [..., d_in] as float32 points whose Euclidean distance is the metric; normalised for the unit metric."""
        points = keys.float()
        return torch.nn.functional.normalize(points, dim=-1) if self.metric == "unit" else points


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions:
    """The balls in which a codebook replaces the output: ``centres`` [regions, d_in] and ``radii`` [regions].

    ``entries`` [regions] has for each ball the index of the entry whose value is the output.
    """

    centres: Tensor
    radii: Tensor
    entries: Tensor

    def of(self, points: Tensor) -> Tensor:
        """The entry for each of ``points`` [points, d_in]: that of the nearest ball if the point is inside, else -1."""
        if not len(self.entries):
            return torch.full((len(points),), -1, device=points.device)
        # for more than 25 rows `cdist` would use products, which are inexact for near points
        nearest = torch.cdist(points, self.centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
        distance = (points - self.centres[nearest]).norm(dim=-1)
        inside = distance <= self.radii[nearest] * _SLACK
        return torch.where(inside, self.entries[nearest], -1)

    def to(self, device: torch.device) -> Regions:
        """The same regions, with their tensors on ``device``."""
        return Regions(centres=self.centres.to(device), radii=self.radii.to(device), entries=self.entries.to(device))


def regions(keys: Tensor, labels: Sequence[str], rule: Deferral) -> Regions:
    """Compute the balls of ``keys`` [entries, d_in], in the order of the edits, by the paper's Algorithm 1.

    Each entry in turn is compared with the nearest earlier ball i, at distance d from its centre:

    - init: if d > ε_i + ε, the entry gets a new ball with radius ε.
    - expand: otherwise, if the labels are equal, ball i grows. Algorithm 1 adds ε to its radius (``widen``), the
      published program extends it to the new key (``coverage``). If the key is already inside, nothing changes.
    - split: otherwise, the entry gets a new ball, and both balls end half-way between the two keys.

    Beyond the paper: if two edits with different labels have the same key, the later one holds, and the earlier one is
    skipped.
    """
    points = rule.placed(keys)
    near = (_ROUNDING * _precision(keys) * points.norm(dim=-1)).clamp(min=_SAME_KEY * rule.radius)
    passed = set(_superseded(points, labels, near=near))
    replay = _Replay(points, labels, rule)
    for entry in range(len(labels)):
        if entry not in passed:
            replay.meet(entry)
    return replay.regions()


def _precision(keys: Tensor) -> Tensor:
    """The eps of the type in which each key [entries, d_in] was computed: a sum of codebooks has the finer type."""
    eps = torch.full(keys.shape[:1], torch.finfo(keys.dtype).eps, device=keys.device)
    for coarser in (torch.float16, torch.bfloat16):
        held = (keys.to(coarser).to(keys.dtype) == keys).all(dim=-1)
        eps = torch.where(held, eps.clamp(min=torch.finfo(coarser).eps), eps)
    return eps


def _superseded(points: Tensor, labels: Sequence[str], *, near: Tensor) -> Iterator[int]:
    """Yield the indices of entries for which a later entry has the same key and another label.

    Keys count as the same within ``near`` [entries], the larger one of the two.
    """
    if len(labels) < 2:
        return
    rough = torch.cdist(points, points)  # inexact, but by far less than 1e-2 of a key's length
    wide = torch.maximum(near[:, None], near[None])
    pairs = (rough <= wide + 1e-2 * points.norm(dim=-1)[:, None]).triu(1).nonzero().tolist()
    for first, second in pairs:
        if labels[first] != labels[second] and (points[first] - points[second]).norm() <= wide[first, second]:
            yield first


class _Replay:
    """Builds the balls by adding the entries one after the other."""

    def __init__(self, points: Tensor, labels: Sequence[str], deferral: Deferral) -> None:
        self._points, self._labels, self._deferral = points, labels, deferral
        self._centres = torch.empty_like(points)
        self._radii: list[float] = []
        self._entries: list[int] = []

    def meet(self, entry: int) -> None:
        """Add ``entry`` by one of the cases init, expand and split (see the function `regions`)."""
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
        widened = self._radii[nearest] + self._deferral.radius  # contains the key, else it would be an init
        self._radii[nearest] = widened if self._deferral.expand == "widen" else distance
        if self._deferral.expand == "moving-average":
            self._centres[nearest] = (self._centres[nearest] + self._points[entry]) / 2

    def regions(self) -> Regions:
        """The balls after the entries added so far."""
        device = self._points.device
        return Regions(
            centres=self._centres[: len(self._entries)].clone(),
            radii=torch.tensor(self._radii, dtype=torch.float32, device=device),
            entries=torch.tensor(self._entries, dtype=torch.long, device=device),
        )
