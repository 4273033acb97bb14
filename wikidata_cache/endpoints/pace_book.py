"""Where it is written down how hosts want to be treated, and who may ask them now."""

import threading
from contextlib import AbstractContextManager
from typing import Protocol

from wikidata_cache.endpoints.pace_state import PaceState


class PaceBook(Protocol):
    """Where paces are written down, so that clients of a host that share a book share its limits."""

    def read(self, host: str) -> PaceState:
        """What is known of a host; `PaceState()` for one never asked."""

    def write(self, host: str, state: PaceState) -> None:
        """Remember a host's state."""

    def turn(self, host: str) -> AbstractContextManager[object]:
        """While it is held, nobody else with this book sends a request to the host."""


class MemoryPaceBook:
    """A book for the threads of one process."""

    def __init__(self) -> None:
        self._states: dict[str, PaceState] = {}
        self._turns: dict[str, AbstractContextManager[object]] = {}

    def read(self, host: str) -> PaceState:
        """What is known of a host; `PaceState()` for one never asked."""
        return self._states.get(host, PaceState())

    def write(self, host: str, state: PaceState) -> None:
        """Remember a host's state."""
        self._states[host] = state

    def turn(self, host: str) -> AbstractContextManager[object]:
        """While it is held, no other thread with this book sends a request to the host."""
        return self._turns.setdefault(host, threading.RLock())
