"""What can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel

from kg_edit.edits import Edit
from kg_edit.patch import Patch


class Method(Protocol):
    """What computes patches: a name, its settings, and edits to a patch."""

    @property
    def name(self) -> str:
        """What the method is called in results."""

    @property
    def config(self) -> BaseModel:
        """All its settings."""

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """Which knowledge graph it looks at, as JSON; None if it looks at none."""

    def prepare(self) -> None:
        """Do once what all edits share, so that it is in no edit's time."""

    def edit(self, edits: Sequence[Edit]) -> Patch:
        """The patch that makes ``edits``; leaves the model as it is."""
