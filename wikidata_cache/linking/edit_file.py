"""Link a file of edits: write an id where one candidate clearly leads, and list the candidates where none does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from kg_common.atomic import check_out, write_atomically
from kg_common.rows import TRIPLET_NAMES, entries
from wikidata_cache.edits import EditRow, file_of, json_rows, read_edits
from wikidata_cache.errors import BadOptionError
from wikidata_cache.linking.candidates import LinkResult
from wikidata_cache.linking.edit_links import LinkedEdit, link_all
from wikidata_cache.linking.linker import Linker

_TEXTS = {*(field.name for field in fields(EditRow)), *TRIPLET_NAMES} | {
    *("id", "case_id", "prompt", "ending", "target_text", "ground_truth")
}


@dataclass(frozen=True)
class LinkReport:
    """The number of edits, the number of `complete` edits, and parts without an id as (row, field, candidates).

    A part is `open` if none of its candidates clearly leads, so that a person has to choose. It is `absent` if the
    graph has no candidate for it, or does not know the id that the row has. An edit is complete if no part is open, and
    its new object has an id. The parts in `rivalled` got the id of the leading candidate although another one has the
    same name.
    """

    edits: int
    complete: int
    open: tuple[tuple[int, str, LinkResult], ...]
    absent: tuple[tuple[int, str, LinkResult], ...]
    rivalled: tuple[tuple[int, str, LinkResult], ...] = ()


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
            the order of the candidates.

    Returns:
        The numbers of edits, the parts that a person has to decide, and those that the graph does not have.
    """
    check_out(out, ".jsonl", inputs=[file_of(edits)])
    read = read_edits(edits)
    raw = json_rows(file_of(edits))
    links = list(link_all(linker, read, limit=limit))
    chosen = _chosen(choices, read, links)
    in_table = file_of(edits).suffix.lower() in (".csv", ".tsv")
    lines: list[str] = []
    unsettled: list[tuple[int, str, LinkResult]] = []
    absent: list[tuple[int, str, LinkResult]] = []
    rivalled: list[tuple[int, str, LinkResult]] = []
    for edit, linked in zip(read, links, strict=True):
        ids = {name: candidate.id for name, candidate in linked.clear_candidates().items()} | chosen[edit.row]
        # Open parts are also ids of the row that the row's own label contradicts.
        pending = {name: part for name, part in linked.parts().items() if name not in ids}
        for name, part in pending.items():
            has_id = getattr(edit, name) is not None
            unknown = not part.candidates or (has_id and part.candidates[0].info.label is None)
            (absent if unknown else unsettled).append((edit.row, name, part))
        for name, part in linked.parts().items():
            if part.rival and name in linked.clear_candidates() and name not in chosen[edit.row]:
                rivalled.append((edit.row, name, part))
        row = raw[edit.row - 1]
        filled = dict(row) if isinstance(row, Mapping) else {}
        if in_table:
            for name, cell in filled.items():
                if name not in _TEXTS:
                    filled[name] = _value(str(cell))
        rewrite = filled.get("requested_rewrite")
        if isinstance(rewrite, Mapping):  # a record of CounterFact
            filled["requested_rewrite"] = _with_ids(rewrite, ids)
        else:  # under the names that the row has: kg-edit refuses target_true_id beside object_id
            own_names = {field: name for name, field in TRIPLET_NAMES.items() if name in filled}
            filled |= {own_names.get(field, field): entity for field, entity in ids.items()}
        filled.pop("candidates", None)  # of an earlier call
        if pending:
            offered = {}
            for name, part in pending.items():
                offered[name] = [candidate.to_json() for candidate in part.candidates]
            filled["candidates"] = offered
        lines.append(json.dumps(filled, ensure_ascii=False) + "\n")
    write_atomically(out, "".join(lines))
    without_id = {edit.row for edit in read if edit.target_new_id is None}
    not_found = {row for row, name, _ in absent if name == "target_new_id"}
    incomplete = without_id & not_found | {row for row, _, _ in unsettled}
    return LinkReport(len(lines), len(lines) - len(incomplete), tuple(unsettled), tuple(absent), tuple(rivalled))


def _value(cell: str) -> str | bool | list[str]:
    """Return what a cell of a table stands for, since JSON has lists and truth values of its own."""
    parts = entries(cell)
    return parts if len(parts) > 1 else {"true": True, "false": False}.get(cell.lower(), cell)


def _chosen(
    choices: Sequence[tuple[str, str]], edits: Sequence[EditRow], links: Sequence[LinkedEdit]
) -> dict[int, dict[str, str]]:
    """Return {row: {id field: chosen id}}, with all rows."""
    chosen: dict[int, dict[str, str]] = {edit.row: {} for edit in edits}
    for selector, entity in choices:
        refused = f"--choose {selector}={entity}: "
        named = [
            (edit.row, name, part)
            for edit, linked in zip(edits, links, strict=True)
            for name, part in linked.parts().items()
            if selector in (str(edit.row), part.text)
        ]
        if not named:
            rows = f"there is no row {selector}; the rows are {edits[0].row} to {edits[-1].row}"
            raise BadOptionError(refused + (rows if selector.isdecimal() else f"no row has the name {selector!r}"))
        fitting = [parts for parts in named if entity in {candidate.id for candidate in parts[2].candidates}]
        if not fitting:
            filled = [(name, part) for _, name, part in named if part.candidates]
            pending = [(name, part) for name, part in filled if part.status != "exact"]
            # A row's parts are different things: each candidate is listed under the field whose id it may be
            offered = dict.fromkeys(
                f"{name}: {'; '.join(map(str, part.candidates[:3]))}" for name, part in pending or filled
            )
            raise BadOptionError(
                f"{refused}{entity} is no candidate there; found {', '.join(offered) or 'none'}. Choose one of "
                "these, give a larger --limit, or write the id into the row itself."
            )
        # An id that is a candidate of an open part is not meant for a part that is settled.
        fitting = [parts for parts in fitting if parts[2].status != "exact"] or fitting
        for row, name, _ in fitting:
            fields = [field for number, field, _ in fitting if number == row]
            if len(fields) > 1:
                raise BadOptionError(f"{refused}in row {row} it fits {' and '.join(fields)}; write it into the row.")
            if chosen[row].setdefault(name, entity) != entity:
                raise BadOptionError(f"{refused}{chosen[row][name]} is chosen for {name} of row {row} too; keep one.")
    return chosen


def _with_ids(rewrite: Mapping[str, object], ids: Mapping[str, str]) -> dict[str, object]:
    """Return the `requested_rewrite` of a CounterFact record with the ids; some files have objects as texts only."""
    filled = dict(rewrite) | {name: ids[name] for name in ("subject_id", "relation_id") if name in ids}
    for name in ("target_new", "target_true"):
        entity = ids.get(f"{name}_id")
        if entity:
            target = rewrite.get(name)
            fields = dict(target) if isinstance(target, Mapping) else {"str": target}
            filled[name] = {**fields, "id": entity}
    return filled
