"""The last tries: edits that were made and can still be kept or drawn."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx

from kg_edit.errors import UnknownNameError
from kg_edit.patches.base import Patch

if TYPE_CHECKING:
    from kg_edit.ledger.events import Step

REMEMBERED = 20
_BYTES = 8  # of chance in a try's id: another site's page can't guess it


@dataclass(frozen=True, eq=False, kw_only=True)
class Try:
    """An edit that was made: its patch and its subgraph.

    ``base`` are the ledger's steps, each with its file, that the model had then (None: the unedited model, whatever
    the ledger holds); ``kept`` the steps that the try became.
    """

    patch: Patch
    base: tuple[Step, ...] | None
    graph: nx.MultiDiGraph | None
    kept: tuple[int, ...] = ()

    @property
    def after(self) -> tuple[int, ...]:
        """The numbers of the steps that the model had."""
        return tuple(step.number for step in self.base or ())


class Tries:
    """The last tries by their ids."""

    def __init__(self) -> None:
        self._tries: dict[str, Try] = {}

    def put(self, name: str, tried: Try) -> str:
        """Remember a try, and forget the oldest; its id, which begins with ``name``."""
        key = f"{name}-{secrets.token_hex(_BYTES)}"
        self._tries[key] = tried
        for oldest in list(self._tries)[:-REMEMBERED]:
            del self._tries[oldest]
        return key

    def get(self, key: str) -> Try:
        """The try with an id.

        Raises:
            UnknownNameError: there is none, or it is too long ago; names no other, as ids are not for everyone.
        """
        if key not in self._tries:
            raise UnknownNameError(
                f"unknown try {key!r}; the last {REMEMBERED} since the server started are known; make the edit again"
            )
        return self._tries[key]

    def keep(self, key: str, step: int) -> None:
        """Remember that a try became a step of the ledger."""
        tried = self.get(key)
        self._tries[key] = replace(tried, kept=(*tried.kept, step))


def is_kept(tried: Try, steps: Collection[Step]) -> bool:
    """Whether one of the steps is this try."""
    return any(step.number in tried.kept for step in steps)
