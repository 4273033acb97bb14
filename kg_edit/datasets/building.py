"""What loaders share: a row's fields checked, a subject found in its sentence, answers in one shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from kg_edit.datasets.record import BenchmarkRecord, Form, Probe, Query, Remark
from kg_edit.edits.edit import Edit, Record, checked
from kg_edit.errors import EditError, Fault

AnyRecord = TypeVar("AnyRecord", bound=Record)
ABSENT = "does not occur in"  # of a subject and its sentence; the lint knows the fault by it
Names = tuple[tuple[str, ...], ...]


class Template(NamedTuple):
    """A sentence with {} for its subject, and the subject as the sentence writes it."""

    prompt: str
    subject: str


def without_null(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's fields, but for those that are null."""
    return {name: value for name, value in row.items() if value is not None}


def fields_of(model: type[AnyRecord], row: Mapping[str, Any]) -> AnyRecord:
    """A row as a record of its published form.

    Raises:
        EditError: a field is missing, unknown or of another type; names it.
    """
    return checked(model, without_null(row))


def template(text: str, subject: str, *, field: str) -> Template:
    """Put {} for the first place where ``text`` has the subject as whole words, in any case if not as written.

    Raises:
        EditError: ``text``, the row's ``field``, does not hold the subject.
    """
    pattern = rf"(?<!\w){re.escape(subject.strip())}(?!\w)"
    found = re.search(pattern, text) or re.search(pattern, text, re.IGNORECASE) if subject.strip() else None
    if not found:
        raise EditError([Fault(field, f"the subject {subject!r} {ABSENT} {text[:80]!r}; write its name there")])
    return Template(text[: found.start()] + "{}" + text[found.end() :], found[0])


def built_edit(fields: Mapping[str, Any], *, names: Mapping[str, str]) -> Edit:
    """The edit with these fields; faults come under the row's own ``names``.

    Raises:
        EditError: a field is wrong.
    """
    try:
        return checked(Edit, fields)
    except EditError as error:
        raise EditError(Fault(names.get(fault.field, fault.field), fault.message) for fault in error.faults) from None


def built(
    id_: str, edits: Sequence[Edit], probes: Sequence[Probe] = (), *, form: str, remarks: Sequence[Remark] = ()
) -> BenchmarkRecord:
    """The record of these edits and probes; ``form`` says from which published form it was read."""
    return BenchmarkRecord(id=id_, edits=tuple(edits), probes=tuple(probes), form=form, remarks=tuple(remarks))


def rephrased_edit(
    name: str, *, prompt: str, subject: str, target_new: str, target_true: str | None, rephrase: str
) -> Edit:
    """The edit of a row in EasyEdit's form: a prompt that names its subject, the targets, and one paraphrase or "".

    Raises:
        EditError: a field is wrong, under the row's own name.
    """
    place = template(prompt, subject, field="prompt")
    fields: dict[str, Any] = {
        "id": name,
        "subject": place.subject,
        "prompt": place.prompt,
        "target_new": target_new,
        "target_true": target_true,
        "paraphrases": (rephrase,) if rephrase.strip() else (),
    }
    return built_edit(fields, names={"target_true": "ground_truth"})


def old_target(new: str, old: str | None) -> tuple[str | None, tuple[Remark, ...]]:
    """The old target, and remarks; none where it is the new one, as there is nothing to compare then."""
    if old is not None and old.strip().casefold() == new.strip().casefold():
        return None, (Remark(kind="same-target", message=f"the target {new!r} is also the old target"),)
    return old, ()


def answers(value: Any) -> Names:
    """Right answers, each with its aliases, from a text, a list of aliases, or a list of such lists.

    What is no text, or a blank one, is dropped.
    """
    several = isinstance(value, list) and any(isinstance(group, list) for group in value)
    groups = value if several else [value]
    kept = (tuple(name for name in _listed(group) if isinstance(name, str) and name.strip()) for group in groups)
    return tuple(group for group in kept if group)


def _listed(group: Any) -> list[Any]:
    return group if isinstance(group, list) else [group]


def probe(
    measures: str, prompt: str, right: Names, *, form: Form = "question", others: Sequence[str] = ()
) -> tuple[Probe, ...]:
    """A probe of one query; nothing where there is nothing to ask, or no answer to it."""
    if not prompt.strip() or not right:
        return ()
    query = Query(prompt=prompt, answers=right, form=form, others=tuple(others))
    return (Probe(measures=measures, queries=(query,)),)


def form_of(prompt: str) -> Form:
    """Whether a prompt is a question or a sentence to go on with."""
    return "question" if prompt.rstrip().endswith("?") else "sentence"
