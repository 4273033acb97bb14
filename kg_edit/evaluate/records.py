"""A run's folder: its settings, and one line a record, appended as it is scored, so that a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kg_edit.errors import OutputError
from kg_edit.files import write_json


class Section(BaseModel):
    """A record's scores on one model, and all that decided them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: dict[str, float | None]
    nll: dict[str, dict[str, float]]  # prompt -> candidate -> nats a token
    texts: dict[str, str]  # rewrite prompt or question -> greedy continuation


class RunRecord(BaseModel):
    """A line of ``records.jsonl``. ``sections``: base, edited and the ceilings; empty after an ``error``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    error: str | None = None
    seconds: float | None = None  # of computing the edit
    choices: tuple[tuple[str, ...], ...] = ()  # a tuple a question, the right answer first
    sections: dict[str, Section] = {}


@dataclass(frozen=True)
class RunFolder:
    """The files of a run in one folder."""

    path: Path

    @property
    def records(self) -> Path:
        """One JSON object a record."""
        return self.path / "records.jsonl"

    def start(self, settings: Mapping[str, Any]) -> None:
        """Write ``run.json``, or check that it holds the same settings.

        Raises:
            OutputError: the folder holds a run with other settings, or can't be written.
        """
        file = self.path / "run.json"
        if not file.exists() and not self.records.exists():
            write_json(file, settings)
            return
        found = _difference(_json(file), json.loads(json.dumps(settings)))
        if found:
            raise OutputError(
                f"{self.path} holds another run ({found}); give another --out, or delete {self.path} to start anew"
            )

    def read(self) -> Iterator[RunRecord]:
        """The records that are there; a last line that was cut is dropped from the file.

        Raises:
            OutputError: a line is no record.
        """
        if not self.records.exists():
            return
        _drop_cut_line(self.records)
        with self.records.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield RunRecord.model_validate_json(line)
                except ValidationError as error:
                    message = f"{self.records}, line {number}: no record; delete the line, and it is scored again"
                    raise OutputError(message) from error

    def append(self, record: RunRecord) -> None:
        """Add a record; when this returns, it is on the disk."""
        try:
            with self.records.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(record.model_dump(mode="json"), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {self.records}: {error.strerror}; make room, and start again") from error


def _drop_cut_line(file: Path) -> None:
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(file, whole)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"can't read {file}: {error}; give another --out, or delete {file.parent}") from error


def _difference(there: Any, here: Any, name: str = "") -> str | None:
    """Name the first field that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(there.keys() | here.keys())
        found = (_difference(there.get(key), here.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, found), None)
    return None if there == here else f"{name}: {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
