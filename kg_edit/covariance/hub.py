"""Shares measured covariances: copies them to and from a data set repository on the Hugging Face hub, or a folder.

`push` and `pull` copy; `open_place` turns a user's input into a `RemoteFolder`. Like the store, a place has the files
``ID.safetensors`` and ``ID.json`` for each covariance, so files are copied unchanged. Pulled files are checked before
use.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from kg_edit.covariance.files import Manifest, check_moment
from kg_edit.errors import ConfigError, CovarianceError, OutputError
from kg_edit.storage.atomic import replacing
from wikidata_cache.atomic import user_path

_ENDINGS = (".safetensors", ".json")


def push(remote: RemoteFolder, manifests: Sequence[Manifest], folder: Path) -> list[Manifest]:
    """Copy covariances from the store ``folder`` to ``remote``; return the manifests of the newly copied ones.

    Raises:
        CovarianceError: a file is damaged, or the place can't be reached.
        OutputError: the place is a folder that can't be written.
    """
    remote_files = remote.files()
    new = [manifest for manifest in manifests if not _names(manifest.id) <= remote_files]
    for manifest in new:
        check_moment(folder / f"{manifest.id}.safetensors", manifest.identity)
    if new:
        remote.add([folder / name for manifest in new for name in sorted(_names(manifest.id))])
    return new


def pull(remote: RemoteFolder, folder: Path, *, ids: Sequence[str] = (), model: str | None = None) -> list[Manifest]:
    """Copy covariances from ``remote`` to the store ``folder`` and check them; return the manifests of the new ones.

    ``ids`` selects covariances by id or by the beginning of an id. ``model`` selects those that were measured on a
    model with this name or fingerprint.

    Raises:
        CovarianceError: the place has no such covariance, a file is damaged, or the place can't be reached.
        OutputError: ``folder`` can't be written.
    """
    remote_files = remote.files()
    stems = sorted(name.removesuffix(".json") for name in remote_files if name.endswith(".json"))
    available = [stem for stem in stems if _names(stem) <= remote_files]
    if not available:
        raise CovarianceError(f"{remote.name} has no covariances; check the place")
    if unknown := [prefix for prefix in ids if not any(name.startswith(prefix) for name in available)]:
        raise CovarianceError(f"{remote.name} has no covariance {', '.join(unknown)}; it has: {', '.join(available)}")
    chosen = [name for name in available if not ids or name.startswith(tuple(ids))]
    pulled = []
    for name in chosen:
        if (folder / f"{name}.safetensors").is_file():
            continue
        with _incoming(folder) as hidden:
            described = hidden / f"{name}.json"
            remote.fetch(described.name, described)
            manifest = Manifest.parse(
                described.read_text(encoding="utf-8", errors="replace"), Path(remote.name) / described.name
            )
            if manifest.id != name:
                raise CovarianceError(
                    f"{remote.name}: {name}.json describes the covariance {manifest.id}; it was renamed there"
                )
            if model is not None and model not in (manifest.model_name, manifest.model):
                continue
            # The matrix is checked in the hidden folder before it is moved into the store.
            matrix = hidden / f"{name}.safetensors"
            remote.fetch(matrix.name, matrix)
            _, checked = check_moment(matrix, manifest.identity)
            described.replace(folder / described.name)
            matrix.replace(folder / matrix.name)
            pulled.append(checked)
    return pulled


@contextmanager
def _incoming(folder: Path) -> Iterator[Path]:
    """A hidden folder inside the store, for one copy; other processes that pull into the store have their own."""
    hidden = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = Path(mkdtemp(dir=folder, prefix=".incoming-"))
        yield hidden
    except OSError as error:
        raise OutputError(
            f"can't write into {folder}: {error.strerror}; make room, or choose another folder"
        ) from error
    finally:
        if hidden:
            shutil.rmtree(hidden, ignore_errors=True)


def _names(identity: str) -> set[str]:
    return {f"{identity}{ending}" for ending in _ENDINGS}


def open_place(text: str, *, private: bool = False) -> RemoteFolder:
    """Open a folder (a path that begins with ``/``, ``.`` or ``~``, or a ``file://`` URL), or a repository on the hub.

    Raises:
        ConfigError: ``text`` is neither.
    """
    if text.startswith("file://"):
        return FolderPlace(Path(unquote(urlsplit(text).path)))
    if text.startswith(("/", ".", "~")):
        return FolderPlace(user_path(text))
    repository = text.removeprefix("hf:")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConfigError(f"{text!r} is neither a hub repository OWNER/NAME nor a folder; write a folder as ./NAME")
    return HubPlace(repository, private=private)


class RemoteFolder(Protocol):
    """A place whose files can be listed, read and added by name."""

    @property
    def name(self) -> str:
        """The name of the place as a user writes it: a path or ``OWNER/NAME``."""

    def files(self) -> set[str]:
        """Return the names of all files in the place."""

    def fetch(self, name: str, target: Path) -> None:
        """Copy the file ``name`` to ``target``, atomically."""

    def add(self, files: Sequence[Path]) -> None:
        """Copy local files into the place, under their own names."""


@dataclass(frozen=True)
class FolderPlace:
    """A `RemoteFolder` that is a local or mounted folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.folder)

    def files(self) -> set[str]:
        """Return the names of all files; empty if the folder does not exist."""
        return {path.name for path in self.folder.glob("*") if path.is_file()}

    def fetch(self, name: str, target: Path) -> None:
        """Copy the file ``name`` to ``target``, atomically."""
        with replacing(target) as scratch:
            shutil.copyfile(self.folder / name, scratch)

    def add(self, files: Sequence[Path]) -> None:
        """Copy local files into the folder, each atomically."""
        for path in files:
            with replacing(self.folder / path.name) as scratch:
                shutil.copyfile(path, scratch)


