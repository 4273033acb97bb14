"""Texts with labels that change over time, such as SCOTUS in GRACE (Hartvigsen et al., NeurIPS 2023).

A classifier is trained on older texts. A stream of newer texts has labels that are assigned differently, and the
classifier's mistakes on it are edited. SCOTUS (Chalkidis et al., ACL 2022, FairLex) has opinions of the US Supreme
Court by issue. GRACE's form has two parts, with rows ``{"text": …, "label": …}``. A single file whose rows have a
``year`` is split by year.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, ConfigDict

from kg_edit.edits.edit import Answer, Edit, Name, Record, parse_record
from kg_edit.errors import ConfigError, EditError, EditFileError, Fault
from kg_edit.evaluation.datasets.building import build_edit, without_null
from kg_edit.evaluation.datasets.reading import parsed_rows

log = logging.getLogger(__name__)

PROMPT = "Text: {}\nClass:"
"""The prompt of a classifier: the class is read after the colon."""

_TESTS = 4  # every fourth older text is a test


def _number_to_text(value: object) -> object:
    return str(value) if isinstance(value, int) else value


class LabelledText(Record):
    """A text, its label (a number is converted to text) and optionally its year; other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: Annotated[Name, BeforeValidator(_number_to_text)]
    text: Name
    label: Annotated[Answer, BeforeValidator(_number_to_text)]
    year: int | None = None

    @property
    def prompt(self) -> str:
        """The text in the form in which a classifier reads it."""
        return PROMPT.replace("{}", self.text)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the edit."""
        return {"id": self.id, "subject": self.text, "prompt": PROMPT, "target_new": self.label}

    @property
    def edit(self) -> Edit:
        """The edit that makes a classifier give this label to the text."""
        return Edit(**self.fields)


class LabelDrift(NamedTuple):
    """Older texts to train the classifier, older texts to test it, and the stream of newer texts."""

    train: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]
    stream: tuple[LabelledText, ...]


def read_texts(path: str | Path) -> tuple[LabelledText, ...]:
    """Read all texts of a JSON or JSON lines file, or of a hub (``hf:NAME::SPLIT``), in the file's order."""
    texts = tuple(parsed_rows(Path(path), parse_text))
    if not texts:
        raise EditFileError(f"{path}: has no texts; expected rows with text and label")
    ids = set[str]()
    for text in texts:
        if text.id in ids:
            raise EditFileError(f"{path}: two texts have the id {text.id!r}; give each text a different id, or no id")
        ids.add(text.id)
    return texts


def parse_text(row: Any, number: str) -> LabelledText:
    """Return the text of a file's ``row``; its id is the row's ``number`` if it has none."""
    if not isinstance(row, dict):
        raise EditError([Fault("", "expected an object {…} with text and label")])
    text = parse_record(LabelledText, {"id": f"row-{number}", **without_null(row)})
    build_edit(
        text.fields, field_names={"subject": "text", "target_new": "label"}
    )  # an edit of this text must be possible
    return text


def read_label_drift(old: str | Path, new: str | Path | None = None, *, since: int | None = None) -> LabelDrift:
    """Read the texts from two files, ``old`` and ``new`` (GRACE's form), or from one file with years.

    In one file, the texts from the year ``since`` on are the stream. A stream with years is sorted by year.

    Every fourth of the older texts is a test, and the others train the classifier. The share of the tests that an
    edited classifier still gets right is TRR (test retention rate). A warning appears if there are too few for a test.
    """
    if (new is None) == (since is None):
        raise ConfigError("give either a file with the newer texts (--stream), or their first year (--since)")
    older = list[LabelledText]()
    newer = list[LabelledText]()
    for text in read_texts(old):
        if since is not None and _year(text, old) >= since:
            newer.append(text)
        else:
            older.append(text)
    if new is not None:
        newer += read_texts(new)
    if not older or not newer:
        years = "" if since is None else f"; give another year than {since}"
        raise ConfigError(
            f"found {len(older)} older and {len(newer)} newer texts; expected at least one of each{years}"
        )
    train = list[LabelledText]()
    test = list[LabelledText]()
    for number, text in enumerate(older, 1):
        if number % _TESTS == 0:
            test.append(text)
        else:
            train.append(text)
    if not test:
        log.warning("TRR is not measured: a test needs at least %d older texts, found %d", _TESTS, len(older))
    stream = sorted(newer, key=lambda text: text.year or 0)  # stable: a file without years remains in its order
    return LabelDrift(train=tuple(train), test=tuple(test), stream=tuple(stream))


def _year(text: LabelledText, path: str | Path) -> int:
    if text.year is None:
        raise ConfigError(f"{path}: the text {text.id!r} has no year; give the newer texts in a separate file")
    return text.year
