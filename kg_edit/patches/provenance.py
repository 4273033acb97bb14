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
    name: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None


class _Method(_Open):
    name: str
    config: dict[str, Any] = {}


class _Edit(_Open):
    id: str


class _Norms(_Open):
    change: _Number | None = None
    update: _Number | None = None


class _Request(_Open):
    edit: dict[str, Any] = {}


class _Record(_Open):
    edit: _Edit = _Edit(id="")
    method: str = ""
    scale: _Number = 1.0
    batch: PositiveInt = 1
    norms: _Norms = _Norms()
    requests: list[_Request] = []


class _Provenance(_Open):
    model: _Model = _Model()
    methods: list[_Method] = []
    edits: list[_Record] = []
    weight_norms: dict[str, _Number] = {}


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


def merged_provenance(model: str | Path) -> dict[str, Any]:
    """Return the provenance of the patch that a merged model has in its weights, a folder or a file of `patch merge`.

    It is {} for any other model.
    """
    path = Path(model)
    folder = path.parent if path.suffix == ".gguf" else path
    file = folder / ORIGIN
    try:
        provenance = json.loads(file.read_bytes())
    except OSError:
        return {}
    except (ValueError, RecursionError):
        provenance = None
    return check_provenance(provenance, file)


def about_merged(folder: str | Path) -> str:
    """Return what to say about the folder of a merged model: which commands ask it."""
    quoted = quote(str(folder))
    return (
        f"{folder} is a model with a patch in its weights ({ORIGIN}); only kg-edit patch check LEDGER --merged "
        f"{quoted}, kg-edit diff --model {quoted} and kg-edit generate --model {quoted} ask such a model"
    )
