"""A part of a run that another process or machine takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from kg_edit.errors import ConfigError

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Shard ``part`` of ``parts``, the first being 0: every ``parts``-th sequence of edits from number ``part`` on.

    Sequences are dealt whole (under the schedule single each is one record), as the edits of one meet in the model.
    """

    part: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that ``text``, such as 0/4, names.

        Raises:
            ConfigError: it names none.
        """
        found = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", text)
        part, parts = map(int, found.groups()) if found else (0, 0)
        if part >= parts:
            raise ConfigError(f"shard {text!r}: expected i/n with i from 0 to n-1, such as 0/4, 1/4, 2/4 and 3/4")
        return cls(part=part, parts=parts)

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"

    def deal(self, items: Sequence[Item]) -> Sequence[Item]:
        """This shard's items."""
        return items[self.part :: self.parts]


WHOLE = Shard(part=0, parts=1)
