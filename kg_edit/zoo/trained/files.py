"""The file of a trained network: one safetensors file whose metadata has the manifest.

    {"version": 1, "manifest": {...}}

Files are read without pickle and written atomically. The same tensors and manifest give the same bytes. Each method
defines a `NetworkFormat` with the key of its metadata, and with the command that writes the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kg_common.json_text import parse
from kg_edit.errors import ConfigError, ModelError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_safetensors

NETWORK = "network.safetensors"
VERSION = 1
_KEY = "kg_edit_"  # begins the key of each method's metadata
AnyManifest = TypeVar("AnyManifest", bound=BaseModel)
Network = TypeVar("Network", bound=nn.Module)


class NetworkManifest(BaseModel):
    """The metadata of a network: its model, and how it was trained. A method adds what it needs to build the network.

    Attributes:
        model: the fingerprint of the model.
        model_name: its name.
        edits: the digest of the training edits.
        examples: the number of examples it learned from.
        steps: the number of steps after which it was best.
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

    @property
    def note(self) -> dict[str, Any]:
        """The network in the provenance of a patch: its digest, and data on its training."""
        training = self.manifest.model_dump(mode="json", include={"edits", "examples", "steps"})
        return {"digest": self.digest, **training}


@dataclass(frozen=True)
class NetworkFormat:
    """The files of a method: the ``key`` of the metadata, the network's name (``thing``), the training ``command``."""

    key: str
    thing: str
    command: str

    def find_folder(self, network: str | None, *, untrained: bool, instead: str) -> Path | None:
        """Return the folder of the network by a method's settings; None if untrained.

        Args:
            network: the setting of this name.
            untrained: the setting of this name.
            instead: what the method does untrained, for the error message.
        """
        if bool(untrained) == (network is not None):  # both, or neither
            raise ConfigError(
                f"this method needs a trained {self.thing}. Train one: {self.command} --data EDITS --model NAME --out "
                f"FOLDER, and give its folder: --set network=FOLDER. Or {instead}: --set untrained=true. Give exactly "
                "one of the two"
            )
        return Path(network) if network else None

    def write(self, path: Path, tensors: Mapping[str, Tensor], manifest: BaseModel) -> Path:
        """Write tensors and a manifest as one file."""
        metadata = json.dumps({"version": VERSION, "manifest": manifest.model_dump(mode="json")}, sort_keys=True)
        cleaned = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
        return write_safetensors(path, cleaned, {self.key: metadata})

    def read_manifest(self, path: Path, kind: type[AnyManifest]) -> AnyManifest:
        """Read the manifest of a file, of the class ``kind``."""
        if not path.is_file():
            raise ModelError(f"there is no trained {self.thing}: {path} is missing; train one with {self.command}")
        metadata = self._read_metadata(path)
        if self.key not in metadata:
            self._refuse_other_method(path, metadata)
        try:
            content = parse(metadata[self.key])
            is_newer = content["version"] > VERSION
        except (KeyError, TypeError, ValueError) as error:
            raise self._damage(path, error) from error
        if is_newer:
            raise ModelError(
                f"{path} has version {content['version']} of its format, and this kg-edit reads version {VERSION}; "
                "update kg-edit"
            )
        try:
            return kind.model_validate(content["manifest"])
        except (KeyError, ValueError) as error:  # pydantic's error is a ValueError
            raise self._damage(path, error) from error

    def _read_metadata(self, path: Path) -> dict[str, str]:
        """Read the metadata of a file; {} if it has none."""
        try:
            with safe_open(path, framework="pt") as file:
                return file.metadata() or {}
        except (OSError, SafetensorError, ValueError) as error:
            raise self._damage(path, error) from error

    def _refuse_other_method(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Raise an error if another method's training wrote the file."""
        for key in metadata:
            if key.startswith(_KEY):
                raise ModelError(
                    f"{path} was trained for the method {key.removeprefix(_KEY)}: use --method "
                    f"{key.removeprefix(_KEY)}, or train one with {self.command}"
                )

    def read_tensors(self, path: Path) -> dict[str, Tensor]:
        """Read all tensors of a file."""
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise self._damage(path, error) from error

    def fill_network(self, network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Load ``tensors`` from the file ``path`` into a network."""
        try:
            network.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise self._damage(path, error) from error

    def load_network(
        self, folder: Path, model: LanguageModel, kind: type[Manifest], build: Callable[[Manifest], Network]
    ) -> Trained[Network, Manifest]:
        """Load the network that the training command wrote to ``folder``, frozen, on the device of ``model``.

        Args:
            folder: the folder of the trained network.
            model: the model for which it was trained.
            kind: the class of the manifest.
            build: makes the untrained network of a manifest.
        """
        path = folder / NETWORK
        manifest = self.read_manifest(path, kind)
        if manifest.model != model.fingerprint:
            raise PatchMismatchError(
                f"the {self.thing} in {folder} was trained for {manifest.model_name!r} (fingerprint {manifest.model}), "
                f"but the model is {model.name!r} ({model.fingerprint}); train one for this model: {self.command}"
            )
        tensors = self.read_tensors(path)
        with FakeTensorMode():  # tensors without memory: a wrong manifest can't allocate a huge network
            expected = {name: tuple(tensor.shape) for name, tensor in build(manifest).state_dict().items()}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name in sorted(expected.keys() | shapes.keys()):
            shape = shapes.get(name)
            if expected.get(name) != shape:
                raise self._damage(path, f"the tensor {name} has the shape {shape}, expected {expected.get(name)}")
        network = build(manifest)
        self.fill_network(network, tensors, path)
        network.to(model.device).requires_grad_(False).eval()
        return Trained(network=network, manifest=manifest, digest=hashlib.sha256(path.read_bytes()).hexdigest())

    def _damage(self, path: Path, why: Any) -> ModelError:
        """Return the error for a damaged file."""
        return ModelError(f"{path} is damaged ({why}); delete it, and train the {self.thing} again: {self.command}")
