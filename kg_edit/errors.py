"""Errors that a user can put right, and the pieces of their messages.

A message says what was found, what was expected and, if that is not plain, what to do. `KgEditError` is the base of
all; `unknown_name`, `did_you_mean`, `describe` and `first_faults` word messages, `faults_of` those of pydantic.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, get_args

from kg_common.errors import EntityLookupError, expected_of

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_LISTED = 5  # faults of a file that an error lists; more would hide the first ones


class KgEditError(Exception):
    """Base of all errors raised on purpose: the CLI prints it and exits with 2."""


FAILURES = (KgEditError, EntityLookupError)
"""What makes one edit fail and says nothing about other edits."""


class ConfigError(KgEditError):
    """An option or a configuration file has a value that cannot work."""


class Fault(NamedTuple):
    """What is wrong with one field of a record, or with all of it where `field` is empty."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"field {self.field}: {self.message}" if self.field else self.message


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
    """The values of some edits of a batch must not be written; `reasons` says why, by the edit's id."""

    def __init__(self, reasons: Mapping[str, PatchError]) -> None:
        message, *others = map(str, reasons.values())
        if others:
            message = f"{len(reasons)} edits of the batch fail: {', '.join(map(repr, reasons))}; the first: {message}"
        super().__init__(message)
        self.reasons = dict(reasons)


class LedgerChangedError(PatchError):
    """An edit was computed after the edits of a ledger, and the ledger has other edits now."""


class DamagedLedgerError(PatchError):
    """A file of a ledger is missing, was changed, or can't be read, as by an older kg-edit; a server answers 500."""


class CovarianceError(KgEditError):
    """A second moment that can't be computed, read or solved with."""


class ServerError(KgEditError):
    """A server of a language model, or a hub, can't be reached, refuses, or replies in another form."""


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
    """Return the first five faults, a line each, and the number of the others; ``records``: so many have faults."""
    rest = len(faults) - _LISTED
    of = f" fault{'s' * (rest > 1)}; {records:,} record{'s have' if records > 1 else ' has'} faults" if records else ""
    more = [f"and {rest:,} more{of}"] if rest > 0 else []
    return "\n".join([*map(str, faults[:_LISTED]), *more])


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for an unknown `name`, to be raised: it suggests the nearest and lists all known."""
    names = sorted(known)
    if not names:
        return UnknownNameError(f"unknown {kind} {name!r}: there is no {kind}")
    return UnknownNameError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")


def unmade_method(given: str | type) -> ConfigError:
    """Return the error for the name or the class of a method where one is expected that was made for a model."""
    found = f"the text {given!r}" if isinstance(given, str) else f"the class {given.__name__}"
    return ConfigError(
        f"found {found}; expected a method made for a model: Rome.on(model), find_method('memit').on(model)"
    )


# Parts of the messages of out-of-memory errors, on the CPU and on accelerators
_NO_MEMORY = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate"),
    *("cusolverdncreate", "cusolver_status_alloc_failed"),  # cuSOLVER's own memory, beside torch's
)


def is_memory_error(error: Exception) -> bool:
    """Return whether memory ran out: a MemoryError, or torch's error, which is a RuntimeError on the CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).casefold() for words in _NO_MEMORY)
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known name nearest to `name`, or nothing if none is near."""
    near = difflib.get_close_matches(name.casefold(), list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def faults_of(error: ValidationError, model: type[BaseModel]) -> tuple[Fault, ...]:
    """Return the faults that pydantic found in a record of `model`, in plain words."""
    faults = list[Fault]()
    errors = error.errors()
    # The locations in the record, without the type that pydantic tried there
    locs = [tuple(key for key in entry["loc"] if isinstance(key, int) or not _TRIED.match(key)) for entry in errors]
    sizes = [loc for loc, entry in zip(locs, errors, strict=True) if entry["type"] in ("too_short", "too_long")]
    for loc, entry in zip(locs, errors, strict=True):
        # Where a field takes several types, the first one that was tried counts: a text, of texts or lists of them
        if loc != entry["loc"] and any(len(other) > len(loc) and other[: len(loc)] == loc for other in locs):
            continue  # unless the value is a list, and the fault is in it
        if entry["type"] == "string_type" and loc in sizes:
            continue  # or its length
        context = entry.get("ctx", {})
        fields = _model_at(loc[:-1], model).model_fields
        field = fields.get(str(loc[-1])) if loc else None
        expected = f"; expected {field.description}" if field and field.description else ""
        match entry["type"]:
            case "missing":
                message = f"is missing{expected}"
            case "blank":
                message = f"is empty{expected}"
            case "extra_forbidden":
                names = [field.alias or name for name, field in fields.items()]
                near = did_you_mean(str(loc[-1]), names)
                known_names = f"; known: {', '.join(names)}"
                listed = any(known_names in other.message for other in faults)  # once for all fields of a record
                message = f"unknown field{near or ('' if listed else known_names)}"
            case "value_error":
                message = str(context["error"])
            case "bare_id":
                message = entry["msg"]
            case kind:
                message = f"found {describe(entry['input'])}; expected {_EXPECTED.get(kind) or expected_of(entry)}"
        # The location inside the record, as jq and Python write it: portability[0].answer.
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc).removeprefix(".")
        fault = Fault(context.get("field") or path, message)
        if entry["type"] == "literal_error" and faults and faults[-1].field == fault.field:  # a word besides a type
            faults[-1] = Fault(fault.field, f"{faults[-1].message}, or {expected_of(entry)}")
            continue
        if entry["type"] == "too_short" and any(other.field.startswith(f"{path}[") for other in faults):
            continue  # the list lacks an item because that item is wrong
        if loc == entry["loc"] or all(other.field.partition("[")[0] != path.partition("[")[0] for other in faults):
            faults.append(fault)
    return tuple(faults)


_TRIED = re.compile(r"(constrained-|function-\w+\[|(tuple|list|nullable|literal)\[|(str|int|float|bool)$)")


_EXPECTED = {
    "string_pattern_mismatch": "a Wikidata id such as Q36159 for an entity (own graph: node:KEY), P54 for a relation",
    "string_type": "text",
    "tuple_type": "a list [...]",
    "model_type": "an object {...}",
}


def _model_at(loc: tuple[int | str, ...], model: type[BaseModel]) -> type[BaseModel]:
    """Return the model of the record at `loc` inside a record of `model`."""
    from pydantic import BaseModel

    for step in loc:
        if isinstance(step, str) and (field := model.model_fields.get(step)):
            inside = (field.annotation, *get_args(field.annotation))
            model = next((kind for kind in inside if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return model


def describe(value: object) -> str:
    """Return a value in words, for an error message: those of JSON, and others by their type."""
    match value:
        case str():
            return f"the text {value[:60]!r}" if value else "an empty text"
        case bool() | None:
            return {True: "true", False: "false", None: "None (null)"}[value]
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object {...}"
        case _:
            return f"a value of the type {type(value).__name__}"
