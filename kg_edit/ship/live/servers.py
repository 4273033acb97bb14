"""What servers of models offer for adapters while they run: which they have, and how one is loaded and unloaded.

`find_server` asks a server what it is (``owned_by`` of ``GET /v1/models``) and returns its class:

- `VllmServer`: ``POST /v1/load_lora_adapter`` with the path of a PEFT folder, ``POST /v1/unload_lora_adapter``. An
  adapter that is loaded is replaced in place (``load_inplace``, since vLLM 0.14), or unloaded and loaded again.
- `SglangServer`: the same without ``/v1``; it answers JSON, and replaces nothing in place. A request names an adapter
  as ``BASE:NAME``.
- `KgEditServer`: `kg-edit serve`, which has vLLM's routes and reads patch files, so patches of every kind.
- `LlamaServer`: llama.cpp's server has the adapters that it was started with. ``POST /lora-adapters`` sets how strongly
  each of them is applied, and a request may do so for itself (``lora``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple

from kg_edit.errors import ConfigError, ServerError
from kg_edit.scoring.model_server import ModelServer

KEY = "KG_EDIT_SERVER_KEY"  # environment variable of the server's key
ADAPTER = "adapter.gguf"  # the file in a folder of `kg-edit patch export --to gguf`
_NOT_FOUND = 404


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a server has: the names of its base models, and of each adapter its path as the server sees it."""

    bases: tuple[str, ...]
    adapters: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class LiveServer(ModelServer):
    """A server that runs; its address may end with ``/v1``."""

    title: ClassVar[str] = "a server of models"
    key_name: str = KEY

    def address(self, route: str) -> str:
        """Return the address of a route, such as ``v1/models``."""
        return f"{self.url.rstrip('/').removesuffix('/v1')}/{route}"

    def models(self) -> list[dict[str, Any]]:
        """Return the entries of ``GET /v1/models``."""
        data = self.ask(self.address("v1/models"))
        entries = data.get("data") if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
            raise self.unexpected(data, "a list of models with data[].id")
        return entries


@dataclass(frozen=True, kw_only=True)
class VllmServer(LiveServer):
    """A vLLM server; its adapters are the listed models that have a parent."""

    title = "vLLM"
    load_route: ClassVar[str] = "v1/load_lora_adapter"
    unload_route: ClassVar[str] = "v1/unload_lora_adapter"
    start_options: ClassVar[str] = "--enable-lora, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"

    def listed(self) -> Listed:
        """Return the base models, and the adapters with their paths, that the server has now."""
        bases = list[str]()
        adapters = dict[str, str]()
        for entry in self.models():
            if entry.get("parent"):
                adapters[str(entry["id"])] = str(entry.get("root"))
            else:
                bases.append(str(entry["id"]))
        return Listed(bases=tuple(bases), adapters=adapters)

    def load(self, name: str, path: str, *, replace: bool) -> None:
        """Load the adapter at a path; with ``replace``, in the place of the one that has the name now.

        After an error, the server may have neither of them; `kg_edit.ship.live.push` puts the earlier one back.
        """
        body = {"lora_name": name, "lora_path": path}
        if not replace:
            self._change(self.load_route, body)
            return
        try:
            self._change(self.load_route, {**body, "load_inplace": True})
        except ServerError as error:
            # vLLM before 0.14 does not know load_inplace, and says that the name is taken
            if "already been loaded" not in str(error):
                raise
            self._change(self.unload_route, {"lora_name": name})
            self._change(self.load_route, body)

    def unload(self, name: str) -> None:
        """Take an adapter out of the server."""
        self._change(self.unload_route, {"lora_name": name})

    def _change(self, route: str, body: Mapping[str, Any]) -> None:
        """Send a request; the server's list of models, and not this answer, says whether it worked."""
        try:
            self.request(self.address(route), body)
        except ServerError as error:
            if error.status == _NOT_FOUND and "Not Found" in str(error):  # the route; not an unknown adapter
                raise ConfigError(
                    f"{self.url} takes no adapters while it runs; start {self.title} with {self.start_options}"
                ) from error
            raise


