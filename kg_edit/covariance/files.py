"""The files of measured covariances: safetensors with a manifest inside, and the manifest as JSON in a second file.

- `Identity`: the source of a covariance (model, module, corpus, tokens); its hash is the file's name.
- `Manifest`: the identity, the number of tokens, and the precision. `write_moment` and `read_moment` write and read C;
  its upper block triangle is stored in float32.
- `Position`: the progress of an unfinished pass; it is stored in the file of its sums.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kg_edit.covariance.moment import ConvergenceCheck, flat_size, moment_problem, square
from kg_edit.errors import CovarianceError, OutputError, faults_of
from kg_edit.storage.atomic import write_json, write_safetensors

FORMAT: Final = "kg-edit-covariance"
VERSION = 1  # of the files; a file of a later version is refused
LARGEST = 1_000_000  # upper bound for the number of inputs of a module in a valid file


class OtherFormatError(CovarianceError):
    """A covariance's file of another format, which no edit reads; ``form`` is the format."""

    def __init__(self, path: Path, form: str) -> None:
        self.form = form
        super().__init__(f"{path} has the format {form}, and this kg-edit reads {FORMAT}; delete the file")


class Identity(BaseModel):
    """The source of a covariance: the model's content and dtype, the module, the corpus, and the wanted tokens.

    A text is read in whole chunks, so the number of tokens that were read (``count`` of a `Manifest`) is ``tokens`` or
    somewhat larger.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["kg-edit-covariance"] = FORMAT
    version: int = VERSION
    model: str
    dtype: str = "float32"
    module: str
    corpus: str
    tokens: int

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the identity as JSON; it names the file."""
        fields = self.model_dump(include=set(Identity.model_fields))  # without the further fields of a `Manifest`
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


