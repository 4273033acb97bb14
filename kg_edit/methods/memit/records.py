"""The records of a joint method's patch: each edit, the facts written for it, and their values z.

The values z [d, facts] are the patch's state ``value``. With them, edits can be taken out later and the others written
again from their z (`batches_without`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit, checked
from kg_edit.errors import PatchError
from kg_edit.methods.memit.values import Target
from kg_edit.patches.base import Patch, PatchStack
from kg_edit.patches.weight_patch import WeightPatch

VALUE = "value"  # a patch's state: z, [d, facts]

Record = Mapping[str, Any]


def new_record(method: str, edit: Edit, facts: Sequence[Edit], targets: Sequence[Target]) -> dict[str, Any]:
    """The record of an edit: of the edit's own fact, and of the further facts written with it (``requests``).

    Raises:
        PatchError: a target, or its loss, is not finite.
    """
    for target in targets:
        target.descent.check_finite()
    own, *further = (_fact_record(fact, target) for fact, target in zip(facts, targets, strict=True))
    own = {**own, "edit": _fields(edit), "method": method}
    return {**own, "requests": further} if further else own


def _fact_record(fact: Edit, target: Target) -> dict[str, Any]:
    norms = {
        "value": round(float(target.state.norm()), 6),
        "change": round(float(target.descent.change.norm()), 6),
    }
    return {"edit": _fields(fact), "norms": norms, **target.descent.summary, **target.notes}


def _fields(edit: Edit) -> dict[str, Any]:
    return edit.model_dump(mode="json", exclude_defaults=True)


def with_updates(records: Sequence[Record], updates: Tensor) -> list[Record]:
    """The records of a batch, with the norms of its facts' ``updates`` [facts] and the size of the batch added."""
    parts = updates.split([width(record) for record in records])
    return [
        {**record, "norms": {**record["norms"], "update": round(float(part.norm()), 6)}, "batch": len(records)}
        for record, part in zip(records, parts, strict=True)
    ]


def width(record: Record) -> int:
    """The number of facts of a record, which is its number of columns in the state ``value``."""
    return 1 + len(record.get("requests", ()))


def facts_of(record: Record) -> list[Edit]:
    """The facts that were written for an edit; the edit itself is the first one.

    Raises:
        EditError: the record is damaged.
    """
    further = [request["edit"] for request in record.get("requests", ())]
    return [checked(Edit, fields) for fields in (record["edit"], *further)]


def state_of(patch: Patch, name: str) -> Tensor | None:
    """The state ``name`` of a weight patch, or of the first weight patch in a stack that has it; None if none has."""
    parts = patch.patches if isinstance(patch, PatchStack) else (patch,)
    return next((part.state[name] for part in parts if isinstance(part, WeightPatch) and name in part.state), None)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """The records of edits that were written together, and their facts' z [d, facts]."""

    records: tuple[Record, ...]
    values: Tensor


def batches_without(patch: Patch, ids: Collection[str], *, methods: Sequence[Record]) -> list[Batch]:
    """The batches of ``patch`` without the edits with these ``ids``; a batch without remaining edits is left out.

    Raises:
        PatchError: the patch was made by another method or with other settings than ``methods``, it lacks the values
            of its edits, it was scaled, or no edit has such an id.
    """
    values = _values(patch, methods)
    if any(record.get("scale", 1.0) != 1.0 for record in patch.edits):
        raise PatchError(
            "this patch was scaled, so its stored values do not fit; take the edit out of the unscaled patch"
        )
    known = [record["edit"]["id"] for record in patch.edits]
    if unknown := sorted(set(ids) - set(known)):
        raise PatchError(f"the patch has no edit {unknown[0]!r}; it has {', '.join(map(repr, known[:5]))} …")
    batches = []
    for records, columns in _batches(patch.edits, values):
        parts = columns.split([width(record) for record in records], 1)
        kept = [place for place, record in enumerate(records) if record["edit"]["id"] not in ids]
        if kept:
            own = torch.cat([parts[place] for place in kept], 1)
            batches.append(Batch(records=tuple(records[place] for place in kept), values=own))
    return batches


def _values(patch: Patch, methods: Sequence[Record]) -> Tensor:
    if list(patch.provenance.get("methods", ())) != list(methods):
        found = ", ".join(str(method.get("name")) for method in patch.provenance.get("methods", ())) or "no method"
        raise PatchError(
            f"this patch was made by {found}, not only by {methods[0]['name']} with the current settings; build the "
            "method with the settings, contexts and covariances that the patch's provenance names"
        )
    values = state_of(patch, VALUE)
    if values is None or values.shape[1] != sum(map(width, patch.edits)):
        raise PatchError("this patch does not contain the values of its edits; make a new patch without these edits")
    return values


def _batches(records: Sequence[Record], values: Tensor) -> Iterator[tuple[Sequence[Record], Tensor]]:
    """Yield the records and columns of each batch; the first record of a batch has the size of the batch."""
    while records:
        size = int(records[0]["batch"])
        batch, records = records[:size], records[size:]
        facts = sum(map(width, batch))
        yield batch, values[:, :facts]
        values = values[:, facts:]