@dataclass(frozen=True, kw_only=True)
class SglangServer(VllmServer):
    """An SGLang server."""

    title = "SGLang"
    load_route = "load_lora_adapter"
    unload_route = "unload_lora_adapter"
    start_options = "--enable-lora, --max-lora-rank and --lora-target-modules"

    def load(self, name: str, path: str, *, replace: bool) -> None:
        """Load the adapter at a path; with ``replace``, the one that has the name now is unloaded first.

        After an error, the server may have neither of them; `kg_edit.ship.live.push` puts the earlier one back.
        """
        if replace:
            self.unload(name)
        self._change(self.load_route, {"lora_name": name, "lora_path": path})


@dataclass(frozen=True, kw_only=True)
class KgEditServer(VllmServer):
    """`kg-edit serve`."""

    title = "kg-edit serve"
    start_options = "a later release of kg-edit"


class LlamaAdapter(NamedTuple):
    """An adapter of llama.cpp's server: its number, its path, and how strongly it is applied."""

    number: int
    path: str
    scale: float


@dataclass(frozen=True, kw_only=True)
class LlamaServer(LiveServer):
    """llama.cpp's server: it reads adapters only when it starts (``--lora-scaled FILE:0``)."""

    title = "llama-server"

    def adapters(self) -> dict[str, LlamaAdapter]:
        """Return the server's adapters by their names.

        The name is that of the folder in which `kg-edit patch export --to gguf` wrote the file, else the file's.
        """
        data = self.ask(self.address("lora-adapters"))
        adapters = dict[str, LlamaAdapter]()
        try:
            for entry in data:
                path = str(entry["path"])
                adapter = LlamaAdapter(number=int(entry["id"]), path=path, scale=float(entry["scale"]))
                adapters[adapter_name(path)] = adapter
        except (LookupError, TypeError, ValueError) as error:
            raise self.unexpected(data, "a list of adapters with id, path and scale") from error
        return adapters

    def set_scales(self, scales: Mapping[int, float]) -> None:
        """Set how strongly each adapter is applied, by its number; adapters without a scale are switched off."""
        body = [{"id": number, "scale": scale} for number, scale in scales.items()]
        self.request(self.address("lora-adapters"), body)


def adapter_name(path: str) -> str:
    """Return the name of the adapter in a GGUF file, such as ``edits`` for edits/adapter.gguf and edits.gguf."""
    file = PurePosixPath(path.replace("\\", "/"))
    if file.name == ADAPTER and file.parent.name:
        return file.parent.name
    return file.stem


# The classes by what a server calls itself in ``owned_by``: llama.cpp says "llamacpp" there.
_KINDS: dict[str, type[LiveServer]] = {
    "vllm": VllmServer,
    "sglang": SglangServer,
    "kg-edit": KgEditServer,
    "llamacpp": LlamaServer,
}
KINDS = ("vllm", "sglang", "kg-edit", "llama.cpp")  # as the user writes them


def find_server(url: str, *, key: str | None = None, seconds: float = 60.0, kind: str | None = None) -> LiveServer:
    """Return the server at an address; without ``kind`` (one of `KINDS`), the server is asked what it is."""
    if kind is not None:
        return _KINDS[kind.replace(".", "")](url=url, key=key, seconds=seconds)
    models = LiveServer(url=url, key=key, seconds=seconds).models()
    owners = {str(entry.get("owned_by")) for entry in models}
    known = owners & _KINDS.keys()
    if len(known) != 1:
        raise ConfigError(
            f"{url} says that its models are of {', '.join(sorted(owners)) or 'nobody'}, which names no server that "
            f"takes patches; give --kind {', '.join(KINDS)}"
        )
    return _KINDS[known.pop()](url=url, key=key, seconds=seconds)
