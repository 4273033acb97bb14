"""GRACE's codebook (Hartvigsen et al. 2023): keys with values, in the order of the edits that they were made for.

Radii are not stored. They follow from the order, so that a codebook without one of its edits is the codebook of a call
that never made it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kg_edit.patches.deferral import Deferral, Regions, regions


@dataclass(frozen=True, eq=False, kw_only=True)
class Codebook:
    """Entries in the order of their edits: ``keys`` [entries, d_in], ``values`` [entries, d_out], labels, edits' ids.

    A label is what decides whether two edits agree: the text of the target.
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
        """(out, in) of the weight that it stands beside."""
        return self.values.shape[1], self.keys.shape[1]

    def __add__(self, other: Codebook) -> Codebook:
        """The entries of both, this one's first; the two have one deferral rule."""
        return Codebook(
            keys=torch.cat([self.keys, other.keys]),
            values=torch.cat([self.values, other.values]),
            labels=self.labels + other.labels,
            ids=self.ids + other.ids,
            deferral=self.deferral,
        )

    def without(self, ids: Collection[str]) -> Codebook:
        """The codebook of a call that never made the edits with these ids."""
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
        """Whether every number is one."""
        return bool(torch.isfinite(self.keys).all() and torch.isfinite(self.values).all())

    @cached_property
    def regions(self) -> Regions:
        """Where it answers; computed once."""
        return regions(self.keys, self.labels, self.deferral)


def as_json(book: Codebook) -> dict[str, object]:
    """What a codebook holds besides its tensors."""
    return {"labels": list(book.labels), "ids": list(book.ids), "deferral": book.deferral.model_dump(mode="json")}


def from_json(said: Mapping[str, object], *, keys: Tensor, values: Tensor) -> Codebook:
    """The codebook of tensors and of what `as_json` said.

    Raises:
        ValueError: the two don't fit together.
    """
    labels, ids = said.get("labels"), said.get("ids")
    if not isinstance(labels, list) or not isinstance(ids, list) or keys.dim() != 2 or values.dim() != 2:
        raise ValueError("labels, ids, keys [entries, in] or values [entries, out] are missing")
    if not len(keys) == len(values) == len(labels) == len(ids):
        raise ValueError(f"{len(keys)} keys, {len(values)} values, {len(labels)} labels and {len(ids)} ids")
    deferral = Deferral.model_validate(said.get("deferral"))
    return Codebook(keys=keys, values=values, labels=tuple(labels), ids=tuple(ids), deferral=deferral)
