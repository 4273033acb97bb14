"""The facts of a joint method, their values z, and the records of its patch: of each edit and of its facts.

- `Fact`, `FactGroup`: what is written for an edit. `FactValue`, `FoundValues`: the z that were found.
- `new_record`, `with_update_norms`: the record of an edit. `prompts_of`, `facts_of`: what a record says.
- `batches_without`: what is left of a patch without some edits. The patch stores z [d, facts] (`Z`), with which the
  other edits are written again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kg_edit.edits.edit import STORED, Edit, parse_record
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.descent import Descent
from kg_edit.locate_then_edit.long_run import state_of
from kg_edit.locate_then_edit.objective import Request
from kg_edit.patches.base import Patch

Z = "value"  # name of the tensor z [d, facts] in a patch's `state`

Record = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Fact:
    """A fact that is written for an edit, with its prompts: the edit itself or a further fact."""

    edit: Edit
    prompts: Request


@dataclass(frozen=True, eq=False, kw_only=True)
class FactGroup:
    """The facts that are written for an edit: the edit itself first.

    ``opposed`` counts those that were left out, because another edit of the batch contradicts them.
    """

    edit: Edit
    facts: tuple[Fact, ...]
    opposed: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class FactValue:
    """What was found for a fact: h, the present state of the model, and the change z - h.

    Attributes:
        present_state: h [d], at the subject's last token.
        descent: the descent that found the change z - h.
        notes: further fields of the fact's record.
    """

    present_state: Tensor
    descent: Descent
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def target_state(self) -> Tensor:
        """z = h + (z - h), [d], with which the model predicts the fact."""
        return self.present_state + self.descent.change


def check_values(values: Iterable[FactValue]) -> None:
    """Check that each value may be written: it is finite, and ``anchor`` does not refuse it."""
    for value in values:
        value.descent.check()


def split_by_edit(values: Sequence[FactValue], groups: Sequence[FactGroup]) -> list[list[FactValue]]:
    """Return the values of each edit's facts, from those of all facts in order."""
    values_by_edit = []
    first = 0  # of the edit's values
    for group in groups:
        end = first + len(group.facts)
        values_by_edit.append(list(values[first:end]))
        first = end
    return values_by_edit


@dataclass(frozen=True, eq=False, kw_only=True)
class FoundValues:
    """What was found before a batch was refused: the values of its facts, by the edit.

    They were found on the model with the patch ``before``, and hold on no other.
    """

    before: Patch
    values: Mapping[Edit, list[FactValue]]

    def values_for(self, groups: Iterable[FactGroup], before: Patch) -> dict[Edit, list[FactValue]]:
        """Return the values of the edits of a new batch that still have the same facts; {} on another patch."""
        both_empty = self.before.is_empty and before.is_empty  # then the model is the same: without a patch
        if self.before is not before and not both_empty:
            return {}
        known = {}
        for group in groups:
            values = self.values.get(group.edit, [])
            # The new batch lacks the refused edits. A fact that contradicted one of them was left out before, and is
            # written now. So a group can only gain facts, and an equal number means the same facts.
            if len(values) == len(group.facts):
                known[group.edit] = values
        return known


def new_record(record: Record, facts: Sequence[Fact], values: Sequence[FactValue]) -> dict[str, Any]:
    """Return an edit's ``record``, completed by what is noted of its own fact and of its further facts.

    The first of ``facts`` is the edit itself. The field ``requests`` has a record of each further fact.
    """
    fact_records = [_record_fact(fact, value) for fact, value in zip(facts, values, strict=True)]
    completed = {**fact_records[0], **record}  # a field of the edit's own record wins
    further = fact_records[1:]
    if further:
        completed["requests"] = further
    return completed


def _record_fact(fact: Fact, value: FactValue) -> dict[str, Any]:
    """Return what is noted of one fact: its edit, the norms of h and z - h, and how the descent went."""
    norms = {
        "value": round(float(value.present_state.norm()), 6),  # |h|, as |m| in ROME's record; not |z|
        "change": round(float(value.descent.change.norm()), 6),
    }
    fields = fact.edit.model_dump(mode="json", exclude_defaults=True)
    return {"edit": fields, "norms": norms, **value.descent.summary, **value.notes}


def with_update_norms(records: Sequence[Record], update_norms: Tensor) -> list[Record]:
    """Return the records of a batch, each with the norm of its update and with the size of the batch.

    The norm of an edit is the root of the sum of its facts' squared norms. The norm of the facts' summed update
    (`kg_edit.patches.changes.edit_norms`) is another number if the edit has several facts.

    Args:
        records: one per edit.
        update_norms: the norm of each fact's update, those of the first edit's facts first, [facts].
    """
    norms_by_edit = update_norms.split([count_facts(record) for record in records])
    complete = list[Record]()
    for record, fact_norms in zip(records, norms_by_edit, strict=True):
        norms = {**record["norms"], "update": round(float(fact_norms.norm()), 6)}
        complete.append({**record, "norms": norms, "batch": len(records)})
    return complete


def count_facts(record: Record) -> int:
    """Return the number of facts of a record, which is its number of columns of z (`Z`)."""
    return len(_fact_records(record))


