"""How far measuring covariances is, and what is measured: all of a run's state but its sums."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kg_edit.covariance.error import Doubling
from kg_edit.covariance.files import Identity, damaged, read_metadata


class Position(BaseModel):
    """How far a run is: ``chunks`` chunks of the text with ``seen`` tokens have gone by, ``count`` tokens were added.

    A shard adds every ``parts``-th chunk from number ``part`` on; the whole run is shard 0 of 1. ``half_count`` tokens
    were in the sums when they were last put by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identities: dict[int, Identity]
    sizes: dict[int, int]
    model_name: str
    ridge: float
    part: int = 0
    parts: int = 1
    chunks: int = 0
    seen: int = 0
    count: int = 0
    half_count: int = 0
    doublings: dict[int, tuple[Doubling, ...]] = {}
    finished: bool = False

    @property
    def mine(self) -> bool:
        """Whether the next chunk is this shard's."""
        return self.chunks % self.parts == self.part

    @property
    def wanted(self) -> int:
        """How many tokens are asked for, in all shards together."""
        return next(iter(self.identities.values())).tokens

    def path(self, folder: Path) -> Path:
        """Where the sums are kept: one file for the layers together, so that all stand at the same chunk."""
        ids = "".join(sorted(identity.id for identity in self.identities.values()))
        name = hashlib.sha256(ids.encode()).hexdigest()[:16]
        kind = "partial" if self.parts == 1 else f"shard-{self.part}-of-{self.parts}"
        return folder / f"{name}.{kind}.safetensors"


def read_position(path: Path) -> Position:
    """How far the sums in a file are.

    Raises:
        CovarianceError: the file is damaged, or holds no sums.
    """
    try:
        return Position.model_validate_json(read_metadata(path))
    except ValidationError as error:
        raise damaged(path, error) from error
