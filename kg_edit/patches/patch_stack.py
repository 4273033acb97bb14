"""Patches of different kinds at once: weights, adapters and prompts, each kept as what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, ClassVar

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, joined


@dataclass(frozen=True, eq=False)
class PatchStack(Patch):
    """One patch of each class, put on a model one after the other."""

    patches: tuple[Patch, ...]
    kind: ClassVar[Kind] = "adapter"  # it can be applied, not merged

    @classmethod
    def of(cls, *patches: Patch) -> Patch:
        """The sum; patches of one class become one patch, stacks are taken apart, what changes nothing is left out."""
        parts = [part for patch in patches for part in (patch.patches if isinstance(patch, PatchStack) else (patch,))]
        kept: dict[type[Patch], Patch] = {}
        for part in [part for part in parts if not part.is_empty] or parts[:1]:
            kept[type(part)] = kept[type(part)] + part if type(part) in kept else part
        return next(iter(kept.values())) if len(kept) == 1 else cls(tuple(kept.values()))

    @cached_property
    def provenance(self) -> dict[str, Any]:  # type: ignore[override]
        """All parts', joined."""
        return reduce(joined, (part.provenance for part in self.patches), dict[str, Any]())

    @property
    def summary(self) -> str:
        """All parts'."""
        return "; ".join(part.summary for part in self.patches)

    @property
    def is_empty(self) -> bool:
        """Whether all parts are."""
        return all(part.is_empty for part in self.patches)

    def _plus(self, other: PatchStack) -> Patch:
        return PatchStack.of(self, other)

    @contextmanager
    def worn(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """All parts, in order."""
        with ExitStack() as stack:
            for part in self.patches:
                model = stack.enter_context(part.worn(model))
            yield model

    def check_finite(self) -> None:
        """Look at all parts.

        Raises:
            PatchError: a number is not finite.
        """
        for part in self.patches:
            part.check_finite()

    def save(self, path: str | Path) -> Path:
        """Refuse: a stack is kept as the files of its parts.

        Raises:
            PatchError: always.
        """
        raise PatchError(f"can't write {path}: patches of different kinds are kept in files of their own")
