"""Link a file of edits: write an id where one candidate clearly leads, and list the candidates where none does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

from kg_common.atomic import check_out, write_atomically
from kg_common.rows import TRIPLET_NAMES, entries
from wikidata_cache.edits import EditRow, read_edits, read_rows, strip_row
from wikidata_cache.errors import BadOptionError
from wikidata_cache.linking.candidates import LinkResult
from wikidata_cache.linking.edit_links import LinkedEdit, link_all
from wikidata_cache.linking.linker import Linker

# The columns of a table whose cells are always texts, whatever they look like.
_TEXTS = {field.name for field in fields(EditRow)}
_TEXTS |= set(TRIPLET_NAMES)
_TEXTS |= {"id", "case_id", "prompt", "ending", "target_text", "ground_truth"}

_State = Literal["settled", "rivalled", "open", "absent"]


class LinkedPart(NamedTuple):
    """A part of an edit: its row, the name of its id field such as "subject_id", and what linking found for it."""

    row: int
    field: str
    result: LinkResult


@dataclass(frozen=True)
class LinkReport:
    """The number of edits, the number of `complete` edits, and the parts that a person should look at.

    A part is in at most one of the lists. Parts that are chosen, or settled without a rival, are in none.

        absent      the graph has no candidate for it, or does not know the id that the row has
        open        none of its candidates clearly leads, or the id in the row has another label: a person has to choose
        rivalled    it got the id of the leading candidate, although another candidate fits the text too

    An edit is complete if no part is open, and its new object has an id.
    """

    edits: int
    complete: int
    open: tuple[LinkedPart, ...]
    absent: tuple[LinkedPart, ...]
    rivalled: tuple[LinkedPart, ...] = ()


def link_edits(
    linker: Linker, edits: str | Path, out: Path, *, limit: int = 10, choices: Sequence[tuple[str, str]] = ()
) -> LinkReport:
    """Write the edits as JSONL to `out`, with an id for each part that is chosen or has a clearly leading candidate.

    For the other parts, the row gets the field `candidates`: {field: list of candidates}. All other contents of a row
    stay as they are; a table's cell with " | " becomes a list, and true and false become truth values.

    Args:
        linker: over the graph in which the names are looked up.
        edits: a file of edits, or one row of it such as "edits.jsonl:3".
        out: the file to write, .jsonl.
        limit: the largest number of candidates for each part.
        choices: pairs (number of a row, or a name that rows have; the id of one of its candidates), which come before
            the order of the candidates. A number is both: "1984" means row 1984, and the name "1984" in any row.

    Returns:
        The numbers of edits, and the parts that a person should look at.
    """
    check_out(out, ".jsonl", inputs=[strip_row(edits)])
    edit_rows = read_edits(edits)
    rows = read_rows(strip_row(edits))  # of the whole file, as they are written
    links = list(link_all(linker, edit_rows, limit=limit))
    choices_by_row = _apply_choices(choices, edit_rows, links)
    in_table = strip_row(edits).suffix.lower() in (".csv", ".tsv")
    lines: list[str] = []
    parts_by_state: dict[_State, list[LinkedPart]] = {"settled": [], "rivalled": [], "open": [], "absent": []}
    for edit, linked in zip(edit_rows, links, strict=True):
        chosen = choices_by_row[edit.row]
        row = _link_row(rows[edit.row - 1], linked, chosen, in_table=in_table)
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        for name, result in linked.parts().items():
            state = _find_state(edit, name, result, is_chosen=name in chosen)
            parts_by_state[state].append(LinkedPart(edit.row, name, result))
    write_atomically(out, "".join(lines))
    incomplete = _find_incomplete(edit_rows, parts_by_state["open"], parts_by_state["absent"])
    return LinkReport(
        edits=len(lines),
        complete=len(lines) - len(incomplete),
        open=tuple(parts_by_state["open"]),
        absent=tuple(parts_by_state["absent"]),
        rivalled=tuple(parts_by_state["rivalled"]),
    )


def _link_row(row: object, linked: LinkedEdit, chosen: dict[str, str], *, in_table: bool) -> dict[str, object]:
    """Return a row with the ids that are chosen or clearly lead, and with the candidates of its other parts."""
    ids = {name: candidate.id for name, candidate in linked.clear_candidates().items()} | chosen
    # All other parts are pending, also one that has an id in the row which its label in the row contradicts.
    pending = {name: result for name, result in linked.parts().items() if name not in ids}
    return _fill_row(row, ids, pending, in_table=in_table)


def _find_state(edit: EditRow, name: str, result: LinkResult, *, is_chosen: bool) -> _State:
    """Return how far a part of an edit is linked, in the words of `LinkReport`; "settled" is in none of its lists."""
    if is_chosen:
        return "settled"
    if result.status == "exact":
        if result.rival:
            return "rivalled"
        return "settled"
    has_id = getattr(edit, name) is not None
    if _is_absent(result, has_id=has_id):
        return "absent"
    return "open"


def _find_incomplete(edits: Sequence[EditRow], open_: Sequence[LinkedPart], absent: Sequence[LinkedPart]) -> set[int]:
    """Return the rows of the edits that have an open part, or neither an id nor a candidate for their new object."""
    incomplete = {part.row for part in open_}
    without_id = {edit.row for edit in edits if edit.target_new_id is None}
    for part in absent:
        if part.field == "target_new_id" and part.row in without_id:
            incomplete.add(part.row)
    return incomplete


def _is_absent(result: LinkResult, *, has_id: bool) -> bool:
    """Return whether the graph has no candidate for a part, or does not know the id that the row has."""
    if not result.candidates:
        return True
    return has_id and result.candidates[0].info.is_unknown


def _fill_row(
    row: object, ids: Mapping[str, str], pending: Mapping[str, LinkResult], *, in_table: bool
) -> dict[str, object]:
    """Return a row with the ids, and with the candidates of the pending parts."""
    filled: dict[str, object] = {}
    if isinstance(row, Mapping):
        filled.update(row)
    if in_table:
        for name, cell in filled.items():
            if name not in _TEXTS:
                filled[name] = _parse_cell(str(cell))
    rewrite = filled.get("requested_rewrite")
    if isinstance(rewrite, Mapping):  # a record of CounterFact
        filled["requested_rewrite"] = _fill_rewrite(rewrite, ids)
    else:  # under the names that the row has: kg-edit refuses target_true_id beside object_id
        own_names = {field: name for name, field in TRIPLET_NAMES.items() if name in filled}
        for field, entity in ids.items():
            filled[own_names.get(field, field)] = entity
    filled.pop("candidates", None)  # of an earlier call
    if pending:
        offered = {}
        for name, result in pending.items():
            offered[name] = [candidate.to_json() for candidate in result.candidates]
        filled["candidates"] = offered
    return filled


def _parse_cell(cell: str) -> str | bool | list[str]:
    """Return what a cell of a table stands for, since JSON has lists and truth values of its own."""
    texts = entries(cell)
    if len(texts) > 1:
        return texts
    if cell.lower() == "true":
        return True
    if cell.lower() == "false":
        return False
    return cell


def _apply_choices(
    choices: Sequence[tuple[str, str]], edits: Sequence[EditRow], links: Sequence[LinkedEdit]
) -> dict[int, dict[str, str]]:
    """Return {row: {id field: chosen id}}, with all rows."""
    chosen: dict[int, dict[str, str]] = {edit.row: {} for edit in edits}
    for selector, entity in choices:
        prefix = f"--choose {selector}={entity}: "  # of each message
        named = _find_parts(selector, edits, links)  # the parts that the choice may be meant for
        if not named and selector.isdecimal():
            rows = f"the rows are {edits[0].row} to {edits[-1].row}"
            raise BadOptionError(f"{prefix}there is no row {selector}; {rows}")
        if not named:
            raise BadOptionError(f"{prefix}no row has the name {selector!r}")
        fitting = []
        for part in named:
            if entity in {candidate.id for candidate in part.result.candidates}:
                fitting.append(part)
        if not fitting:
            raise BadOptionError(
                f"{prefix}{entity} is not a candidate there; found {_list_candidates(named)}. Choose one of these, "
                f"give a larger --limit, or write the id into the row itself."
            )
        # An id that is a candidate of an unsettled part is not meant for a part that is settled.
        _record_choice(chosen, entity, _select_unsettled(fitting) or fitting, prefix)
    return chosen


def _find_parts(selector: str, edits: Sequence[EditRow], links: Sequence[LinkedEdit]) -> list[LinkedPart]:
    """Return the parts that a choice names: those of the row with this number, and those with this name in any row."""
    parts = []
    for edit, linked in zip(edits, links, strict=True):
        for field, result in linked.parts().items():
            if selector in (str(edit.row), result.text):
                parts.append(LinkedPart(edit.row, field, result))
    return parts


def _select_unsettled(parts: Sequence[LinkedPart]) -> list[LinkedPart]:
    """Return the parts of which no candidate clearly leads: those that `LinkReport` calls open or absent."""
    return [part for part in parts if part.result.status != "exact"]


def _list_candidates(parts: Sequence[LinkedPart]) -> str:
    """Return the first candidates of the unsettled parts, else of all, each under the field of its id."""
    filled = [part for part in parts if part.result.candidates]
    offered = []
    for part in _select_unsettled(filled) or filled:
        first = "; ".join(map(str, part.result.candidates[:3]))
        offered.append(f"{part.field}: {first}")
    return ", ".join(dict.fromkeys(offered)) or "none"


def _record_choice(chosen: dict[int, dict[str, str]], entity: str, parts: Sequence[LinkedPart], prefix: str) -> None:
    """Add a choice to `chosen` in place; refuse an id that fits two parts of a row, and two ids for one part."""
    for row, field, _ in parts:
        row_fields = [part.field for part in parts if part.row == row]
        if len(row_fields) > 1:
            raise BadOptionError(f"{prefix}in row {row} it fits {' and '.join(row_fields)}; write it into the row.")
        earlier = chosen[row].setdefault(field, entity)
        if earlier != entity:
            raise BadOptionError(f"{prefix}{earlier} is chosen for {field} of row {row} too; keep one.")


def _fill_rewrite(rewrite: Mapping[str, object], ids: Mapping[str, str]) -> dict[str, object]:
    """Return the `requested_rewrite` of a CounterFact record with the ids; some files have objects as texts only."""
    filled = dict(rewrite)
    for name in ("subject_id", "relation_id"):
        if name in ids:
            filled[name] = ids[name]
    for name in ("target_new", "target_true"):
        if f"{name}_id" not in ids:
            continue
        target = rewrite.get(name)
        if not isinstance(target, Mapping):
            target = {"str": target}
        filled[name] = {**target, "id": ids[f"{name}_id"]}
    return filled
