"""Files of edits, right and wrong ones, and their messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from kg_edit.edits.files import read_edits
from kg_edit.errors import EditFileError
from tests.conftest import SHARED

COUNTERFACT = SHARED / "counterfact_plus" / "dev.json"
GOOD = {"subject": "Ann", "prompt": "{} lives in", "target_true": "Oslo", "target_new": "Rome"}
HEADER = "subject,prompt,target_true,target_new\n"
ROW = "Ann,{} lives in,Oslo,Rome\n"


class Labels:
    """A label source that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    def labels(self, ids: Sequence[str], /) -> dict[str, str]:
        self.asked.append(ids)
        names = {"Q36159": "LeBron James", "Q121783": "Los Angeles Lakers", "Q128109": "Chicago Bulls"}
        names["P2348"] = "time period"
        return {id_: names[id_] for id_ in ids if id_ in names}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def refusal(path: Path, *, keep_going: bool = False) -> str:
    with pytest.raises(EditFileError) as raised:
        read_edits(path, keep_going=keep_going)
    return str(raised.value)


def lines(*rows: object) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)
