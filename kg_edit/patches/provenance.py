"""The schema of a patch's provenance, which is checked when a file is read.

Only fields that the program uses are listed, with the types that it expects. Any other field is allowed.
"""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from kg_edit.errors import PatchError

ORIGIN = "kg_edit.json"  # a patch's provenance in the folder of its export

_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Open(BaseModel):
    """Base of the parts of a provenance: fields are checked strictly, and other fields are allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Model(_Open):
    """The model that a patch was made for."""

    name: str | None = None  # its folder, or its name on the Hugging Face hub
    fingerprint: str | None = None  # identifies its weights; it stays the same when they are cast to another type
    dtype: str | None = None  # the type of its weights, such as "torch.float32"


class _Method(_Open):
    """A method that made edits of the patch."""

    name: str  # as on the command line, such as "rome"
    config: dict[str, Any] = {}  # its options


class _Edit(_Open):
    """The edit of a record; its other fields are those of `kg_edit.edits.edit.Edit`."""

    id: str


class _Norms(_Open):
    """Sizes of an edit, for the warnings about unusual ones and for reports."""

    change: _Number | None = None  # |m* - m|: of the state found by descent, less the unedited one
    update: _Number | None = None  # |W' - W|: of the change of the weights


class _Request(_Open):
    """A further fact that was edited in together with an edit, as by ROME-KG."""

    edit: dict[str, Any] = {}  # fields of `kg_edit.edits.edit.Edit`


class _Record(_Open):
    """What is recorded of one edit."""

    edit: _Edit = _Edit(id="")
    method: str = ""  # the name of the method that made it
    scale: _Number = 1.0  # the factor by which the edit's change was multiplied afterwards
    batch: PositiveInt = 1  # how many edits were computed together with it, itself included
    norms: _Norms = _Norms()
    requests: list[_Request] = []


class _Provenance(_Open):
    """The whole provenance of a patch."""

    model: _Model = _Model()
    methods: list[_Method] = []  # each combination of a method and its options once
    edits: list[_Record] = []  # in the order in which the edits were made
    weight_norms: dict[str, _Number] = {}  # the norm of each changed weight before the change, by the weight's name


def check_provenance(provenance: Any, path: object) -> dict[str, Any]:
    """Check the provenance of the patch at ``path``, and return it unchanged."""
    if not isinstance(provenance, dict):
        raise PatchError(f"the patch {path} has no valid provenance; make the patch again")
    try:
        _Provenance.model_validate(provenance)
    except (ValidationError, RecursionError) as error:
        fault = "it is nested too deeply"
        if isinstance(error, ValidationError):
            fault = _describe_first(error)
        raise PatchError(f"the provenance of the patch {path} is wrong: {fault}; make it again") from error
    return provenance


def _describe_first(error: ValidationError) -> str:
    """Return in words the first fault that pydantic found."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    message = first["msg"]
    return f"{place} is {first['input']!r:.80}, {message[0].lower()}{message[1:]}"


def read_merged_provenance(model: str | Path) -> dict[str, Any]:
    """Read the provenance of the patch in a merged model's weights; return {} if the model has none.

    ``model`` is a folder that `kg-edit patch merge` wrote, or a .gguf file in it.
    """
    path = Path(model)
    folder = path.parent if path.suffix == ".gguf" else path
    file = folder / ORIGIN
    try:
        provenance = json.loads(file.read_bytes())
    except OSError:
        return {}
    except (ValueError, RecursionError) as error:
        raise PatchError(f"the patch {file} has no valid provenance; make the patch again") from error
    return check_provenance(provenance, file)


def about_merged(folder: str | Path) -> str:
    """Return what to say about the folder of a merged model: which commands ask it."""
    quoted = quote(str(folder))
    return (
        f"{folder} is a model with a patch in its weights ({ORIGIN}); only kg-edit patch check LEDGER --merged "
        f"{quoted}, kg-edit diff --model {quoted} and kg-edit generate --model {quoted} ask such a model"
    )
