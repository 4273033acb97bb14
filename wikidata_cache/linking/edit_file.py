"""Link a file of edits: write an id where one candidate clearly leads, and list the candidates where none does.

`contradiction` says which ids of an edit have other labels in the graph than in the edit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wikidata_cache.atomic import write_atomically
from wikidata_cache.edits import EditRow, file_of, json_rows, read_edits
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import is_entity
from wikidata_cache.labels.label_index import normalise
from wikidata_cache.linking.candidates import LinkResult
from wikidata_cache.linking.edit_links import LinkedEdit, link_all
from wikidata_cache.linking.linker import Linker

LinkRow = Mapping[str, object]

_FIELDS = ("subject", "relation", "target_true", "target_new")


@dataclass(frozen=True)
class LinkReport:
    """The number of edits, the number of `complete` edits, and the `open` parts as (row, field, candidates).

    An edit is complete if it has no open part. A part is open if none of its candidates clearly leads.
    """

    edits: int
    complete: int
    open: tuple[tuple[int, str, LinkResult], ...]


def link_edits(linker: Linker, edits: str | Path, out: Path, *, limit: int = 10) -> LinkReport:
    """Write the edits as JSONL to `out`, with an id for each part of which one candidate clearly leads.

    For the other parts, the row gets the field `candidates`: {field: list of candidates}. All other contents of a row
    are kept. "edits.jsonl:3" means the third row only. Raises EditRowError for a row that is not an edit, and
    BadOptionError if `out` does not end in .jsonl, its folder is missing, or it is the file of edits itself.
    """
    check_out(edits, out)
    read, raw = read_edits(edits), json_rows(file_of(edits))
    rows: list[LinkRow] = []
    unsettled: list[tuple[int, str, LinkResult]] = []
    for edit, linked in zip(read, link_all(linker, read, limit=limit), strict=True):
        row = raw[edit.row - 1]
        rows.append(_filled(row if isinstance(row, dict) else {}, edit, linked))
        unsettled += [(edit.row, name, part) for name, part in _open(edit, linked)]
    write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return LinkReport(len(rows), len(rows) - len({row for row, _, _ in unsettled}), tuple(unsettled))


def check_out(edits: str | Path, out: Path) -> None:
    """Raise BadOptionError if the linked edits cannot be written to `out`, or would overwrite the edits themselves."""
    if not out.name.endswith(".jsonl"):
        raise BadOptionError(f"{out}: expected a name ending in .jsonl.")
    if not out.parent.is_dir():
        raise BadOptionError(f"{out}: there is no folder {out.parent}. Make it (mkdir -p), or give another name.")
    if out.is_dir():
        raise BadOptionError(f"{out} is a folder; give the name of a file.")
    if out.exists() and (path := file_of(edits)).exists() and out.samefile(path):
        raise BadOptionError(f"{out} is the file of the edits itself; give another name, such as linked.jsonl.")


def _open(edit: EditRow, linked: LinkedEdit) -> Iterator[tuple[str, LinkResult]]:
    """Yield the id fields without a clear candidate, such as ids that the row's own label contradicts."""
    return ((name, part) for name, part in linked.parts().items() if part.status != "exact")


def _filled(row: LinkRow, edit: EditRow, linked: LinkedEdit) -> LinkRow:
    ids = {name: candidate.id for name, candidate in linked.clear_candidates().items()}
    candidates = {name: part.to_json()["candidates"] for name, part in _open(edit, linked)}
    rewrite = row.get("requested_rewrite")
    filled = {"requested_rewrite": _rewritten(rewrite, ids)} if isinstance(rewrite, Mapping) else ids
    return {**row, **filled, **({"candidates": candidates} if candidates else {})}


def _rewritten(rewrite: LinkRow, ids: Mapping[str, str]) -> LinkRow:
    """Return the `requested_rewrite` of a CounterFact record with the ids filled in."""
    flat = {name: ids[name] for name in ("subject_id", "relation_id") if name in ids}
    targets = {
        name: {**_target(rewrite.get(name)), "id": ids[f"{name}_id"]}
        for name in ("target_new", "target_true")
        if f"{name}_id" in ids
    }
    return {**rewrite, **flat, **targets}


def _target(said: object) -> LinkRow:
    """Return an object of a CounterFact record; some files have only its text."""
    return said if isinstance(said, Mapping) else {"str": said}


def contradiction(edit: EditRow, label: Callable[[str], str | None], *, redirects: Mapping[str, str]) -> str | None:
    """Return a sentence on the ids of an edit that have another label in the graph than in the row; None if none has.

    `label` returns the graph's label of an id, or None. `redirects` maps merged items to the items that replace them;
    the labels of the latter are compared. Case and accents are ignored, and so are missing labels.
    """
    faults = []
    for field in _FIELDS:
        text, entity = getattr(edit, field), getattr(edit, f"{field}_id")
        called = label(redirects.get(entity, entity)) if entity and text and not is_entity(text) else None
        if called and normalise(called) != normalise(text):
            faults.append(f"{field}_id {entity} is {called!r} in the graph, but {text!r} in the row")
    return f"row {edit.row}: {'; '.join(faults)}; check the id or use `link`" if faults else None
