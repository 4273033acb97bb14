"""Helpers of all loaders, in the order of their use: check a row's fields, find the subject in its sentence, build the
edit, the probes and the record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from kg_edit.edits.edit import Edit, Record, parse_record
from kg_edit.edits.record import BenchmarkRecord, Form, Probe, Query, Remark
from kg_edit.errors import EditError, Fault, describe
from kg_edit.writing_systems import whole

AnyRecord = TypeVar("AnyRecord", bound=Record)
ABSENT = "does not occur in"  # in the message of a missing subject; the lint recognises the fault by these words
RightAnswers = tuple[tuple[str, ...], ...]  # (("United States", "USA"), ("Canada",)): each answer's name and aliases


class Template(NamedTuple):
    """A prompt with {} for its subject, and the subject as it was written in the prompt."""

    prompt: str
    subject: str


def without_null(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's fields, without those that are null."""
    return {name: value for name, value in row.items() if value is not None}


def check_fields(model: type[AnyRecord], row: object) -> AnyRecord:
    """Check a row against the record class of its published form, and return the record."""
    if not isinstance(row, Mapping):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    return parse_record(model, without_null(row))


def find_template(text: str, subject: str, *, field: str) -> Template:
    """Replace the first occurrence of the subject in ``text``, as whole words, by {}; case is ignored if needed."""
    match = None
    if subject.strip():
        pattern = whole(subject.strip(), text)  # a regular expression
        match = re.search(pattern, text) or re.search(pattern, text, re.IGNORECASE)
    if not match:
        raise EditError([Fault(field, f"the subject {subject!r} {ABSENT} {text[:80]!r}; write its name there")])
    return Template(text[: match.start()] + "{}" + text[match.end() :], match[0])


def build_edit(fields: Mapping[str, Any], *, field_names: Mapping[str, str]) -> Edit:
    """Build an edit from its fields.

    ``field_names`` maps a field of `Edit` to the row's name for it, such as target_true to ground_truth: a fault is
    reported under the row's name. A field that is not in it has the same name in the row.
    """
    try:
        return parse_record(Edit, fields)
    except EditError as error:
        faults = [Fault(field_names.get(fault.field, fault.field), fault.message) for fault in error.faults]
        raise EditError(faults) from None


def build_record(
    id_: str, edits: Sequence[Edit], probes: Sequence[Probe] = (), *, form: str, remarks: Sequence[Remark] = ()
) -> BenchmarkRecord:
    """Build a record of these edits and probes; ``form`` names the published form from which it was read."""
    return BenchmarkRecord(id=id_, edits=tuple(edits), probes=tuple(probes), form=form, remarks=tuple(remarks))


def build_rephrased_edit(
    name: str, *, prompt: str, subject: str, target_new: str, target_true: str | None, rephrase: str
) -> Edit:
    """Build the edit of a row in EasyEdit's form.

    ``prompt`` contains the subject; ``rephrase`` is the one paraphrase, or "".
    """
    parts = find_template(prompt, subject, field="prompt")
    fields: dict[str, Any] = {
        "id": name,
        "subject": parts.subject,
        "prompt": parts.prompt,
        "target_new": target_new,
        "target_true": target_true,
        "paraphrases": non_blank(rephrase),
    }
    return build_edit(fields, field_names={"target_true": "ground_truth"})


def non_blank(text: str) -> tuple[str, ...]:
    """Return a text alone in a tuple; () if it is blank."""
    return (text,) if text.strip() else ()


def old_target(new: str, old: str | None) -> tuple[str | None, tuple[Remark, ...]]:
    """Return the old target and remarks; if it equals the new target, None and a remark about it."""
    if old is not None and old.strip().casefold() == new.strip().casefold():
        return None, (Remark(kind="same-target", message=f"the target {new!r} is also the old target"),)
    return old, ()


def list_answers(value: Any) -> RightAnswers:
    """Return the right answers, each with its aliases, from a text, a list of aliases, or a list of such lists.

    Entries that are blank or no text are dropped.
    """
    groups = [value]  # a text, or the aliases of one answer
    if isinstance(value, list) and any(isinstance(entry, list) for entry in value):
        groups = value
    right = []
    for group in groups:
        entries = group if isinstance(group, list) else [group]
        names = tuple(entry for entry in entries if isinstance(entry, str) and entry.strip())
        if names:
            right.append(names)
    return tuple(right)


def make_probes(
    measures: str, prompt: str, right: RightAnswers, *, form: Form = "question", others: Sequence[str] = ()
) -> tuple[Probe, ...]:
    """Return a probe of one query; () if the prompt is blank or there is no answer."""
    if not prompt.strip() or not right:
        return ()
    query = Query(prompt=prompt, answers=right, form=form, others=tuple(others))
    return (Probe(measures=measures, queries=(query,)),)
