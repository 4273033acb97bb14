"""The files of measured covariances: safetensors with a manifest inside, and the same manifest as JSON beside it.

- `Identity`: what a covariance is measured from (model, module, corpus, tokens); its hash names the file.
- `Manifest`: the identity, and of how many tokens it is the mean. `write_moment`, `read_moment` write and read C, whose
  upper block triangle is stored in float32 (older files hold all of it).
- `Position`: how far an unfinished pass or shard is; it stands in the file of its sums.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kg_edit.covariance.moment import ConvergenceCheck, flat_size, moment_problem, square
from kg_edit.errors import CovarianceError, OutputError
from kg_edit.storage.atomic import write_json, write_safetensors

_KINDS = ("F32", "F64", "F16", "BF16")
LARGEST = 1_000_000  # inputs of a module


class Identity(BaseModel):
    """What a covariance is measured from: the model's content and type, a module, a text, at least so many tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "kg-edit-covariance/2"
    model: str
    dtype: str = "float32"
    module: str
    corpus: str
    tokens: int

    @property
    def id(self) -> str:
        """The first 16 hex digits of the SHA-256 of the identity as JSON; it names the file."""
        fields = self.model_dump(include=set(Identity.model_fields))
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def identity(self) -> Identity:
        """The identity without the fields that a manifest adds to it."""
        return Identity(**self.model_dump(include=set(Identity.model_fields)))


class Manifest(Identity):
    """What is written with a covariance: of how many tokens it is the mean, and how good it is.

    ``doublings`` says how far the solved direction turned as the tokens doubled, the last one up to ``count``.
    """

    count: int
    chunks: int
    model_name: str = ""
    size: int = 0
    doublings: tuple[ConvergenceCheck, ...] = ()

    @classmethod
    def parse(cls, text: str, path: Path) -> Self:
        """Read JSON.

        Raises:
            CovarianceError: it is no manifest.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise damaged(path, error) from error


def moment_path(folder: Path, identity: Identity) -> Path:
    """Where the covariance of ``identity`` lies in ``folder``."""
    return folder / f"{identity.id}.safetensors"


def write_moment(folder: Path, flat: Tensor, manifest: Manifest) -> Path:
    """Write C, as the upper block triangle ``flat`` of `kg_edit.covariance.moment.SecondMoment`, in float32.

    Raises:
        CovarianceError: C is not finite.
        OutputError: the folder can't be written.
    """
    check_finite(flat, manifest)
    path = moment_path(folder, manifest)
    write_tensors(path, {"upper": flat.float().cpu()}, manifest)
    write_json(path.with_suffix(".json"), manifest.model_dump(mode="json"))
    return path


def check_finite(values: Tensor, identity: Identity) -> None:
    """Check that keys have been added up to numbers.

    Raises:
        CovarianceError: one is NaN or infinite.
    """
    if not torch.isfinite(values).all():
        raise CovarianceError(
            f"the inputs of {identity.module} are not finite in this model's dtype; load it in bfloat16 or float32"
        )


def read_moment(path: Path, identity: Identity, *, size: int | None = None) -> tuple[Tensor, Manifest]:
    """C [size, size] in float32, and its manifest. ``size`` is that of the model's module, where it is known.

    Raises:
        CovarianceError: the file is damaged, was measured from something else, or is of another size; the size is
            looked at before anything is read.
    """
    stored, manifest = check_moment(path, identity, size=size)
    return stored if stored.dim() == 2 else square(stored, manifest.size), manifest


def check_moment(path: Path, identity: Identity, *, size: int | None = None) -> tuple[Tensor, Manifest]:
    """What a covariance's file holds, the flat triangle or the whole matrix, which can be a second moment.

    Raises:
        CovarianceError: as `read_moment`.
    """
    manifest = read_manifest(path, identity)
    try:
        with safe_open(path, framework="pt") as file:
            name = _check_header(path, {name: file.get_slice(name) for name in file.keys()}, manifest, size)  # noqa: SIM118
            stored: Tensor = file.get_tensor(name).float()
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error
    if not torch.isfinite(stored).all():
        raise CovarianceError(f"{path} holds values that are not finite; delete the file")
    if problem := moment_problem(stored, manifest.size or len(stored)):
        raise damaged(path, problem)
    return stored, manifest


def _check_header(path: Path, tensors: dict[str, Any], manifest: Manifest, size: int | None) -> str:
    """The name of the only tensor, whose type and shape are as they should be. Nothing of it has been read yet."""
    name = next(iter(tensors), "")
    if len(tensors) != 1 or name not in ("upper", "moment"):
        raise damaged(path, f"it holds {', '.join(sorted(tensors)) or 'no tensor'}; expected one of upper and moment")
    held = tensors[name]
    shape, kind = tuple(held.get_shape()), str(held.get_dtype())
    found = manifest.size or shape[0]  # the oldest manifests lack it
    if found not in range(1, LARGEST) or shape != ((flat_size(found),) if name == "upper" else (found, found)):
        raise damaged(path, f"the shape {list(shape)} is no matrix of size {manifest.size}")
    if kind not in _KINDS:
        raise damaged(path, f"its numbers are of the type {kind}; expected {', '.join(_KINDS)}")
    if size is not None and found != size:
        raise CovarianceError(
            f"{path} is of size {found}, and {manifest.module} of this model has {size} inputs; delete the file"
        )
    return name


def read_manifest(path: Path, identity: Identity | None = None) -> Manifest:
    """The manifest inside a covariance's file.

    Raises:
        CovarianceError: the file is damaged, is not named by its content, or was measured from something else.
    """
    manifest = Manifest.parse(read_metadata(path), path)
    expected = identity.model_dump(include=set(Identity.model_fields)) if identity else {}
    for name, value in expected.items():
        found = getattr(manifest, name)
        if found != value:
            raise CovarianceError(f"{path}: expected {name} = {value!r}, found {found!r}; delete the file")
    if manifest.count < manifest.tokens or manifest.chunks < 1:
        raise damaged(path, f"it is the mean of {manifest.count} tokens; expected {manifest.tokens} or more")
    if path != moment_path(path.parent, manifest):
        raise CovarianceError(f"{path} is the covariance {manifest.id}; give the file that name, or delete it")
    return manifest


def read_metadata(path: Path) -> str:
    """The JSON text that a file of tensors carries.

    Raises:
        CovarianceError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return str(file.metadata()["manifest"])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def write_tensors(path: Path, tensors: dict[str, Tensor], manifest: BaseModel) -> None:
    """Write tensors and their manifest in one file, atomically.

    Raises:
        OutputError: the file can't be written.
    """
    try:
        write_safetensors(path, tensors, {"manifest": json.dumps(manifest.model_dump(mode="json"), sort_keys=True)})
    except OutputError as error:
        error.add_note("the environment variable KG_EDIT_CACHE names another folder for what is kept between runs")
        raise


