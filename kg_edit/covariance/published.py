"""Import the covariances that others have published: ``.npz`` files as the programs of ROME and MEMIT write them.

Such a file has the sum of k k^T in ``mom2.mom2`` [d_ff, d_ff] and the number of tokens in ``mom2.count``. Its name
begins with the module's: ``transformer.h.17.mlp.c_proj_float32_mom2_100000.npz``. An edit uses an imported covariance
with the corpus ``imported:NAME``.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from kg_edit.covariance.corpora import IMPORTED
from kg_edit.covariance.files import Identity, Manifest, moment_path, read_manifest, write_moment
from kg_edit.covariance.moment import flat_of, moment_problem
from kg_edit.covariance.store import key_size, store_folder
from kg_edit.errors import CovarianceError
from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.hooks import refuse_patched
from kg_edit.models.language_model import LanguageModel

PUBLISHED = "published"
_SUM = "mom2.mom2"
_COUNT = "mom2.count"
_SYMMETRIC = 1e-3  # |C_ij - C_ji|, as a share of the largest entry


def import_covariance(
    path: Path, model: LanguageModel, *, layer: int | None = None, name: str = PUBLISHED, folder: Path | None = None
) -> Manifest:
    """Store the covariance of a published file for the edits of ``model``, under the corpus ``imported:NAME``.

    Args:
        path: the ``.npz`` file.
        model: the model on whose keys it was measured.
        layer: the layer, 0-based; None: the one whose module the file's name begins with.
        name: what edits call the corpus.
        folder: the store; None: the one in the user's cache folder.

    Returns:
        The manifest, which has the file's name and SHA-256 as ``source``.
    """
    refuse_patched(model)
    if layer is None:
        layer = _find_layer(path, model)
    folder = folder or store_folder()
    size = key_size(model, layer)
    source = f"{path.name} sha256={_digest(path)}"
    # As `store._identify` makes it for an edit with this corpus: `dtype` keeps its default, and `tokens` is 0.
    identity = Identity(
        model=content_fingerprint(model.model),
        module=model.weight_name(layer).removesuffix(".weight"),
        corpus=f"{IMPORTED}{name}",
        tokens=0,
    )
    stored = moment_path(folder, identity)
    if stored.is_file():
        manifest = read_manifest(stored, identity)
        if manifest.source != source:
            stored_name, _, _ = manifest.source.rpartition(" sha256=")
            raise CovarianceError(
                f"{path}: {stored_name} is stored as {identity.corpus} for {identity.module}; give "
                f"another --name, or delete {stored}"
            )
        return manifest
    flat, count = _read(path, size, module=identity.module)
    manifest = Manifest(**identity.model_dump(), count=count, chunks=1, model_name=model.name, size=size, source=source)
    write_moment(folder, flat, manifest)
    return manifest


def _find_layer(path: Path, model: LanguageModel) -> int:
    """Return the layer whose module the file's name begins with, as ROME's program names its files."""
    modules = [model.weight_name(layer).removesuffix(".weight") for layer in range(len(model.blocks))]
    layers = [layer for layer, module in enumerate(modules) if path.name.startswith(f"{module}_")]
    if not layers:
        raise CovarianceError(
            f"{path}: its name does not begin with a module of {model.name}, such as {modules[0]}; give --layer N"
        )
    return layers[0]


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CovarianceError(f"can't read {path}: {error.strerror}; check the path") from error


def _read(path: Path, size: int, *, module: str) -> tuple[Tensor, int]:
    """Read C = mom2 / count [d_ff, d_ff] as its upper block triangle, and the count; check that C is a covariance."""
    total, count = _read_arrays(path, size, module=module)
    if not (count >= 1 and count.is_integer()):
        raise CovarianceError(f"{path}: {_COUNT} is {count:g}; expected the number of tokens")
    moment = torch.from_numpy(total.astype(np.float32)) / count
    if not torch.isfinite(moment).all():
        raise CovarianceError(f"{path}: {_SUM} has values that are not finite; download it again")
    if (moment - moment.T).abs().max() > _SYMMETRIC * moment.abs().max():
        raise CovarianceError(f"{path}: {_SUM} is not symmetric, so it is not a covariance; download it again")
    flat = flat_of(moment)
    problem = moment_problem(flat, size)
    if problem:
        raise CovarianceError(f"{path}: {problem}, so it is not a covariance; download it again")
    return flat, int(count)


def _read_arrays(path: Path, size: int, *, module: str) -> tuple[np.ndarray[Any, Any], float]:
    """Read mom2 [d_ff, d_ff] and the count of a .npz file. Shapes are checked before memory is taken."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            count = _read_count(archive, path)
            total = _read_sum(archive, path, size, module=module)
        return total, count
    except CovarianceError:  # of a check: its message is the right one
        raise
    except Exception as error:  # zipfile, and numpy's parser of headers, raise many kinds for a damaged file
        reason = type(error).__name__
        lines = str(error).splitlines()
        if lines:  # numpy's messages may have many and long ones
            reason = lines[0][:200]
        raise CovarianceError(f"{path}: not a readable .npz file ({reason}); download it again") from error


def _check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Check that a .npz file has both arrays."""
    members = archive.namelist()
    for name in (_COUNT, _SUM):
        if f"{name}.npy" not in members:
            raise CovarianceError(
                f"{path}: lacks {name!r}; expected {_SUM} and {_COUNT}, as ROME's and MEMIT's programs write"
            )


def _read_count(archive: zipfile.ZipFile, path: Path) -> float:
    """Read the number of tokens."""
    with _member(archive, _COUNT) as (file, shape, dtype):
        if shape != () or dtype.kind not in "iuf":  # a signed or unsigned integer, or a float
            raise CovarianceError(f"{path}: {_COUNT} is not a number; give a file of ROME's or MEMIT's program")
        return float(np.frombuffer(file.read(dtype.itemsize), dtype)[0])


def _read_sum(archive: zipfile.ZipFile, path: Path, size: int, *, module: str) -> np.ndarray[Any, Any]:
    """Read the sum of k k^T, [d_ff, d_ff]."""
    with _member(archive, _SUM) as (file, shape, dtype):
        if shape != (size, size) or dtype.kind != "f":
            raise CovarianceError(
                f"{path}: {_SUM} has the shape {list(shape)} and the type {dtype}, but {module} of this model "
                f"has keys of size {size}; give the file of this model and layer"
            )
        return np.frombuffer(file.read(size * size * dtype.itemsize), dtype).reshape(shape)


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]]:
    """Open an array in a .npz file behind its header, which gives its shape and type.

    The header also says whether the rows or the columns come first. That is ignored: C is symmetric.
    """
    with archive.open(f"{name}.npy") as file:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        yield file, shape, dtype
