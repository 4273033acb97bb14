"""Errors that a user can put right, and the pieces of their messages.

A message says what was found, what was expected and, if that is not plain, what to do. `KgEditError` is the base of
all; `unknown_name`, `did_you_mean`, `describe` and `first_faults` word messages, `faults_of` those of pydantic.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from kg_common.errors import EntityLookupError, expected_of

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Location = tuple[int | str, ...]  # of a value in a record: names of fields, and positions in lists

_LISTED = 5  # faults of a file that an error lists; more would hide the first ones
# A step of pydantic's locations that names a type which was tried: "bool", "literal['both']", "list[str]"
_TRIED = re.compile(r"(constrained-|function-\w+\[|(tuple|list|nullable|literal)\[|(str|int|float|bool)$)")
_EXPECTED = {  # by pydantic's name of the fault; the others are in kg_common.errors
    "string_pattern_mismatch": "a Wikidata id such as Q36159 for an entity (own graph: node:KEY), P54 for a relation",
    "string_type": "text",
    "tuple_type": "a list [...]",
    "model_type": "an object {...}",
}


class KgEditError(Exception):
    """Base of all errors raised on purpose: the CLI prints it and exits with 2."""


FAILURES = (KgEditError, EntityLookupError)
"""What makes one edit fail, where other edits may still be made."""


class ConfigError(KgEditError):
    """An option or a configuration file has a value that cannot work."""


class Fault(NamedTuple):
    """What is wrong with one field of a record, or with all of it where `field` is empty."""

    field: str
    message: str

    def __str__(self) -> str:
        if not self.field:
            return self.message
        return f"field {self.field}: {self.message}"


class EditError(KgEditError):
    """A fact that cannot be an edit; `faults` has the reasons, field by field."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


class EditFileError(KgEditError):
    """A file of edits or of relation templates cannot be read; names the file and the row."""


class ModelError(KgEditError):
    """A language model cannot be loaded or run: a wrong name, a damaged file, too little memory."""


class UnsupportedModelError(ModelError):
    """A language model has no entry in the table of architectures, so it cannot be edited."""


class ChatTemplateError(ModelError):
    """A model is to be asked in chat form, and its tokenizer has no chat template, or one that can't be used."""


class PromptError(KgEditError):
    """A prompt and its subject cannot be turned into tokens and spans."""


class GraphError(KgEditError):
    """A knowledge graph lacks what an edit needs: an entity, a label, or the shape of an edit's subgraph."""


class MissingObjectError(GraphError):
    """A knowledge graph does not contain the new object o* of an edit."""


class PatchError(KgEditError):
    """A patch file is damaged, or a patch is used in a way that would not be reversible."""


class PatchMismatchError(PatchError):
    """A patch was computed for another model than the one it is applied to."""


class DisablingEditError(PatchError):
    """An edit would probably break the model (`kg_edit.patches.guards`); `reasons` says why."""

    def __init__(self, message: str, reasons: Iterable[str]) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class RefusedEditsError(PatchError):
    """The values of some edits of a batch must not be written; `reasons` says why, by the edit's id.

    ``method`` is a copy of the method that raised this error, which knows the values that were found for the other
    edits. A caller that leaves the refused edits out makes the others with it, without a second descent. None: the
    values were not kept.
    """

    def __init__(self, reasons: Mapping[str, PatchError], *, method: Any = None) -> None:
        messages = [str(reason) for reason in reasons.values()]
        message = messages[0]
        if len(messages) > 1:
            ids = ", ".join(repr(id_) for id_ in reasons)
            message = f"{len(reasons)} edits of the batch fail: {ids}; the first: {message}"
        super().__init__(message)
        self.reasons = dict(reasons)
        self.method = method


class LedgerChangedError(PatchError):
    """An edit was computed after the edits of a ledger, and the ledger has other edits now."""


class DamagedLedgerError(PatchError):
    """A file of a ledger is missing, was changed, or can't be read, as by an older kg-edit; a server answers 500."""


class CovarianceError(KgEditError):
    """A second moment that can't be computed, read or solved with."""


class ServerError(KgEditError):
    """A server of a language model, or a hub, can't be reached, refuses, or replies in another form.

    ``status`` is the HTTP status of a refusal, else None.
    """

    status: int | None = None


class OutputError(KgEditError):
    """A result cannot be written where it was asked for."""


