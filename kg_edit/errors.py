"""Errors that a user can put right. Each message says what was found, what was expected and the way out."""

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class KgEditError(Exception):
    """Base of all errors raised on purpose: the CLI prints it and exits with 2."""


class ConfigError(KgEditError):
    """An option or a configuration file holds a value that cannot work."""


class Fault(NamedTuple):
    """What is wrong with one field of an edit."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"field {self.field}: {self.message}"


class EditError(KgEditError):
    """A fact that cannot be an edit; `faults` says why, field by field."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


class EditFileError(KgEditError):
    """A file of edits or of relation templates cannot be read; names the file and the row."""


class ModelError(KgEditError):
    """A language model cannot be loaded or run."""


class UnsupportedModelError(ModelError):
    """A language model has no entry in the table of architectures, so it cannot be edited."""


class PromptError(KgEditError):
    """A prompt and its subject cannot be turned into tokens and spans."""


class GraphError(KgEditError):
    """A knowledge graph lacks what an edit needs."""


class PatchError(KgEditError):
    """A patch file is damaged, or a patch is used in a way that would not be reversible."""


class PatchMismatchError(PatchError):
    """A patch was computed for another model than the one it is applied to."""


class CovarianceError(KgEditError):
    """A second moment that can't be computed, read or solved with."""


class OutputError(KgEditError):
    """A result cannot be written where it was asked for."""


class UnknownNameError(KgEditError):
    """A name stands in none of the tables: methods, models, datasets, metrics."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for an unknown `name`, to be raised: it suggests the nearest and lists all known."""
    names = sorted(known)
    return UnknownNameError(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known name nearest to `name`, or nothing if none is near."""
    near = difflib.get_close_matches(name.casefold(), list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
