"""Put a patch into a server that runs, and take it out again; after an error the server is as it was before.

`push_adapter` writes the adapter into a new folder, which the server reads, and loads it (vLLM, SGLang, `kg-edit
serve`). The folder is named after its content, so the files of an adapter that is replaced stay as they are, and can be
loaded again. `switch_adapter` switches on an adapter that llama.cpp's server was started with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from kg_edit.errors import ConfigError, KgEditError, OutputError, PatchError, ServerError
from kg_edit.patches.base import Patch
from kg_edit.patches.provenance import ORIGIN
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.live.servers import LlamaServer, VllmServer
from kg_edit.storage.run_folder import PATCH

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")
_TOO_LARGE = re.compile(r"rank (?P<rank>\d+) is greater than max_lora_rank (?P<limit>\d+)")
_SMALLEST_LIMIT = 8  # of vLLM's --max-lora-rank, which is a power of 2
_DIGITS = 12  # of the hash of its content that a folder's name has
# how strongly llama.cpp's server applies an adapter
ON = 1.0
OFF = 0.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """An adapter that a server has now, its path as the server sees it, and the path of the one that it replaced."""

    name: str
    path: str
    replaced: str | None


class _NotPutBackError(ServerError):
    """A server may still have what was pushed, because it did not answer when it was asked to undo it."""


def check_name(name: str) -> None:
    """Refuse a name that a server may read as something else; SGLang splits names at a colon."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"the name {name!r} can't be served; use letters, digits, and . _ - @ after the first one")


def push_adapter(
    server: VllmServer,
    name: str,
    patch: Patch,
    *,
    write: Callable[[Path], object],
    folder: Path,
    seen_at: str | None = None,
    replace: bool = False,
    ask: Callable[[], object] = lambda: None,
) -> Pushed:
    """Write an adapter into a folder, and load it into a server under a name.

    Args:
        server: the server.
        name: the name that requests give as their model.
        patch: the patch that is written, for messages about its rank.
        write: writes the adapter to a new folder.
        folder: where the adapter's folder is made.
        seen_at: the path of ``folder`` as the server sees it; None: the same path.
        replace: load it also if the server has an adapter of this name.
        ask: called when the server has the adapter; if it raises, the adapter is taken out again.

    Returns:
        What the server has now.

    Raises:
        ConfigError: the name can't be served, or is taken; or the server takes no adapters.
        PatchError: the rank is above the server's limit.
        ServerError: the server refuses, replies with something else, or does not answer.
    """
    check_name(name)
    before = server.listed()
    if name in before.bases:
        raise ConfigError(f"{server.url} serves a model {name} that is not an adapter; give another name")
    present = before.adapters.get(name)
    adapter = _write_adapter(write, folder, name)
    path = str(adapter.folder)
    if seen_at:
        path = str(PurePosixPath(seen_at) / adapter.folder.name)
    try:
        if path == present:  # the server has this very adapter
            ask()
            return Pushed(name=name, path=path, replaced=None)
        if present is not None and not replace:
            raise ConfigError(
                f"{server.url} has an adapter {name} already ({present}); give --replace to replace it, or another name"
            )
        _load_or_put_back(server, name, path, patch, present=present, ask=ask)
    except _NotPutBackError:  # the server may still read the folder
        raise
    except BaseException:
        if adapter.is_new:
            shutil.rmtree(adapter.folder, ignore_errors=True)
        raise
    return Pushed(name=name, path=path, replaced=present)


def pull_adapter(server: VllmServer, name: str) -> str:
    """Take an adapter out of a server, and return the path that it was loaded from.

    Raises:
        ConfigError: the server has no such adapter.
        ServerError: the server refuses, or does not answer.
    """
    adapters = server.listed().adapters
    if name not in adapters:
        names = ", ".join(adapters) or "none"
        raise ConfigError(f"{server.url} has no adapter {name!r}; it has: {names}")
    server.unload(name)
    if name in server.listed().adapters:
        raise ServerError(f"{server.url} still lists {name} after it was unloaded")
    return adapters[name]


class _Written(NamedTuple):
    """The folder of an adapter, and whether it is new: it was there if the same adapter was written before."""

    folder: Path
    is_new: bool


def _write_adapter(write: Callable[[Path], object], folder: Path, name: str) -> _Written:
    """Write an adapter into a folder in ``folder``, named after its content, such as edited-0123456789ab."""
    try:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".push-", dir=folder))
    except OSError as error:
        raise OutputError(f"can't write {folder}: {error.strerror or error}; give another --folder") from error
    try:
        write(scratch / name)
        target = folder / f"{name}-{_content_hash(scratch / name)}"
        is_new = not target.exists()
        if is_new:
            (scratch / name).rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _Written(target, is_new)


