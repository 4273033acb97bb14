"""A record on its way through a run: what is edited, and what is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.evaluate.case import Case
from kg_edit.scoring.questions import Form, choices
from kg_edit.storage.run_folder import digest


@dataclass(frozen=True, kw_only=True)
class Item:
    """A benchmark's record and the case that is made of it."""

    record: BenchmarkRecord
    case: Case

    @property
    def id(self) -> str:
        """The record's id."""
        return self.record.id

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the record."""
        return record_digest(self.record)


def items(
    records: Sequence[BenchmarkRecord], pool: Mapping[Form, str], *, seed: int, extras: Sequence[str] = ()
) -> list[Item]:
    """Each record with the answers to choose from drawn out of ``pool``; ``extras`` are costly metrics asked for."""
    drawn = (choices(record, pool, seed=seed) for record in records)
    cases = (Case.of(record, choices=some, extras=tuple(extras)) for record, some in zip(records, drawn, strict=True))
    return [Item(record=record, case=case) for record, case in zip(records, cases, strict=True)]


def record_digest(record: BenchmarkRecord) -> str:
    """The SHA-256 of a record."""
    return digest(record.model_dump(mode="json"))
