"""The shape that every method has: a frozen config, a class, ``edit(edits) -> Patch``.

Types of settings that several methods have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Self, TypeVar

import networkx as nx
import torch
import transformers
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError
from tqdm import tqdm

from kg_edit import __version__
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, UnknownNameError, describe, faults_of, unknown_name
from kg_edit.graphs.source import (
    FAILURES,
    SubgraphOptions,
    SubgraphSource,
    as_source,
    check_graph,
    edit_subgraph,
    graph_identity,
    open_named,
)
from kg_edit.methods.presets import preset_names, published_settings
from kg_edit.methods.registry import find_method, method_names
from kg_edit.methods.workload import Family, Trains, Workload
from kg_edit.models.hooks import refuse_patched
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch
from kg_edit.patches.guards import with_weight_norms
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.packaged import EXTRACT
from kg_edit.storage.run_folder import input_files
from kg_edit.storage.seeds import Seed
from kg_edit.value.callbacks import Callback, watched

Made = TypeVar("Made")


class MethodConfig(BaseModel):
    """Settings of a method: immutable, unknown names refused, saved with every patch."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    presets: ClassVar[dict[str, dict[str, Any]]] = {"default": {}}

    @field_validator("*", mode="wrap")
    @classmethod
    def _no_truth_value_is_a_number(cls, value: Any, take: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is wanted, also further inside: pydantic would make them 1 and 0."""
        taken = take(value)
        for place, given in cls._turned(value, taken, info.field_name or ""):
            said = f"found {describe(given)}; expected a number"
            raise PydanticCustomError("value_error", "{error}", {"error": said, "field": place})
        return taken

    @classmethod
    def _turned(cls, given: Any, taken: Any, place: str) -> Iterator[tuple[str, bool]]:
        """The truth values in ``given`` that became something else in ``taken``, each with its place."""
        if isinstance(given, bool) and not isinstance(taken, bool):
            yield place, given
        elif isinstance(given, dict) and isinstance(taken, (dict, BaseModel)):
            inside = dict(taken)
            for name in filter(inside.__contains__, given):
                yield from cls._turned(given[name], inside[name], f"{place}.{name}")
        elif isinstance(given, (list, tuple)) and isinstance(taken, (list, tuple)):
            for number, pair in enumerate(zip(given, taken, strict=False)):
                yield from cls._turned(*pair, f"{place}[{number}]")

    @classmethod
    def preset(
        cls, name: str = "default", settings: dict[str, Any] | None = None, *, method: str | None = None
    ) -> Self:
        """A named set of values, with ``settings`` over it: one of ``presets``, else one of `kg_edit.methods.presets`.

        ``method`` says whose, where several methods share this class.

        Raises:
            UnknownNameError: there is no such preset, or no such setting.
            ConfigError: a value does not fit.
        """
        own = cls.presets[name] if name in cls.presets else cls._published(name, method)
        wanted = {**own, **(settings or {})}
        for key in wanted:
            if key not in cls.model_fields:
                raise unknown_name("setting", key, cls.model_fields)
        try:
            return cls(**wanted)
        except ValidationError as error:
            raise ConfigError(
                "\n".join(f"setting {fault.field}: {fault.message}" for fault in faults_of(error, cls))
            ) from error

    @classmethod
    def _published(cls, name: str, method: str | None) -> dict[str, Any]:
        mine = [method] if method else [known for known in method_names() if find_method(known).config_class is cls]
        cls._refuse_preset_of_others(name, mine)
        return published_settings(name, mine, own=cls.presets)

    @classmethod
    def _refuse_preset_of_others(cls, name: str, mine: Sequence[str]) -> None:
        known = preset_names(mine)
        having = [other for other in method_names() if name not in known and name in preset_names([other])]
        if having:
            here, names = " or ".join(mine) or cls.__name__, ", ".join(sorted([*cls.presets, *known]))
            raise UnknownNameError(
                f"unknown preset {name!r} for {here}, known for {', '.join(having)}; {here} has: {names}"
            )

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """The layers that are written in a model of so many blocks, in ascending order; none, unless a family says."""
        return ()

    def workload(self, *, edits: int) -> Workload:
        """How much one of ``edits`` takes; `EditingMethod.family` says of what."""
        return Workload()


DEPTH = 0.2


def default_layer(blocks: int) -> int:
    """The layer at 0.2 of the depth, where a method writes that writes into one: 6 of 30, 2 of 12."""
    return round(DEPTH * blocks)


class LayerConfig(MethodConfig):
    """Settings of methods that write into one layer, which ``--layer`` chooses; ``--layer auto`` tries some.

    Attributes:
        depth: the default layer's share of the depth.
    """

    depth: ClassVar[float] = DEPTH

    layer: int | None = Field(None, ge=0, description="edited layer, 0-based; default 0.2 of the depth")

    def layer_in(self, blocks: int) -> int:
        """The layer that is written in a model of so many blocks."""
        return round(self.depth * blocks) if self.layer is None else self.layer

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """The edited layer, alone: (`layer_in`,)."""
        return (self.layer_in(blocks),)


class EditingMethod(ABC):
    """A way to change facts. Computing an edit leaves the model bit for bit as it was.

    A ``joint`` method computes all edits of a call together; another one makes them in turn, each on the model as the
    earlier ones left it. ``separable``: an edit can be taken out of a patch without computing the others anew.

    ``family`` and ``trains`` say what is computed (`kg_edit.methods.workload`), the config in which layers and how
    much. The base class of a family has said all of it; a method that says nothing is planned as an unknown one.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    paper: ClassVar[str]
    family: ClassVar[Family | None] = None
    trains: ClassVar[Trains] = "nothing"
    kind: ClassVar[Kind] = "weights"
    joint: ClassVar[bool] = False
    separable: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    config_class: ClassVar[type[MethodConfig]]
    memory: float = 1000.0  # MB above the model that a pass may take; decides the speed, never the result

    def __init__(
        self, model: LanguageModel, config: MethodConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        self._refuse_no_graph(graph)
        self.model, self.config = model, config
        self.graph = None if graph is None else as_source(graph)

    @classmethod
    def on(
        cls,
        model: LanguageModel,
        *,
        preset: str = "default",
        settings: dict[str, Any] | None = None,
        graph: SubgraphSource | nx.DiGraph | str | None = None,
    ) -> Self:
        """This method on a model, with a preset's settings and ``settings`` over them.

        ``graph`` may also be a file, a folder, a URL, or the name of a packaged graph; where a method needs one and
        none is given, it is the packaged extract.

        Raises:
            KgEditError: there is no such preset or setting, or a value does not fit.
            WikidataCacheError: the graph can't be opened.
        """
        name = EXTRACT if graph is None and cls.needs_graph else graph
        opened = open_named(name) if isinstance(name, str) else name
        return cls(model, cls.config_class.preset(preset, settings, method=cls.name), graph=opened)

    def edit(
        self,
        edits: Sequence[Edit],
        *,
        start: Patch | None = None,
        after_each: Callable[[Patch], object] = lambda _: None,
        guard: Callable[[Patch, Patch], object] = lambda made, before: None,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ) -> Patch:
        """One patch with ``start``, which was made before, and all ``edits``.

        ``after_each`` gets the patch so far whenever it has grown: a run that was killed starts from there. ``guard``
        gets what was just made and the patch so far, before it is added, and stops it by raising. ``callbacks`` see the
        losses (`kg_edit.value.callbacks`). Hands a model back that is as it was, also after an exception.

        Raises:
            KgEditError: an edit can't be made; the message says why, and a note names the edit.
        """
        self._prepare_unpatched()  # also where ``start`` is applied below: the same patch either way
        patch = start or self.empty_patch()
        with tqdm(total=len(edits), desc=self.name, unit="edit", disable=None if progress else True) as bar:
            for batch in self._batches(edits):
                with annotate_errors(*batch), watched(callbacks, [edit.id for edit in batch]):
                    made = self._made(batch, patch)
                    guard(made, patch)
                    patch = patch + made
                    after_each(patch)
                bar.update(len(batch))
        return patch

    def update(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        """What ``edits`` add to the model with the patch ``before``: `edit`, but that ``before`` is not part of it.

        Raises:
            KgEditError: an edit can't be made; the message says why, and a note names the edit.
        """
        self._prepare_unpatched()
        update = self.empty_patch()
        for batch in self._batches(edits):
            with annotate_errors(*batch):
                update = update + self._made(batch, before + update if before else update)
        return update

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """A patch for each edit alone, on the model as it is; for one that can't be made an error of `FAILURES`.

        The same patches as from one call of `edit` an edit, to rounding; methods that can make them together.
        """
        self._prepare_unpatched()
        return tuple(attempt(edit, partial(self.make, (edit,), before=self.empty_patch())) for edit in edits)

    def _prepare_unpatched(self) -> None:
        """`prepare` on the model as it is: what is measured there is kept under the model's name."""
        refuse_patched(self.model)
        self.prepare()

    def empty_patch(self) -> Patch:
        """A patch that changes nothing, with this method's provenance."""
        return WeightPatch(factors={}, provenance=self.provenance())

    def _batches(self, edits: Sequence[Edit]) -> Iterator[Sequence[Edit]]:
        """Batches for `make`: all edits in one if the method is joint, else one edit each."""
        if self.joint:
            yield from (edits,) if edits else ()
        else:
            yield from ((edit,) for edit in edits)

    def _made(self, edits: Sequence[Edit], before: Patch) -> Patch:
        with before.applied(self.model):
            made = self.make(edits, before=before)
        return with_weight_norms(made, self.model)

    @property
    def reads_graph(self) -> bool:
        """Whether a graph that is given is looked at; by default, whether one is needed."""
        return self.needs_graph

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """Which graph is looked at: files and hashes, or a URL (not when it was asked); None if none is."""
        if self.graph is None or not self.reads_graph:
            return None
        return graph_identity(self.graph)

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
    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """The patch of ``edits`` (one, unless the method is joint) for the model as it stands, ``before`` applied.

        What `edit` and `update` are made of; call those.
        """

    def provenance(self) -> dict[str, Any]:
        """What every patch of this method says of itself."""
        return {
            "model": {
                "name": self.model.name,
                "fingerprint": self.model.fingerprint,
                "dtype": str(self.model.model.dtype),  # the fingerprint survives a cast, an edit does not
            },
            "versions": {
                "kg_edit": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "methods": [
                {
                    "name": self.name,
                    "config": self.config.model_dump(mode="json"),
                    **({"files_sha256": self._input_files} if self._input_files else {}),
                }
            ],
        }

    @cached_property
    def _input_files(self) -> dict[str, str]:
        return input_files(self.config)


class GraphSettings(MethodConfig):
    """Settings of methods that read an edit's subgraph; those of the group ``graph`` are said only where one is set.

    So a patch or a run that was made before there was the group has the same settings as one made today.
    """

    per_node: PositiveInt = Field(20, description="m: statements sampled at a node")
    seed: Seed = Field(0, description="of all that is drawn")
    graph: SubgraphOptions = Field(
        SubgraphOptions(), description="which statements get in: graph.policy, graph.direction, graph.leakage"
    )

    @model_serializer(mode="wrap")
    def _without_default_options(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = dump(self)
        if self.graph == SubgraphOptions():
            said.pop("graph", None)
        return said

    @property
    def subgraph_hops(self) -> int:
        """The order of the subgraph: 2 is what the graph says of o*."""
        return 2

    def ask(self, source: SubgraphSource, edit: Edit) -> nx.MultiDiGraph:
        """The edit's subgraph, as these settings want it.

        Raises:
            KgEditError, WikidataCacheError: as `edit_subgraph`.
        """
        return edit_subgraph(
            source, edit, hops=self.subgraph_hops, per_node=self.per_node, seed=self.seed, options=self.graph
        )


class GraphReader(EditingMethod):
    """Put before a method without a graph: each edit's subgraph, asked for once."""

    needs_graph = True
    config: GraphSettings

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Also ask the graph for every edit's subgraph."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, GraphSettings) and graph is not None  # noqa: S101 - needs_graph
        for edit in edits:
            with annotate_errors(edit):
                check_graph(config.ask(graph, edit))

    @cached_property
    def _subgraphs(self) -> dict[Edit, nx.MultiDiGraph]:
        return {}

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        """The edit's subgraph, fetched once."""
        assert self.graph is not None  # noqa: S101 - needs_graph
        if edit not in self._subgraphs:
            self._subgraphs[edit] = self.config.ask(self.graph, edit)
        return self._subgraphs[edit]


def attempt(edit: Edit, make: Callable[[], Made]) -> Made | Exception:
    """What ``make`` gives, or the failure that it raised, with a note of the edit."""
    try:
        with annotate_errors(edit):
            return make()
    except FAILURES as error:
        return error


@contextmanager
def annotate_errors(*edits: Edit) -> Iterator[None]:
    """Note on whatever goes wrong which edit it was, or between which two of a batch."""
    try:
        yield
    except Exception as error:
        if not edits:
            raise
        first, *_, last = (*edits, *edits)
        note = f"in the edit {first.id!r}: {first.text!r} -> {first.target_new!r}"
        if len(edits) > 1:
            note = f"in a batch of {len(edits)} edits, {first.id!r} to {last.id!r}"
        if note not in getattr(error, "__notes__", ()):  # a batch of one names its edit twice
            error.add_note(note)
        raise


def _ascending(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or min(layers) < 0 or list(layers) != sorted(set(layers)):
        raise ValueError(f"{list(layers)} are no ascending numbers from 0 on; write each layer once, in order")
    return layers


Layers = Annotated[tuple[int, ...], AfterValidator(_ascending)]
"""Blocks, 0-based, each once."""

ContextLengths = tuple[tuple[Annotated[int, Field(ge=2)], NonNegativeInt], ...]
"""(tokens, count) of contexts; the document's start is one of the tokens."""
