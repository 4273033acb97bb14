"""Texts with labels that change over time, such as SCOTUS in GRACE (Hartvigsen et al., NeurIPS 2023).

A classifier is trained on older texts; in a stream of newer ones labels are assigned in other ways, and its mistakes
are edited. SCOTUS (Chalkidis et al., ACL 2022, FairLex) has opinions of the US Supreme Court by issue; GRACE's form has
two parts with the rows ``{"text": …, "label": …}``. One file whose rows have a ``year`` is taken apart by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, ConfigDict

from kg_edit.datasets.building import without_null
from kg_edit.datasets.reading import document, every_row
from kg_edit.edits.edit import Edit, Name, Record, Text, checked
from kg_edit.errors import ConfigError, EditError, EditFileError, Fault

PROMPT = "Text: {}\nClass:"
"""How a text is put to a classifier: its class is read after the colon."""


class LabelledText(Record):
    """A text, its label (a number is its name) and, where the file has one, its year; other fields are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: Annotated[Name, BeforeValidator(lambda found: str(found) if isinstance(found, int) else found)]
    text: Text
    label: Annotated[Name, BeforeValidator(lambda found: str(found) if isinstance(found, int) else found)]
    year: int | None = None

    @property
    def prompt(self) -> str:
        """The text as it is put to a classifier."""
        return PROMPT.replace("{}", self.text)

    @property
    def edit(self) -> Edit:
        """The edit that makes a classifier give the text its label."""
        return Edit(id=self.id, subject=self.text, prompt=PROMPT, target_new=self.label)


class LabelDrift(NamedTuple):
    """Older texts that the classifier is trained on, older ones that it is tested on, and the stream of newer ones."""

    train: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]
    stream: tuple[LabelledText, ...]


def read_texts(path: str | Path) -> tuple[LabelledText, ...]:
    """All texts of a file in JSON or JSON lines, or of a hub (``hf:NAME::SPLIT``), in its order.

    Raises:
        EditFileError: it can't be read, or a row is wrong; names it.
    """
    found = tuple(_texts(Path(path)))
    names = [text.id for text in found]
    if not found:
        raise EditFileError(f"{path}: holds no texts; expected rows with text and label")
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise EditFileError(f"{path}: {double!r} is the id of two texts; give each its own, or none")
    return found


def _texts(path: Path) -> Iterator[LabelledText]:
    for number, row in enumerate(every_row(document(path)), 1):
        try:
            yield _text(row, number)
        except EditError as error:
            raise EditFileError(f"{path}, record {number}, {error.faults[0]}") from None


def _text(row: Any, number: int) -> LabelledText:
    if not isinstance(row, dict):
        raise EditError([Fault("", "expected an object {…} with text and label")])
    return checked(LabelledText, {"id": f"row-{number}", **without_null(row)})


def read_label_drift(
    old: str | Path, new: str | Path | None = None, *, since: int | None = None, test_share: float = 0.25
) -> LabelDrift:
    """The two parts of GRACE's form, ``old`` and ``new``; or one file, whose texts from ``since`` on are the stream.

    ``test_share`` of the old texts, evenly spaced, test what the classifier keeps; the others train it. A stream with
    years is in their order.

    Raises:
        EditFileError: a file can't be read, or a row is wrong.
        ConfigError: there is neither a second file nor a year, or a part has no texts.
    """
    if (new is None) == (since is None):
        raise ConfigError("give the newer texts in a file of their own, or the year since which texts are newer")
    texts = read_texts(old)
    older = texts if since is None else tuple(text for text in texts if _year(text, old) < since)
    newer = read_texts(new) if new is not None else tuple(text for text in texts if _year(text, old) >= (since or 0))
    if not older or not newer:
        raise ConfigError(f"there are {len(older)} older and {len(newer)} newer texts; both are needed")
    every = max(2, round(1 / test_share))
    test = older[every - 1 :: every]
    stream = sorted(newer, key=lambda text: text.year or 0)  # stable: a file without years keeps its order
    return LabelDrift(train=_without(older, test), test=test, stream=tuple(stream))


def _without(texts: Sequence[LabelledText], others: Sequence[LabelledText]) -> tuple[LabelledText, ...]:
    ids = {text.id for text in others}
    return tuple(text for text in texts if text.id not in ids)


def _year(text: LabelledText, path: str | Path) -> int:
    if text.year is None:
        raise ConfigError(f"{path}: the text {text.id!r} has no year; give the newer texts in a file of their own")
    return text.year
