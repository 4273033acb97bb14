"""The models that `kg-edit serve` answers as, side by side in one process: one set of weights, and a patch for each.

| name | the model |
|---|---|
| the model's own name | with the ledger's active edits; unedited without a ledger |
| ``unedited`` | as it is |
| the name of the ledger's folder | with the ledger's active edits |
| ``NAME@3`` for a ledger NAME | with the edits that the ledger had after its third event |
| any other | with the patch that was loaded under this name |

A patch is read and checked before its name is known, and a request looks its patch up once, at its start. So loading
and unloading patches disturbs no request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from kg_edit.errors import ConfigError, UnknownNameError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.export.peft_adapter import is_adapter, read_peft
from kg_edit.ship.ledger.listing import active_at
from kg_edit.ship.live.push import check_name

if TYPE_CHECKING:
    from kg_edit.ship.ledger import Ledger

UNEDITED = "unedited"
_EVENT = re.compile(r"(?P<ledger>.+)@(?P<event>[0-9]+)")


class ServedModel(NamedTuple):
    """A name that requests may give, and what it stands for; ``parent`` is the base of a patch that was loaded."""

    name: str
    root: str
    parent: str | None


class _Loaded(NamedTuple):
    path: str
    patch: Patch


class ServedModels:
    """The names of the models of one process, and the patch of each."""

    def __init__(self, model: LanguageModel, ledger: Ledger | None = None) -> None:
        self.model = model
        self.ledger = ledger
        self._loaded = dict[str, _Loaded]()
        self._changing = Lock()

    @property
    def ledger_name(self) -> str | None:
        """The name of the ledger's folder; None without a ledger."""
        return self.ledger.folder.resolve().name if self.ledger else None

    def listed(self) -> tuple[ServedModel, ...]:
        """Return all names, that of the model itself first."""
        return tuple(self._names())

    def find(self, name: str | None = None) -> Patch:
        """Return the patch of a model; without a name, that of the ledger's active edits.

        Raises:
            UnknownNameError: no model has this name.
        """
        if name in (None, self.model.name, self.ledger_name):
            if self.ledger:
                return self.ledger.patch
            return WeightPatch(factors={})
        if name == UNEDITED:
            return WeightPatch(factors={})
        loaded = self._loaded.get(str(name))
        if loaded is not None:
            return loaded.patch
        known = [served.name for served in self.listed()]
        named = _EVENT.fullmatch(str(name))
        if self.ledger and named and name in known:
            return self.ledger.at(int(named["event"])).patch
        names = ", ".join(map(repr, known))
        raise UnknownNameError(f"unknown model {name!r}; this server has only {names}")

    def load(self, name: str, path: str, *, replace: bool = False) -> None:
        """Serve a patch under a name: a patch file, an output folder of `kg-edit edit`, a ledger or a PEFT adapter.

        Raises:
            ConfigError: the name is taken.
            KgEditError: there is no patch at the path, or it is for another model.
        """
        check_name(name)
        self._refuse_taken(name, replace=replace)
        patch = self._read(Path(path))
        with self._changing:
            self._refuse_taken(name, replace=replace)  # another request may have been faster
            self._loaded[name] = _Loaded(path, patch)

    def unload(self, name: str) -> None:
        """Serve a patch no longer; requests that have begun are answered with it.

        Raises:
            UnknownNameError: no patch was loaded under this name.
        """
        with self._changing:
            if name not in self._loaded:
                names = ", ".join(self._loaded) or "none"
                raise UnknownNameError(f"no patch was loaded as {name!r}; loaded: {names}")
            del self._loaded[name]

    def _names(self) -> Iterator[ServedModel]:
        yield ServedModel(self.model.name, self.model.name, None)
        yield ServedModel(UNEDITED, self.model.name, None)
        if self.ledger and self.ledger_name:
            folder = str(self.ledger.folder)
            yield ServedModel(self.ledger_name, folder, None)
            for event in self.ledger.events:
                yield ServedModel(f"{self.ledger_name}@{event.number}", f"{folder}@{event.number}", None)
        for name, loaded in tuple(self._loaded.items()):
            yield ServedModel(name, loaded.path, self.model.name)

    def _refuse_taken(self, name: str, *, replace: bool) -> None:
        if name in self._loaded and not replace:
            raise ConfigError(f"a patch has already been loaded as {name!r}; send load_inplace true, or another name")
        its_own = {served.name for served in self.listed()} - self._loaded.keys()
        if name in its_own:
            raise ConfigError(f"{name!r} is a model of this server; give another name")

    def _read(self, path: Path) -> Patch:
        if is_adapter(path):
            return read_peft(path, self.model)
        patch, _ = active_at(path)
        patch.check_model(self.model)
        patch.check_finite()
        if isinstance(patch, WeightPatch):
            patch.modules(self.model)  # raises if a weight has another shape
        return patch