def damaged(path: Path, why: Any) -> CovarianceError:
    """The error for a file that can't be used, and ``why``; to be raised."""
    return CovarianceError(f"{path} is damaged ({why}); delete the file, and it is measured again")


class Position(BaseModel):
    """How far a run is: ``chunks`` chunks of the text with ``seen`` tokens have gone by, ``count`` tokens were added.

    A shard adds every ``parts``-th chunk from number ``part`` on; the whole run is shard 0 of 1. ``half_count`` tokens
    were in the sums when they were last copied, to be compared with later ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identities: dict[int, Identity]
    sizes: dict[int, int]
    model_name: str
    ridge: float
    part: int = 0
    parts: int = 1
    chunks: int = 0
    seen: int = 0
    count: int = 0
    half_count: int = 0
    doublings: dict[int, tuple[ConvergenceCheck, ...]] = {}
    finished: bool = False

    @property
    def mine(self) -> bool:
        """Whether the next chunk of the text is one that this shard adds up."""
        return self.chunks % self.parts == self.part

    @property
    def wanted(self) -> int:
        """How many tokens are asked for, in all shards together."""
        return next(iter(self.identities.values())).tokens

    def path(self, folder: Path) -> Path:
        """Where the sums are kept: one file for the layers together, so that all stand at the same chunk."""
        ids = "".join(sorted(identity.id for identity in self.identities.values()))
        name = hashlib.sha256(ids.encode()).hexdigest()[:16]
        kind = "partial" if self.parts == 1 else f"shard-{self.part}-of-{self.parts}"
        return folder / f"{name}.{kind}.safetensors"


def read_position(path: Path) -> Position:
    """How far the sums in a file are.

    Raises:
        CovarianceError: the file is damaged, or holds no sums.
    """
    try:
        return Position.model_validate_json(read_metadata(path))
    except ValidationError as error:
        raise damaged(path, error) from error