class AnotherRunError(OutputError):
    """An output folder has a run with other settings: ``found`` says which, ``way`` what to do."""

    def __init__(self, found: str, way: str) -> None:
        super().__init__(f"{found}; {way}")
        self.found = found


class UnknownNameError(KgEditError):
    """A name is in none of the tables: methods, models, datasets, metrics."""


def first_faults(faults: Sequence[object], *, records: int | None = None) -> str:
    """Return the first five faults, a line each, and the number of the others.

    ``records`` is the number of records that have faults; the last line gives it.
    """
    lines = [str(fault) for fault in faults[:_LISTED]]
    rest = len(faults) - _LISTED
    if rest > 0 and records:
        noun = "fault" if rest == 1 else "faults"
        having = "1 record has" if records == 1 else f"{records:,} records have"
        lines.append(f"and {rest:,} more {noun}; {having} faults")
    elif rest > 0:
        lines.append(f"and {rest:,} more")
    return "\n".join(lines)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for an unknown `name`, to be raised: it suggests the nearest and lists all known."""
    names = sorted(known)
    if not names:
        return UnknownNameError(f"unknown {kind} {name!r}: there is no {kind}")
    return UnknownNameError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")


def unmade_method(method: str | type) -> ConfigError:
    """Return the error for the name or the class of a method where one is expected that was made for a model."""
    found = f"the text {method!r}" if isinstance(method, str) else f"the class {method.__name__}"
    return ConfigError(
        f"found {found}; expected a method made for a model: Rome.on(model), find_method('memit').on(model)"
    )


# Parts of the messages of out-of-memory errors, on the CPU and on accelerators
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "cusolverdncreate",  # cuSOLVER has memory of its own, beside torch's
    "cusolver_status_alloc_failed",
)


def is_memory_error(error: Exception) -> bool:
    """Return whether memory ran out: a MemoryError, or torch's error, which is a RuntimeError on the CPU."""
    if isinstance(error, RuntimeError):
        message = str(error).casefold()
        return any(words in message for words in _NO_MEMORY)
    return isinstance(error, MemoryError)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known name nearest to `name`, or nothing if none is near."""
    near = difflib.get_close_matches(name.casefold(), list(known), n=1)
    if not near:
        return ""
    return f", did you mean {near[0]!r}?"


class _Report(NamedTuple):
    """What pydantic found at one location of a record.

    Attributes:
        kind: pydantic's name for it, such as string_type, or that of a validator of ours, such as blank.
        location: the names of fields and the numbers of items that lead there.
        is_tried: the field takes several types, and this is what is wrong if the value should be one of them.
        entry: all that pydantic says of it.
    """

    kind: str
    location: Location
    is_tried: bool
    entry: Mapping[str, Any]


def faults_of(error: ValidationError, model: type[BaseModel]) -> tuple[Fault, ...]:
    """Return the faults that pydantic found in a record of `model`, in plain words.

    Where a field takes several types, pydantic tries each and reports all of them. One fault is made of these reports,
    and its field does not name the type that was tried. For the field ``chat``, which takes true, false or "both", and
    the value 7 there are the reports

        bool_type at ("chat", "bool")        literal_error at ("chat", "literal['both']")

    and the fault is: field chat: found the number 7; expected true or false, or 'both'. `_is_redundant` lists the
    reports that are left out.
    """
    reports = list[_Report]()
    for entry in error.errors():
        location = _without_types(entry["loc"], model)
        reports.append(_Report(entry["type"], location, location != entry["loc"], entry))
    kept = list[_Report]()
    for report in reports:
        if not _is_redundant(report, reports, kept):
            kept.append(report)

    faults = list[Fault]()
    for report in kept:
        # A validator of ours that checks a whole record names the field itself (bare_id of `kg_edit.edits.edit`).
        field = report.entry.get("ctx", {}).get("field") or _write_path(report.location)
        has_fault = bool(faults) and faults[-1].field == field
        if has_fault and report.kind == "literal_error":  # one more value that would be right there
            faults[-1] = Fault(field, f"{faults[-1].message}, or {expected_of(report.entry)}")
        else:
            faults.append(Fault(field, _message_of(report.entry, report.location, model, faults)))
    return tuple(faults)


def _is_redundant(report: _Report, reports: Sequence[_Report], kept: Sequence[_Report]) -> bool:
    """Return whether another one of ``reports`` says it better; ``kept`` are the earlier ones that are kept.

    There are three such cases.
    """
    # 1. Another report is about a part of the same value, and so is more precise.
    #      prompt takes a text or a list of texts, and is [3]:
    #        "string_type at prompt" is left out because of "string_type at prompt[0]"
    #      answers takes a list of texts, and is [3]:
    #        "too_short at answers" is left out because of "string_type at answers[0]"
    is_about_part = any(_is_inside(other.location, report.location) for other in reports)
    if is_about_part and (report.is_tried or report.kind == "too_short"):
        return True

    # 2. The value is a list, as it should be, but of a wrong length. That it is not a text does not matter then.
    #      answers takes a text or a list of texts, and is []:
    #        "string_type at answers" is left out because of "too_short at answers"
    at_same_place = [other.kind for other in reports if other.location == report.location]
    if report.kind == "string_type" and ("too_short" in at_same_place or "too_long" in at_same_place):
        return True

    # 3. The field already has a fault, by the first type that was tried or the first item of a list.
    #      id takes a number or a text, and is [3]:
    #        "string_type at id" is left out because of "int_type at id"
    #      prompt takes a text or a list of texts, and is [1, 2]:
    #        "string_type at prompt[1]" is left out because of "string_type at prompt[0]"
    #    A literal_error is kept, because `faults_of` adds its word to the message of the first fault.
    if report.is_tried and report.kind != "literal_error":
        return any(_field_of(other.location) == _field_of(report.location) for other in kept)
    return False


def _field_of(location: Location) -> Location:
    """Return the part of a location before the first item of a list: ("prompt",) of ("prompt", 0)."""
    return tuple(takewhile(lambda step: isinstance(step, str), location))


def _without_types(location: Location, model: type[BaseModel]) -> Location:
    """Return a location in a record of `model` without the steps that name a type which was tried.

    A field may have the name of a type, as CounterFact's ``target_new.str`` has.
    """
    path: Location = ()
    for step in location:
        if isinstance(step, int) or not _TRIED.match(step) or step in _field_names(_model_at(path, model)):
            path = (*path, step)
    return path


def _field_names(model: type[BaseModel]) -> set[str]:
    """Return the names of a model's fields as a record writes them."""
    return {field.alias or name for name, field in model.model_fields.items()}


