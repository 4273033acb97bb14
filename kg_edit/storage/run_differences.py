"""How two runs differ, in words: `describe_difference` for their settings, `describe_other_rows` for what they edit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Settings = dict[str, Any]
SIDES = ("in the folder", "now")  # words after a value of the run in a folder, and after one of the present run
_FIRST = ("job", "method")  # settings whose difference is named first, as others follow from them
# The most characters of a value, and of a list
_SHORT = 60
_SHORT_LIST = 120


def describe_difference(
    there: Settings, here: Settings, *, sides: tuple[str, str] = ("in the first", "in the second")
) -> str | None:
    """Return the first setting that differs, with its value on both sides; None if there is no difference.

    Names that do not decide are ignored: the preset's, and the model's if its fingerprint is the same. A setting that
    is None equals one that is absent.

    Args:
        there: settings, as in ``run.json``.
        here: other ones.
        sides: the words after the value of ``there``, and after that of ``here``.
    """
    there = _flatten(there)
    here = _flatten(here)
    for name in dict.fromkeys([*_FIRST, *here, *there]):
        is_preset = name.rpartition(".")[2] == "preset"
        if there.get(name) == here.get(name) or is_preset:
            continue
        if name.endswith(".name"):  # of a model, which is identified by its fingerprint
            fingerprint = f"{name.removesuffix('name')}fingerprint"
            if fingerprint in there and there[fingerprint] == here.get(fingerprint):
                continue
        return _describe(name, there.get(name), here.get(name), sides)
    return None


def _flatten(settings: Settings, start: str = "") -> dict[str, Any]:
    """Return the settings by their full names: {"config": {"steps": 3}} becomes {"config.steps": 3}."""
    values = dict[str, Any]()
    for name, value in settings.items():
        if isinstance(value, dict):
            values |= _flatten(value, f"{start}{name}.")
        else:
            values[f"{start}{name}"] = value
    return values


def _describe(name: str, there: Any, here: Any, sides: tuple[str, str]) -> str:
    """Return a name with its two values; of a hash, only that the content differs.

    name            there  here   result with the words of `SIDES`
    steps           20     30     steps: 20 in the folder, 30 now
    graph_sha256    "a"    "b"    graph: other content now
    sha256          "a"    "b"    content: other content now
    """
    there_side, here_side = sides
    field = re.sub(r"[._]?(sha256|fingerprint|content_hash)", "", name) or "content"
    is_hash = field != name
    if not is_hash:
        return f"{name}: {_shorten(there)} {there_side}, {_shorten(here)} {here_side}"
    if there is None:
        return f"{field}: none {there_side}"
    if here is None:
        return f"{field}: none {here_side}"
    return f"{field}: other content {here_side}"


def _shorten(value: Any) -> str:
    """Return a value as JSON, cut if it is long; of a long list only the number of its entries."""
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        if len(text) > _SHORT_LIST:
            return f"{len(value)} entries"
        return text
    if len(text) > _SHORT:
        return f"{text[: _SHORT - 3]}..."
    return text


def describe_other_rows(
    unit: str, there: Mapping[str, Settings], here: Mapping[str, Settings], *, counts: tuple[int, int]
) -> str:
    """Return how the rows of a run in a folder differ from those of now: how many, and the first that differs.

    describe_other_rows("edits", {"1": …}, {"2": …}, counts=(1, 3)) ->
    "edits: 1 in the folder, 3 now; number 1 is '1' in the folder, '2' now"

    Args:
        unit: what a row is, such as "edits".
        there: the fields of each row in the folder by the row's id, as far as the rows are known; or a hash of the
            fields, as {"record_sha256": "3f…"}.
        here: the same of the rows of now.
        counts: the number of all rows, there and here.
    """
    there_side, here_side = SIDES
    there_count, here_count = counts
    found = list[str]()
    if there_count != here_count:
        found.append(f"{there_count} {there_side}, {here_count} {here_side}")
    first = _describe_first_difference(there, here)
    if first:
        found.append(first)
    if not found:  # the rows are not known well enough to say more
        found.append("others")
    return f"{unit}: {'; '.join(found)}"


def _describe_first_difference(there: Mapping[str, Settings], here: Mapping[str, Settings]) -> str:
    """Return the first row, by its position, with another id or other fields; "" if none of the known ones differs."""
    there_side, here_side = SIDES
    for position, (there_id, here_id) in enumerate(zip(there, here, strict=False), 1):
        if there_id != here_id:
            return f"number {position} is {there_id!r} {there_side}, {here_id!r} {here_side}"
        found = describe_difference(there[there_id], here[here_id], sides=SIDES)
        if found:
            return f"the first that differs is {there_id!r} ({found})"
    return ""
