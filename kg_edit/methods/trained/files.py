"""The file of a trained network: one safetensors file that also contains the manifest.

Files are read without pickle and written atomically. The same tensors and manifest give the same bytes. Each method
defines a `NetworkFormat` with the key of its manifest, and with the command that writes the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kg_edit.errors import ConfigError, ModelError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_safetensors

NETWORK = "network.safetensors"
Said = TypeVar("Said", bound=BaseModel)
Network = TypeVar("Network", bound=nn.Module)


class NetworkManifest(BaseModel):
    """The metadata of a network: its model, and how it was trained. A method adds what it needs to build the network.

    ``model`` is the fingerprint of the model, ``edits`` the digest of the training edits, ``examples`` the number of
    examples it learned from, ``steps`` the number of steps after which it was best.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    model_name: str
    edits: str = ""
    examples: int = 0
    steps: int = 0


Manifest = TypeVar("Manifest", bound=NetworkManifest)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained(Generic[Network, Manifest]):
    """A trained network with its manifest; ``digest`` is the SHA-256 of its file."""

    network: Network
    manifest: Manifest
    digest: str


@dataclass(frozen=True)
class NetworkFormat:
    """The file format of a method: the manifest's ``key``, the network's name (``thing``), the training ``command``."""

    key: str
    thing: str
    command: str

    def folder(self, network: str | None, *, untrained: bool, needs: str, instead: str) -> Path | None:
        """The folder of the network by a method's settings ``network`` and ``untrained``; None if untrained.

        ``needs`` are the options of the training command, and ``instead`` is what the method does untrained; both are
        for the error message.

        Raises:
            ConfigError: neither ``network`` nor ``untrained`` is set, or both are.
        """
        if (network is None) == (not untrained):
            raise ConfigError(
                f"this method needs a trained {self.thing}. Train one: {self.command} {needs} --out FOLDER, and give "
                f"its folder: --set network=FOLDER. Or {instead}: --set untrained=true. Give exactly one of the two"
            )
        return Path(network) if network else None

    def trained(
        self, folder: Path, model: LanguageModel, kind: type[Manifest], network: Callable[[Manifest], Network]
    ) -> Trained[Network, Manifest]:
        """Load the network that the training command wrote to ``folder``, on the device of ``model``.

        ``kind`` is the class of the manifest, ``network`` builds the untrained network from a manifest.

        Raises:
            ModelError: the folder has no network, or its file is damaged.
            PatchMismatchError: the network was trained for another model.
        """
        manifest = self.manifest(folder / NETWORK, kind)
        self.check_model(folder, model, fingerprint=manifest.model, name=manifest.model_name)
        found, digest = self.load(folder / NETWORK, partial(network, manifest), model)
        return Trained(network=found, manifest=manifest, digest=digest)

    def write(self, path: Path, tensors: Mapping[str, Tensor], manifest: BaseModel) -> Path:
        """Write tensors and a manifest as one file.

        Raises:
            OutputError: the file can't be written.
        """
        said = json.dumps(manifest.model_dump(mode="json"), sort_keys=True)
        cleaned = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
        return write_safetensors(path, cleaned, {self.key: said})

    def manifest(self, path: Path, kind: type[Said]) -> Said:
        """Read the manifest of a file.

        Raises:
            ModelError: the file does not exist, or it is damaged.
        """
        try:
            return kind.model_validate_json(self._said(path))
        except ValidationError as error:
            raise self.damaged(path, error) from error

    def _said(self, path: Path) -> str:
        if not path.is_file():
            raise ModelError(f"there is no trained {self.thing}: {path} is missing; train one with {self.command}")
        try:
            with safe_open(path, framework="pt") as file:
                return str(file.metadata()[self.key])
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise self.damaged(path, error) from error

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """Read all tensors of a file.

        Raises:
            ModelError: the file is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise self.damaged(path, error) from error

    def fill(self, network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Load ``tensors`` from the file ``path`` into a network.

        Raises:
            ModelError: the tensors don't fit the network.
        """
        try:
            network.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise self.damaged(path, error) from error

    def load(self, path: Path, make: Callable[[], Network], model: LanguageModel) -> tuple[Network, str]:
        """Build a network with ``make``, load its tensors from a file, and freeze it, on the device of ``model``.

        The shapes that the manifest gives are compared with the tensors first, so that a wrong manifest can't allocate
        a huge network.

        Returns:
            The network, and the SHA-256 of the file.

        Raises:
            ModelError: the file is damaged.
        """
        self._check_shapes(path, make)
        network = make()
        self.fill(network, self.tensors(path), path)
        network.to(model.device).requires_grad_(False).eval()
        return network, hashlib.sha256(path.read_bytes()).hexdigest()

    def _check_shapes(self, path: Path, make: Callable[[], nn.Module]) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():  # tensors with a shape but without memory
            wanted = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise self.damaged(path, error) from error
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise self.damaged(
                    path, f"the tensor {name} has the shape {found.get(name)}, expected {wanted.get(name)}"
                )

    def check_model(self, folder: Path, model: LanguageModel, *, fingerprint: str, name: str) -> None:
        """Check that a network in ``folder`` was trained for ``model``.

        ``fingerprint`` and ``name`` are those of the model for which the network was trained.

        Raises:
            PatchMismatchError: it was trained for another model.
        """
        if fingerprint != model.fingerprint:
            raise PatchMismatchError(
                f"the {self.thing} in {folder} was trained for {name!r} (fingerprint {fingerprint}), but the model "
                f"is {model.name!r} ({model.fingerprint}); train one for this model: {self.command}"
            )

    def damaged(self, path: Path, why: Any) -> ModelError:
        """The error for a damaged file."""
        return ModelError(f"{path} is damaged ({why}); delete it, and train the {self.thing} again: {self.command}")