def _fact_records(record: Record) -> tuple[Record, ...]:
    """Return the records of an edit's facts: its own record, then those of its further facts (``requests``)."""
    return (record, *record.get("requests", ()))


def prompts_of(record: Record) -> list[set[tuple[str, bool]]]:
    """Return the prompt of each fact of a record, in each of its forms: {("Rome is in", False)} in plain text.

    The text is that of `Edit.text`, and the forms those of `Edit.forms`, without the time that `facts_of` takes.
    """
    prompts = []
    for fact_record in _fact_records(record):
        edit = fact_record["edit"]
        text = edit.get("prompt", "").replace("{}", edit.get("subject", ""))
        chat = edit.get("chat", False)
        forms: tuple[bool, ...] = (chat,)
        if chat == "both":
            forms = (False, True)
        prompts.append({(text, form) for form in forms})
    return prompts


def drop_edited_again(keys: Tensor, before: Patch, facts: Sequence[Fact]) -> Tensor:
    """Return the keys K_p of the facts of ``before`` that ``facts`` do not edit again, [d_ff, remaining facts].

    The key of a fact that is edited again in the same form is not protected. It would be in K and in K_p, and a change
    along a key that is in both is about half of what it should be. In another form, plain text or chat, a prompt has
    another key.

    Args:
        keys: K_p of all facts of ``before``, [d_ff, earlier facts].
        before: the patch that is applied to the model.
        facts: the facts that are written now.
    """
    edited_now = set[tuple[str, bool]]()  # text and form
    for fact in facts:
        edited_now.update((fact.edit.text, form) for form in fact.edit.forms)
    is_protected = list[bool]()  # of each earlier fact
    for record in before.edits:
        is_protected += [prompts.isdisjoint(edited_now) for prompts in prompts_of(record)]
    if keys.shape[1] != len(is_protected):
        # An earlier patch has no keys, such as one of fine-tuning, so which key is whose is not known.
        if not all(is_protected):
            log.warning(
                "the applied patch has %d facts but the keys of %d, so the keys of facts that are edited again stay "
                "protected, and these change less",
                len(is_protected),
                keys.shape[1],
            )
        return keys
    return keys[:, torch.tensor(is_protected, dtype=torch.bool, device=keys.device)]


def facts_of(record: Record) -> list[Edit]:
    """Return the facts that were written for an edit, its own first; for a long target these are the chunks of it."""
    return [parse_record(Edit, fact_record["edit"], context=STORED) for fact_record in _fact_records(record)]


@dataclass(frozen=True, eq=False, kw_only=True)
class WrittenBatch:
    """The records of edits that were written together, and ``z`` [d, facts] of their facts."""

    records: tuple[Record, ...]
    z: Tensor


def batches_without(patch: Patch, ids: Collection[str], *, methods: Sequence[Record]) -> list[WrittenBatch]:
    """Return the batches of ``patch`` without the edits with these ``ids``; an empty batch is left out.

    A patch has the records of its batches one after the other, and the columns of z in the same order. For example, the
    edits a (with two facts) and b were written together, and then c alone:

        records     a     b    c
        columns    0 1    2    3

    Without a, the batches are b with column 2, and c with column 3.
    """
    z = _read_removable_z(patch, ids, methods)
    batches = []
    remaining = list(patch.edits)
    column = 0  # the first column of the next record
    while remaining:
        size = int(remaining[0]["batch"])  # each record has the size of its batch
        kept = list[Record]()
        columns = list[Tensor]()
        for record in remaining[:size]:
            end = column + count_facts(record)
            if record["edit"]["id"] not in ids:
                kept.append(record)
                columns.append(z[:, column:end])
            column = end
        if kept:
            batches.append(WrittenBatch(records=tuple(kept), z=torch.cat(columns, 1)))
        remaining = remaining[size:]
    return batches


def _read_removable_z(patch: Patch, ids: Collection[str], methods: Sequence[Record]) -> Tensor:
    """Check that the edits ``ids`` can be removed from a patch, and return its z [d, facts]."""
    patch_methods = list(patch.provenance.get("methods", ()))
    if patch_methods != list(methods):
        names = "no method"
        if patch_methods:
            names = ", ".join(str(method.get("name")) for method in patch_methods)
        raise PatchError(
            f"this patch was made by {names}, not only by {methods[0]['name']} with the current settings; build the "
            "method with the settings, contexts and covariances that the patch's provenance names"
        )
    z = state_of(patch, Z)
    if z is None or z.shape[1] != sum(count_facts(record) for record in patch.edits):
        raise PatchError("this patch does not contain the values of its edits; make a new patch without these edits")
    if any(record.get("scale", 1.0) != 1.0 for record in patch.edits):
        raise PatchError(
            "this patch was scaled, so its stored values do not fit; remove the edit from the unscaled patch"
        )
    known = [record["edit"]["id"] for record in patch.edits]
    unknown = sorted(set(ids) - set(known))
    if unknown:
        names = ", ".join(repr(id_) for id_ in known[:5])
        if len(known) > 5:
            names += ", …"
        raise PatchError(f"the patch has no edit {unknown[0]!r}; it has {names}")
    return z