class Manifest(Identity):
    """The metadata of a covariance: its identity, the number of tokens that were read (``count``), and its precision.

    It is an `Identity` with further fields: it has the same ``id``, and names the same file (`moment_path`).
    ``doublings`` has the angles by which the solved direction turned each time the tokens doubled; the last one is for
    ``count`` tokens. ``source`` is the file of an imported covariance, with its SHA-256. ``code_sha256`` is that of the
    code which measured it.
    """

    count: int
    chunks: int
    model_name: str
    size: int
    doublings: tuple[ConvergenceCheck, ...] = ()
    source: str = ""
    code_sha256: str = ""

    @classmethod
    def parse(cls, text: str, path: Path) -> Self:
        """Parse the JSON of a manifest; ``path`` is its file, for the error message."""
        fields = _fields_of(text)  # before they are checked: another version may have fields that are unknown here
        form = str(fields.get("format", FORMAT))
        if form != FORMAT and form.startswith(FORMAT):  # kg-edit wrote it, as kg-edit-covariance/2
            raise OtherFormatError(path, form)
        # Any other name of a format is a fault below: kg-edit did not write the file.
        version = fields.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise CovarianceError(
                f"{path} has version {version} of the format; this kg-edit reads version {VERSION}: update it"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise damaged(path, _describe_faults(error, cls)) from error


def _fields_of(text: str) -> dict[str, Any]:
    """Return the fields of a JSON object; {} for another text."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    return fields


def _describe_faults(error: ValidationError, kind: type[BaseModel]) -> str:
    """Return what is wrong with the fields of a ``kind``, in one line."""
    return "; ".join(str(fault) for fault in faults_of(error, kind))


def moment_path(folder: Path, identity: Identity) -> Path:
    """Return the path of the covariance of ``identity`` in ``folder``."""
    return folder / f"{identity.id}.safetensors"


def write_moment(folder: Path, flat: Tensor, manifest: Manifest) -> Path:
    """Write C and its manifest.

    Args:
        folder: the store.
        flat: the upper block triangle of `kg_edit.covariance.moment.SecondMoment`; it is stored in float32.
        manifest: what is known of C; the identity in it names the file.
    """
    check_finite(flat, manifest)
    path = moment_path(folder, manifest)
    # The JSON file is for people: kg-edit reads the manifest inside the tensors' file. It is written first, because C
    # counts as measured as soon as the tensors' file exists.
    write_json(path.with_suffix(".json"), manifest.model_dump(mode="json"))
    write_tensors(path, {"upper": flat.float().cpu()}, manifest)
    return path


def check_finite(values: Tensor, identity: Identity) -> None:
    """Check that the sums of keys are finite."""
    if not torch.isfinite(values).all():
        raise CovarianceError(
            f"the inputs of {identity.module} are not finite in this model's dtype; load it in bfloat16 or float32"
        )


def read_moment(path: Path, identity: Identity, *, size: int | None = None) -> tuple[Tensor, Manifest]:
    """Read C [size, size] in float32, and its manifest.

    Args:
        path: the file.
        identity: the source that the file must have.
        size: the module's number of inputs, if it is known.
    """
    stored, manifest = read_upper_triangle(path, identity, size=size)
    return square(stored, manifest.size), manifest


def read_upper_triangle(path: Path, identity: Identity, *, size: int | None = None) -> tuple[Tensor, Manifest]:
    """Read the upper block triangle (flat) in a covariance's file, and check that it is a second moment.

    Args:
        path: as for `read_moment`.
        identity: as for `read_moment`.
        size: as for `read_moment`.
    """
    manifest = read_manifest(path, identity)
    try:
        with safe_open(path, framework="pt") as file:
            _check_header(file, path, manifest)  # before the tensor is read: it may be gigabytes
            if size is not None and manifest.size != size:
                raise CovarianceError(
                    f"{path} has the size {manifest.size}, but {manifest.module} of this model has {size} inputs; "
                    "delete the file"
                )
            stored: Tensor = file.get_tensor("upper")
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error
    if not torch.isfinite(stored).all():
        raise CovarianceError(f"{path} contains values that are not finite; delete the file")
    problem = moment_problem(stored, manifest.size)
    if problem:
        raise damaged(path, problem)
    return stored, manifest


def _check_header(file: Any, path: Path, manifest: Manifest) -> None:
    """Check that an opened safetensors file has one tensor, with the shape and the type of a block triangle."""
    names = sorted(file.keys())
    if names != ["upper"]:
        found = ", ".join(names) or "no tensor"
        raise damaged(path, f"it contains {found}; expected the tensor upper")
    header = file.get_slice("upper")
    shape = tuple(header.get_shape())
    if manifest.size not in range(1, LARGEST) or shape != (flat_size(manifest.size),):
        raise damaged(path, f"its tensor has the shape {list(shape)}; expected a matrix of size {manifest.size}")
    dtype = str(header.get_dtype())
    if dtype != "F32":
        raise damaged(path, f"its numbers are of the type {dtype}; expected F32")


def read_manifest(path: Path, identity: Identity | None = None) -> Manifest:
    """Read the manifest inside a covariance's file, and check it.

    Refused are counts that can't be, a file whose name is not the manifest's id, and any identity but ``identity``.
    None accepts every identity.
    """
    manifest = Manifest.parse(read_metadata(path), path)
    expected: dict[str, Any] = {}
    if identity is not None:
        expected = identity.model_dump(include=set(Identity.model_fields))
    for name, value in expected.items():
        found = getattr(manifest, name)
        if found != value:
            raise CovarianceError(f"{path}: expected {name} = {value!r}, found {found!r}; delete the file")
    if manifest.chunks < 1:
        raise damaged(path, f"it is the mean of {manifest.chunks} chunks of text; expected 1 or more")
    if manifest.count < manifest.tokens:
        raise damaged(path, f"it is the mean of {manifest.count} tokens; expected {manifest.tokens} or more")
    if path != moment_path(path.parent, manifest):
        raise CovarianceError(f"{path} contains the covariance {manifest.id}; rename the file to this id, or delete it")
    return manifest


def read_metadata(path: Path) -> str:
    """Read the JSON text in the metadata of a file of tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return str(file.metadata()["manifest"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def write_tensors(path: Path, tensors: dict[str, Tensor], manifest: BaseModel) -> None:
    """Write tensors and their manifest in one file, atomically.

    Args:
        path: the file.
        tensors: by name.
        manifest: the metadata: a `Manifest` or a `Position`.
    """
    try:
        text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True)
        write_safetensors(path, tensors, {"manifest": text})
    except OutputError as error:
        error.add_note(
            "the environment variable KG_EDIT_CACHE names another folder for the files that later runs reuse"
        )
        raise


def damaged(path: Path, why: Any) -> CovarianceError:
    """Return the error for a file that can't be used; ``why`` is the reason."""
    return CovarianceError(f"{path} is damaged ({why}); delete the file, and it is measured again")


class Position(BaseModel):
    """How far an unfinished pass is: ``chunks`` chunks with ``count`` tokens are in the sums of every layer.

    ``count_at_mark`` is the ``count`` of the last mark, where the sums were copied for a later comparison; 0 before the
    first mark. ``identities``, ``sizes`` (d_ff) and ``doublings`` (the comparisons so far) are by layer.
    """

    # "ignore": earlier versions of kg-edit also stored ``seen``, which was always equal to ``count``.
    model_config = ConfigDict(frozen=True, extra="ignore")

    identities: dict[int, Identity] = Field(min_length=1)
    sizes: dict[int, int]
    model_name: str
    ridge: float
    chunks: int = 0
    count: int = 0
    count_at_mark: int = 0
    doublings: dict[int, tuple[ConvergenceCheck, ...]] = {}

    @property
    def tokens_wanted(self) -> int:
        """The number of tokens at which the pass ends."""
        first, *_ = self.identities.values()  # all have the same number
        return first.tokens

    def path(self, folder: Path) -> Path:
        """Return the path of the sums in ``folder``: one file for all layers, so that all are at the same chunk."""
        ids = "".join(sorted(identity.id for identity in self.identities.values()))
        name = hashlib.sha256(ids.encode()).hexdigest()[:16]
        return folder / f"{name}.partial.safetensors"


def read_position(path: Path) -> Position:
    """Read the progress of the sums in a file."""
    text = read_metadata(path)
    try:
        return Position.model_validate_json(text)
    except ValidationError as error:
        raise damaged(path, _describe_faults(error, Position)) from error