def _write_path(location: Location) -> str:
    """Return a location as jq and Python write it: portability[0].answer."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")


def _is_inside(location: Location, outer: Location) -> bool:
    """Return whether a location is one of an item or a field of the value at ``outer``."""
    return len(location) > len(outer) and location[: len(outer)] == outer


def _message_of(entry: Mapping[str, Any], location: Location, model: type[BaseModel], earlier: Sequence[Fault]) -> str:
    """Return in words what pydantic's ``entry`` found at a location of a record; ``earlier`` are the faults before."""
    fields = _model_at(location[:-1], model).model_fields
    field = fields.get(str(location[-1])) if location else None
    expected = ""
    if field and field.description:
        expected = f"; expected {field.description}"
    match entry["type"]:
        case "missing":
            return f"is missing{expected}"
        case "blank":
            return f"is empty{expected}"
        case "extra_forbidden":
            names = [known_field.alias or name for name, known_field in fields.items()]
            near = did_you_mean(str(location[-1]), names)
            if near:
                return f"unknown field{near}"
            listing = f"; known: {', '.join(names)}"
            if any(listing in other.message for other in earlier):
                return "unknown field"  # the known names are listed once
            return f"unknown field{listing}"
        case "value_error":
            return str(entry["ctx"]["error"])
        case "bare_id":
            return str(entry["msg"])
        case kind:
            return f"found {describe(entry['input'])}; expected {_EXPECTED.get(kind) or expected_of(entry)}"


def _model_at(location: Location, model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of the record at a location inside a record of `model`."""
    from pydantic import BaseModel

    for step in location:
        field = model.model_fields.get(step) if isinstance(step, str) else None
        if field is None:  # the number of an item, or a name that is no field: the record stays the same
            continue
        # The annotation is a model, or has one inside, as tuple[Question, ...] has.
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                model = kind
                break
    return model


def describe(value: object) -> str:
    """Return a value in words, for an error message: those of JSON, and others by their type."""
    match value:
        case str():
            return f"the text {value[:60]!r}" if value else "an empty text"
        case None:
            return "None (null)"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object {...}"
        case _:
            return f"a value of the type {type(value).__name__}"
