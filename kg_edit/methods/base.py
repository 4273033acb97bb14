"""The shape that every method has: a frozen config, a class, ``edit(edits) -> Patch``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

import networkx as nx
import torch
import transformers
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from kg_edit import __version__
from kg_edit.edits import Edit
from kg_edit.errors import ConfigError, faults_of, unknown_name
from kg_edit.failures import FAILURES
from kg_edit.language_model import LanguageModel
from kg_edit.patch import Patch
from kg_edit.subgraph import SubgraphSource, as_source

Made = TypeVar("Made")


class MethodConfig(BaseModel):
    """Settings of a method: immutable, unknown names refused, saved with every patch."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    @classmethod
    def preset(cls, name: str = "default", settings: dict[str, Any] | None = None) -> Self:
        """A named set of values, with ``settings`` over it.

        Raises:
            UnknownNameError: there is no such preset, or no such setting.
            ConfigError: a value does not fit.
        """
        if name not in cls.presets:
            raise unknown_name("preset", name, cls.presets)
        wanted = {**cls.presets[name], **(settings or {})}
        for key in wanted:
            if key not in cls.model_fields:
                raise unknown_name("setting", key, cls.model_fields)
        try:
            return cls(**wanted)
        except ValidationError as error:
            raise ConfigError(
                "\n".join(f"setting {fault.field}: {fault.message}" for fault in faults_of(error, cls))
            ) from error


class EditingMethod(ABC):
    """A way to change facts. Computing an edit leaves the model bit for bit as it was."""

    name: ClassVar[str]
    about: ClassVar[str]
    needs_graph: ClassVar[bool] = False
    config_class: ClassVar[type[MethodConfig]]
    memory: float = 1000.0  # MB above the model that a pass may take; decides the speed, never the result

    def __init__(
        self, model: LanguageModel, config: MethodConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        self._refuse_no_graph(graph)
        self.model, self.config = model, config
        self.graph = None if graph is None else as_source(graph)

    def edit(
        self,
        edits: Sequence[Edit],
        *,
        start: Patch | None = None,
        after_each: Callable[[Patch], object] = lambda _: None,
        progress: bool = False,
    ) -> Patch:
        """One patch with all ``edits``, made in turn, each on the model as the earlier ones left it.

        ``start`` is what was done before (a run that was killed goes on from there); ``after_each`` gets the patch so
        far after every edit. Hands a model back that is as it was, also after an exception.

        Raises:
            KgEditError: an edit can't be made; the message says why, and a note names the edit.
        """
        self.prepare()  # on the model as it is, also where ``start`` is applied below: the same patch either way
        patch = start or Patch(factors={}, provenance=self.provenance())
        for edit in tqdm(edits, desc=self.name, unit="edit", disable=None if progress else True):
            with naming(edit):
                with patch.applied(self.model):
                    update = self.edit_one(edit)
                patch = patch + update
                after_each(patch)
        return patch

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """A patch for each edit alone, on the model as it is; for one that can't be made an error of `FAILURES`.

        The same patches as from one call of `edit` an edit, to rounding; methods that can make them together.
        """
        self.prepare()
        return tuple(attempt(edit, partial(self.edit_one, edit)) for edit in edits)

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """Which graph is looked at: files and hashes, or a URL (not when it was asked); None if none is."""
        if self.graph is None or not self.needs_graph:
            return None
        source = getattr(self.graph, "source", self.graph)
        said = source.provenance() if hasattr(source, "provenance") else {"kind": type(source).__name__}
        return {key: value for key, value in said.items() if key != "fetched_at"}

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Look at all that needs no model, before one is loaded.

        Raises:
            KgEditError: the method needs a graph and there is none.
        """
        cls._refuse_no_graph(graph)

    @classmethod
    def _refuse_no_graph(cls, graph: object | None) -> None:
        if cls.needs_graph and graph is None:
            raise ConfigError(f"the method {cls.name} needs a knowledge graph; give graph=... (CLI: --graph)")

    def prepare(self) -> None:  # noqa: B027 - a method may have nothing to prepare
        """Do once what all edits share."""

    def check(self, edits: Sequence[Edit]) -> None:  # noqa: B027 - a method may have nothing to check
        """Look at all ``edits`` before any work is done on one.

        Raises:
            KgEditError: one of them can't be made.
        """

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph | None:
        """The knowledge graph that this method looks at for ``edit``, if it looks at one."""
        return None

    @abstractmethod
    def edit_one(self, edit: Edit) -> Patch:
        """The patch of one edit, for the model as it stands."""

    def provenance(self) -> dict[str, Any]:
        """What every patch of this method says of itself."""
        return {
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "versions": {
                "kg_edit": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "methods": [{"name": self.name, "config": self.config.model_dump(mode="json")}],
        }


def attempt(edit: Edit, make: Callable[[], Made]) -> Made | Exception:
    """What ``make`` gives, or the failure that it raised, with a note of the edit."""
    try:
        with naming(edit):
            return make()
    except FAILURES as error:
        return error


@contextmanager
def naming(edit: Edit) -> Iterator[None]:
    """Note on whatever goes wrong which edit it was."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the edit {edit.id!r}: {edit.text!r} -> {edit.target_new!r}")
        raise
