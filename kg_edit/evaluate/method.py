"""What can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from kg_edit.edits.edit import Edit
from kg_edit.patches.base import Patch


class Method(Protocol):
    """What computes patches: a name, its settings, and edits to a patch."""

    @property
    def name(self) -> str:
        """What the method is called in results."""

    @property
    def config(self) -> BaseModel:
        """All settings of the method; they are written with the scores."""

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """Which knowledge graph it looks at, as JSON; None if it looks at none."""

    def prepare(self) -> None:
        """Do once what all edits share, so that it is in no edit's time."""

    def update(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        """What ``edits`` add to the model with the patch ``before``; leaves the model as it is."""


@runtime_checkable
class EditsEach(Protocol):
    """A method that can compute many edits at once, each as if it were the only one."""

    def edit_each(self, edits: Sequence[Edit]) -> Sequence[Patch | Exception]:
        """A patch for each edit alone, or why it can't be made; leaves the model as it is."""
