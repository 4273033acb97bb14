"""The facts of a joint method, and the records of its patch: each edit, the facts written for it, and their values z.

The values z [d, facts] are the patch's state ``value``. With them, edits can be removed later and the others written
again from their z (`batches_without`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kg_edit.edits.edit import STORED, Edit, checked
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.descent import Descent
from kg_edit.locate_then_edit.long_run import state_of
from kg_edit.locate_then_edit.objective import Request
from kg_edit.patches.base import Patch

VALUE = "value"  # a patch's state: z, [d, facts]

Record = Mapping[str, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Fact:
    """A fact that is written for an edit, with its prompts: the edit itself or a further fact."""

    edit: Edit
    prompts: Request

    @property
    def target(self) -> str:
        """The fact's target o*."""
        return self.edit.target_new


@dataclass(frozen=True, eq=False, kw_only=True)
class FactValue:
    """The value z that was found for a fact.

    Attributes:
        state: h [d], the model's present state at the subject's last token.
        descent: the descent that found the change z - h.
        notes: further fields of the fact's record.
    """

    state: Tensor
    descent: Descent
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def target_state(self) -> Tensor:
        """The target state z = h + (z - h), [d]."""
        return self.state + self.descent.change


def new_record(record: Record, facts: Sequence[Fact], values: Sequence[FactValue]) -> dict[str, Any]:
    """Return an edit's ``record``, completed by what is noted of its own fact and of its further facts (``requests``).

    The first of ``facts`` is the edit itself.
    """
    fact_records = [_record_fact(fact, value) for fact, value in zip(facts, values, strict=True)]
    completed = {**fact_records[0], **record}  # a field of the edit's own record wins
    further = fact_records[1:]
    if further:
        completed["requests"] = further
    return completed


def _record_fact(fact: Fact, value: FactValue) -> dict[str, Any]:
    """Return what is noted of one fact: its edit, the norms of h and z - h, and how the descent went."""
    value.descent.check()
    norms = {
        "value": round(float(value.state.norm()), 6),
        "change": round(float(value.descent.change.norm()), 6),
    }
    fields = fact.edit.model_dump(mode="json", exclude_defaults=True)
    return {"edit": fields, "norms": norms, **value.descent.summary, **value.notes}


def with_updates(records: Sequence[Record], updates: Tensor) -> list[Record]:
    """Return the records of a batch, with the norms of its facts' ``updates`` [facts] and the size of the batch."""
    parts = updates.split([count_facts(record) for record in records])
    complete = list[Record]()
    for record, part in zip(records, parts, strict=True):
        norms = {**record["norms"], "update": round(float(part.norm()), 6)}
        complete.append({**record, "norms": norms, "batch": len(records)})
    return complete


def count_facts(record: Record) -> int:
    """Return the number of facts of a record, which is its number of columns in the state ``value``."""
    return 1 + len(record.get("requests", ()))


def texts_of(record: Record) -> list[str]:
    """Return the text of the prompt of each fact of a record, as `Edit.text`."""
    texts = []
    for fact in (record, *record.get("requests", ())):
        edit = fact["edit"]
        texts.append(edit.get("prompt", "").replace("{}", edit.get("subject", "")))
    return texts


def facts_of(record: Record) -> list[Edit]:
    """Return the facts that were written for an edit; the edit itself is the first one."""
    facts = (record, *record.get("requests", ()))
    return [checked(Edit, fact["edit"], context=STORED) for fact in facts]


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """The records of edits that were written together, and their facts' z [d, facts]."""

    records: tuple[Record, ...]
    values: Tensor


def batches_without(patch: Patch, ids: Collection[str], *, methods: Sequence[Record]) -> list[Batch]:
    """Return the batches of ``patch`` without the edits with these ``ids``; an empty batch is left out."""
    values = _check_removal(patch, ids, methods)
    batches = []
    remaining = list(patch.edits)
    column = 0
    while remaining:
        size = int(remaining[0]["batch"])  # each record has the size of its batch
        kept = list[Record]()
        columns = list[Tensor]()
        for record in remaining[:size]:
            own_values = values[:, column : column + count_facts(record)]
            column += count_facts(record)
            if record["edit"]["id"] not in ids:
                kept.append(record)
                columns.append(own_values)
        if kept:
            batches.append(Batch(records=tuple(kept), values=torch.cat(columns, 1)))
        remaining = remaining[size:]
    return batches


def _check_removal(patch: Patch, ids: Collection[str], methods: Sequence[Record]) -> Tensor:
    """Return the values z [d, facts] of a patch, once it is clear that the edits ``ids`` can be removed from it."""
    patch_methods = list(patch.provenance.get("methods", ()))
    if patch_methods != list(methods):
        names = "no method"
        if patch_methods:
            names = ", ".join(str(method.get("name")) for method in patch_methods)
        raise PatchError(
            f"this patch was made by {names}, not only by {methods[0]['name']} with the current settings; build the "
            "method with the settings, contexts and covariances that the patch's provenance names"
        )
    values = state_of(patch, VALUE)
    if values is None or values.shape[1] != sum(count_facts(record) for record in patch.edits):
        raise PatchError("this patch does not contain the values of its edits; make a new patch without these edits")
    if any(record.get("scale", 1.0) != 1.0 for record in patch.edits):
        raise PatchError(
            "this patch was scaled, so its stored values do not fit; remove the edit from the unscaled patch"
        )
    known = [record["edit"]["id"] for record in patch.edits]
    unknown = sorted(set(ids) - set(known))
    if unknown:
        names = ", ".join(repr(id_) for id_ in known[:5])
        raise PatchError(f"the patch has no edit {unknown[0]!r}; it has {names} …")
    return values
