"""How the edits of a run meet in the model: each alone, in batches, one after the other, or batch after batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from kg_edit.errors import ConfigError, unknown_name

_FORMS = ("single", "batch", "sequential")
_EXAMPLES = "single, batch:32, sequential:100 or batch:32,sequential:1000"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """``sequence`` edits accumulate in the model before it is reset, ``batch`` of them made by one call of the method.

    In words: ``single`` (1, 1), ``batch:N`` (N, N), ``sequential:N`` (1, N) and ``batch:B,sequential:N`` (B, N): N
    edits in all, in batches of B, of which the last may be smaller. ``str`` gives the words in this canonical form.
    """

    batch: int = 1
    sequence: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The schedule that ``text`` names.

        Raises:
            UnknownNameError: a part is none of the forms; suggests the nearest.
            ConfigError: a number is missing, wrong, or given twice; or a batch is larger than its sequence.
        """
        sizes: dict[str, int] = {}
        for part in text.replace(" ", "").split(","):
            name, size = _part(part, text)
            if name in sizes or "single" in sizes or (sizes and name == "single"):
                raise ConfigError(f"schedule {text!r}: {part!r} says again how edits meet; expected {_EXAMPLES}")
            sizes[name] = size
        batch, sequence = sizes.get("batch", 1), sizes.get("sequential", sizes.get("batch", 1))
        if batch > sequence:
            raise ConfigError(
                f"schedule {text!r}: a batch of {batch} is more than the {sequence} edits of a sequence; "
                f"write batch:{sequence}, or a longer sequence"
            )
        return cls(batch=batch, sequence=sequence)

    def __str__(self) -> str:
        if self.sequence == 1:
            return "single"
        if self.batch == self.sequence:
            return f"batch:{self.batch}"
        return f"batch:{self.batch},sequential:{self.sequence}" if self.batch > 1 else f"sequential:{self.sequence}"

    @property
    def has_steps(self) -> bool:
        """Whether edits are made on a model that holds earlier ones."""
        return self.batch < self.sequence

    def steps(self, records: int) -> Iterator[range]:
        """The places, in a sequence of ``records``, of the records that are edited together, step after step."""
        for start in range(0, records, self.batch):
            yield range(start, min(start + self.batch, records))


def _part(part: str, text: str) -> tuple[str, int]:
    name, colon, size = part.partition(":")
    if name not in _FORMS:
        raise unknown_name("schedule", name, _FORMS)
    if name == "single":
        if colon:
            raise ConfigError(f"schedule {text!r}: single takes no number; expected {_EXAMPLES}")
        return name, 1
    if not (size.isascii() and size.isdecimal() and int(size) > 0):
        raise ConfigError(f"schedule {text!r}: {name} needs a number of edits, found {size!r}; expected {_EXAMPLES}")
    return name, int(size)
