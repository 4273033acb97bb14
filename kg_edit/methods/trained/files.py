"""A trained network on disk: one safetensors file with the manifest inside.

Files are read without pickle and written atomically; the same tensors and manifest give the same bytes. A method says
in a `NetworkFormat` under which key its manifest stands, and which command makes such a file.
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
    """Whose network it is and how it was trained; a method adds what its network needs to be built.

    ``model`` is the fingerprint of the model that it is for, ``edits`` the digest of those given, ``examples`` the
    number that it learned from, ``steps`` after how many steps it was at its best.
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
    """A network and what is known of it; ``digest`` is its file's SHA-256."""

    network: Network
    manifest: Manifest
    digest: str


@dataclass(frozen=True)
class NetworkFormat:
    """Whose file it is: the ``key`` of its manifest, what the network is called, and the ``command`` that trains it."""

    key: str
    thing: str
    command: str

    def folder(self, network: str | None, *, untrained: bool, needs: str, instead: str) -> Path | None:
        """Where the network is, given what a method's settings say; None if none is wanted.

        ``needs``: what its training is to be given; ``instead``: what is done without one.

        Raises:
            ConfigError: that is not said, or said twice.
        """
        if (network is None) == (not untrained):
            raise ConfigError(
                f"this method needs a trained {self.thing}. Train one, {self.command} {needs} --out FOLDER, and "
                f"give its folder: --set network=FOLDER. Or {instead}: --set untrained=true. Give one of the two"
            )
        return Path(network) if network else None

    def trained(
        self, folder: Path, model: LanguageModel, kind: type[Manifest], network: Callable[[Manifest], Network]
    ) -> Trained[Network, Manifest]:
        """The network that the command wrote to ``folder``, on the device of ``model``.

        ``kind`` is its manifest's class, ``network`` builds it from one as it is before training.

        Raises:
            ModelError: there is none, or its file is damaged.
            PatchMismatchError: it was trained for another model.
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
        """What a file says of itself.

        Raises:
            ModelError: there is no such file, or it is damaged.
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
        """All tensors of a file.

        Raises:
            ModelError: it is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, SafetensorError) as error:
            raise self.damaged(path, error) from error

    def fill(self, network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Fill a network with the tensors of a file.

        Raises:
            ModelError: they don't fit.
        """
        try:
            network.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise self.damaged(path, error) from error

    def load(self, path: Path, make: Callable[[], Network], model: LanguageModel) -> tuple[Network, str]:
        """The network that ``make`` makes, filled from a file, frozen, where ``model`` is; the file's SHA-256.

        The sizes in a file's manifest are compared with its tensors before a network of these sizes is made.

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

        with FakeTensorMode():  # tensors that have a shape and take no memory
            wanted = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise self.damaged(path, error) from error
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                raise self.damaged(path, f"{name} is {found.get(name)}, and its settings ask for {wanted.get(name)}")

    def check_model(self, folder: Path, model: LanguageModel, *, fingerprint: str, name: str) -> None:
        """Look whether a network was trained for ``model``.

        Raises:
            PatchMismatchError: it was trained for the model with that fingerprint and name.
        """
        if fingerprint != model.fingerprint:
            raise PatchMismatchError(
                f"the {self.thing} in {folder} was trained for {name!r} (fingerprint {fingerprint}), the model at hand "
                f"is {model.name!r} ({model.fingerprint}); train one for it: {self.command}"
            )

    def damaged(self, path: Path, why: Any) -> ModelError:
        """The error for a file that can't be used."""
        return ModelError(f"{path} is damaged ({why}); delete it, and train the {self.thing} again: {self.command}")
