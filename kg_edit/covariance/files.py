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

from kg_edit.covariance.moment import ConvergenceCheck, flat_size, square
from kg_edit.errors import CovarianceError, OutputError
from kg_edit.storage.atomic import write_json, write_safetensors


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


def read_moment(path: Path, identity: Identity) -> tuple[Tensor, Manifest]:
    """C [size, size] in float32, and its manifest.

    Raises:
        CovarianceError: the file is damaged, or was measured from something else.
    """
    manifest = read_manifest(path, identity)
    try:
        with safe_open(path, framework="pt") as file:
            whole = "moment" in file.keys()  # noqa: SIM118 - not a mapping; the full matrix, as older files hold it
            stored = file.get_tensor("moment" if whole else "upper")
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error
    if not whole and stored.shape != (flat_size(manifest.size),):
        raise damaged(path, f"{len(stored)} numbers are no triangle of size {manifest.size}")
    if not torch.isfinite(stored).all():
        raise CovarianceError(f"{path} holds values that are not finite; delete the file")
    return stored if whole else square(stored, manifest.size), manifest


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