class HubPlace:
    """A data set repository on the Hugging Face hub, ``OWNER/NAME``; it is created when files are first added."""

    def __init__(self, repository: str, *, api: Any = None, private: bool = False) -> None:
        from huggingface_hub import HfApi

        self._repository, self._private = repository, private
        self._api: Any = api or HfApi()

    @property
    def name(self) -> str:
        """The repository's name on the hub, ``OWNER/NAME``."""
        return self._repository

    def files(self) -> set[str]:
        """Return the names of all files.

        Raises:
            CovarianceError: the repository can't be read.
        """
        try:
            return set(self._api.list_repo_files(self.name, repo_type="dataset"))
        except Exception as error:  # network, hub and name errors have many types; their messages are passed on
            raise _unreachable(self.name, "read", error) from error

    def fetch(self, name: str, target: Path) -> None:
        """Download the file ``name`` to ``target``, atomically.

        Raises:
            CovarianceError: the file can't be downloaded.
        """
        try:
            downloaded = self._api.hf_hub_download(self.name, name, repo_type="dataset")
        except Exception as error:
            raise _unreachable(self.name, "read", error) from error
        with replacing(target) as scratch:
            shutil.copyfile(downloaded, scratch)

    def add(self, files: Sequence[Path]) -> None:
        """Upload files in one commit.

        Raises:
            CovarianceError: the files can't be uploaded.
        """
        from huggingface_hub import CommitOperationAdd

        message = f"add {len({path.stem for path in files})} covariances"
        try:
            added = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files]
            self._api.create_repo(self.name, repo_type="dataset", private=self._private, exist_ok=True)
            self._api.create_commit(self.name, added, commit_message=message, repo_type="dataset")
        except Exception as error:
            raise _unreachable(self.name, "write to", error) from error


def _unreachable(name: str, doing: str, error: Exception) -> CovarianceError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CovarianceError(
        f"can't {doing} the hub's data set {name}: {first}; check the name, the network, and `hf auth login`"
    )