def _content_hash(folder: Path) -> str:
    """Return the first digits of the hash of the weights in an adapter's folder."""
    (weights,) = folder.glob("*.safetensors")
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def _load_or_put_back(
    server: VllmServer, name: str, path: str, patch: Patch, *, present: str | None, ask: Callable[[], object]
) -> None:
    """Load the adapter at ``path``, and ask for it; after an error, put back the one at ``present``, or none."""
    try:
        _load_and_ask(server, name, path, patch, replace=present is not None, ask=ask)
    except BaseException as error:
        try:
            _put_back(server, name, present)
        except KgEditError as failure:
            had = f"the adapter at {present}" if present else "no adapter"
            raise _NotPutBackError(
                f"{error}; the server had {had} as {name}, and can't be asked to have it again: {failure}"
            ) from error
        raise


def _load_and_ask(
    server: VllmServer, name: str, path: str, patch: Patch, *, replace: bool, ask: Callable[[], object]
) -> None:
    """Load an adapter, check that the server lists it, and ask for it."""
    try:
        server.load(name, path, replace=replace)
        found = server.listed().adapters.get(name)
        if found != path:
            raise ServerError(f"{server.url} lists {found or 'nothing'} as {name} after it loaded {path}")
        ask()
    except ServerError as error:
        if "No adapter found" in str(error):  # a server in a container
            error.add_note("the server sees no such folder; give --folder, and the path at which it sees it: --seen-at")
        too_large = _TOO_LARGE.search(str(error))
        if too_large and isinstance(patch, WeightPatch):
            rank = int(too_large["rank"])
            raise PatchError(_describe_rank(patch, rank, limit=int(too_large["limit"]))) from error
        raise


def _describe_rank(patch: WeightPatch, rank: int, *, limit: int) -> str:
    """Return the message that a server takes no such rank, with the share of the change that its limit would keep."""
    _, shares = patch.reduced(limit)
    kept = min(shares.values())
    wanted = _SMALLEST_LIMIT
    while wanted < rank:
        wanted *= 2
    return (
        f"the patch has rank {rank}, and the server takes at most {limit}: give --rank {limit}, which keeps {kept:.2%} "
        f"of the change's squared norm, or start the server with --max-lora-rank {wanted}"
    )


def _put_back(server: VllmServer, name: str, present: str | None) -> None:
    """Make the server have the adapter at ``present`` under this name, or none."""
    now = server.listed().adapters.get(name)
    if now == present:
        return
    if present is None:
        server.unload(name)
    else:
        server.load(name, present, replace=now is not None)


def switch_adapter(
    server: LlamaServer,
    name: str,
    *,
    scale: float = ON,
    patch: Patch | None = None,
    ask: Callable[[], object] = lambda: None,
) -> str:
    """Apply an adapter of llama.cpp's server to all requests, or to none (``scale`` 0); return its path.

    Args:
        server: the server.
        name: the adapter's name (`kg_edit.ship.live.servers.adapter_name`).
        scale: how strongly it is applied.
        patch: the edits that the adapter has to have, as far as its file can be read here.
        ask: called when the adapter is applied; if it raises, the adapter is switched back.

    Raises:
        ConfigError: the server was not started with such an adapter.
        PatchError: the adapter has other edits than ``patch``.
        ServerError: the server refuses, replies with something else, or does not answer.
    """
    loaded = server.adapters()
    if name not in loaded:
        names = ", ".join(loaded) or "none"
        raise ConfigError(
            f"{server.url} was not started with an adapter {name!r} (it has: {names}), and llama-server reads none "
            f"later: kg-edit patch export LEDGER --to gguf {name}, and start it with "
            f"--lora-scaled {name}/adapter.gguf:0 --no-cache-prompt"
        )
    number = loaded[name].number
    path = loaded[name].path
    if patch is not None:
        _compare_edits(path, patch)
    before = {adapter.number: adapter.scale for adapter in loaded.values()}
    try:
        server.set_scales({**before, number: scale})
        found = server.adapters()[name].scale
        if found != scale:
            raise ServerError(f"{server.url} applies {name} {found:g} times after it was set to {scale:g}")
        ask()
    except BaseException as error:
        try:
            server.set_scales(before)
        except KgEditError as failure:
            error.add_note(f"the server applied {name} {before[number]:g} times, which can't be set again: {failure}")
        raise
    return path


def _compare_edits(path: str, patch: Patch) -> None:
    """Refuse an adapter whose folder lists other edits than the patch."""
    origin = Path(path).parent / ORIGIN
    try:
        exported = json.loads(origin.read_text(encoding="utf-8"))["edits"]
    except (OSError, ValueError, LookupError, TypeError):
        log.warning("%s can't be read here, so the edits of the adapter are not compared", origin)
        return
    expected = json.loads(json.dumps([record["edit"] for record in patch.edits]))  # with lists for tuples, as in a file
    if [record.get("edit") for record in exported] != expected:
        raise PatchError(
            f"{path} was exported with other edits: export the ledger again, and start llama-server with the new file"
        )


def write_patch_folder(patch: Patch, folder: Path) -> None:
    """Write a patch of any kind into a new folder, for `kg-edit serve`."""
    folder.mkdir(parents=True)
    patch.save(folder / PATCH)
