"""A run's folder: its settings, and one line a record, appended as it is scored, so that a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kg_edit.errors import OutputError


class Section(BaseModel):
    """A record's scores on one model, and all that decided them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: dict[str, float | None]
    nll: dict[str, dict[str, float]]  # prompt -> candidate -> nats a token
    texts: dict[str, str]  # rewrite prompt or question -> greedy continuation


class RunRecord(BaseModel):
    """A line of ``records.jsonl``. ``sections``: base, edited and the ceilings.

    After an ``error`` edited equals base; there are no sections if the model could not be scored before the edit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    edit_sha256: str
    error: str | None = None
    seconds: float | None = None  # of computing the edit
    choices: tuple[tuple[str, ...], ...] = ()  # a tuple a question, the right answer first
    sections: dict[str, Section] = {}


@dataclass(frozen=True)
class RunFolder:
    """The files of a run in one folder."""

    path: Path

    @property
    def _records(self) -> Path:
        return self.path / "records.jsonl"

    def read(self) -> Iterator[RunRecord]:
        """The records that are there, but for a last line that was cut.

        Raises:
            OutputError: a line is no record.
        """
        if not self._records.exists():
            return
        with self._records.open(encoding="utf-8", errors="replace", newline="\n") as file:
            whole = (line for line in file if line.endswith("\n"))
            for number, line in enumerate(whole, 1):
                try:
                    yield RunRecord.model_validate_json(line)
                except ValidationError as error:
                    message = f"{self._records}, line {number}: no record; delete the line, and it is scored again"
                    raise OutputError(message) from error

    def drop_cut_line(self) -> None:
        """Drop a last line without an end: a run was killed while it wrote it."""
        data = self._records.read_bytes() if self._records.exists() else b""
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._records, whole)

    def append(self, record: RunRecord) -> None:
        """Add a record; when this returns, it is on the disk.

        Raises:
            OutputError: it can't be written.
        """
        try:
            with self._records.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(record.model_dump(mode="json"), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {self._records}: {error.strerror}; make room, and start again") from error
