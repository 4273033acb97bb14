"""Covariances that others have measured: copied to and from a place on the hub or a folder.

A place holds ``ID.safetensors`` and ``ID.json`` for each covariance, as the store does, so a copy is a copy of files.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from kg_edit.covariance.files import Manifest, read_moment
from kg_edit.covariances.places import Place
from kg_edit.errors import CovarianceError, OutputError

_ENDINGS = (".safetensors", ".json")


def push(place: Place, manifests: Sequence[Manifest], folder: Path) -> list[Manifest]:
    """Copy covariances from the store ``folder`` to ``place``; the manifests of those that were not there yet.

    Raises:
        CovarianceError: a file is damaged, or the place can't be reached.
    """
    there = place.files()
    new = [manifest for manifest in manifests if not _names(manifest.id) <= there]
    for manifest in new:
        read_moment(folder / f"{manifest.id}.safetensors", manifest.identity)
    if new:
        place.add([folder / name for manifest in new for name in sorted(_names(manifest.id))])
    return new


def pull(place: Place, folder: Path, *, ids: Sequence[str] = (), model: str | None = None) -> list[Manifest]:
    """Copy covariances from ``place`` to the store ``folder``, and check them; the manifests of those that are new.

    ``ids``: these alone, by id or its beginning. ``model``: only those measured on a model of that name or fingerprint.

    Raises:
        CovarianceError: there is no such covariance, one is damaged, or the place can't be reached.
    """
    there = place.files()
    available = sorted(name.removesuffix(".json") for name in there if name.endswith(".json") and _both(name, there))
    chosen = _choose(available, ids, place.name)
    absent = [name for name in chosen if not (folder / f"{name}.safetensors").is_file()]
    wanted = [name for name in absent if _of_model(_manifest(place, name, folder), model)]
    return [_pull(place, name, folder) for name in wanted]


def _pull(place: Place, name: str, folder: Path) -> Manifest:
    """The matrix is checked under a name that nobody looks for, before it gets its own."""
    manifest = _manifest(place, name, folder)
    incoming = folder / ".incoming" / f"{name}.safetensors"
    try:
        place.fetch(incoming.name, incoming)
        _, found = read_moment(incoming, manifest.identity)
        place.fetch(f"{name}.json", folder / f"{name}.json")
        incoming.replace(folder / incoming.name)
    except OSError as error:
        raise OutputError(
            f"can't write into {folder}: {error.strerror}; make room, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(incoming.parent, ignore_errors=True)
    return found


def _manifest(place: Place, name: str, folder: Path) -> Manifest:
    path = folder / ".incoming" / f"{name}.json"
    place.fetch(path.name, path)
    try:
        manifest = Manifest.parse(path.read_text(encoding="utf-8"), Path(place.name) / path.name)
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)
    if manifest.id != name:
        raise CovarianceError(f"{place.name}: {name}.json describes the covariance {manifest.id}; it was renamed there")
    return manifest


def _choose(available: list[str], ids: Sequence[str], place: str) -> list[str]:
    unknown = [one for one in ids if not any(name.startswith(one) for name in available)]
    if unknown:
        known = ", ".join(available) or "none"
        raise CovarianceError(f"{place} has no covariance {', '.join(unknown)}; it has: {known}")
    return [name for name in available if not ids or name.startswith(tuple(ids))]


def _of_model(manifest: Manifest, model: str | None) -> bool:
    return model is None or model in (manifest.model_name, manifest.model)


def _names(identity: str) -> set[str]:
    return {f"{identity}{ending}" for ending in _ENDINGS}


def _both(name: str, there: set[str]) -> bool:
    return _names(name.removesuffix(".json")) <= there
