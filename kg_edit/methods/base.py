"""The base class of all editing methods: a class with a frozen config and ``edit(edits) -> Patch``.

`GraphReader` is the mixin of methods that read a graph, `ValueMethod` the base of methods that find values by gradient
descent and write them (ROME, GLAME, MEMIT). The configs are in `kg_edit.methods.config`.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial, reduce, wraps
from inspect import signature
from operator import add
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import networkx as nx
import torch
import transformers
from pydantic import BaseModel

from kg_common.progress import Bar
from kg_edit.callbacks import Callback, StepNotes, watched
from kg_edit.covariance.corpora import open_corpus
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import find_covariances
from kg_edit.edits.edit import Edit, refuse_clash, refuse_same_ids
from kg_edit.edits.inputs import Edits, as_edits
from kg_edit.engine.prefix_cache import context_starts, longest_start, mask_decides
from kg_edit.errors import (
    ConfigError,
    EditError,
    Fault,
    GraphError,
    PatchError,
    describe,
    did_you_mean,
)
from kg_edit.graphs.controls import probe_answers, states_nothing
from kg_edit.graphs.facts import answers_in, target_of
from kg_edit.graphs.source import (
    FAILURES,
    PrivateGraph,
    SubgraphSource,
    as_source,
    check_graph,
    graph_identity,
    has_statements,
    open_named,
    other_label,
    why_alone,
)
from kg_edit.locate_then_edit.long_run import mean_value_norm
from kg_edit.locate_then_edit.objective import Request
from kg_edit.locate_then_edit.states import Site
from kg_edit.methods.config import GraphSettings, MethodConfig, ValueConfig, asked_answers
from kg_edit.methods.plug_ins import plug_in_code
from kg_edit.methods.presets import warn_of_another_model
from kg_edit.methods.workload import Trains
from kg_edit.models.architectures import refuse_recurrent
from kg_edit.models.device_memory import pass_megabytes
from kg_edit.models.hooks import refuse_patched, untouched
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Kind, Patch, as_patch
from kg_edit.patches.guards import with_weight_norms
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.registry import MethodEntry, method_entries
from kg_edit.storage.notebook import html_table
from kg_edit.storage.packaged import EXTRACT
from kg_edit.storage.run_folder import input_files
from kg_edit.version import __version__

log = logging.getLogger(__name__)
Made = TypeVar("Made")
Constructor = TypeVar("Constructor", bound=Callable[..., Any])
_OPTIMISER_BYTES = 16  # of a trained number: its gradient, Adam's two means and a copy, in float32


def hint_settings(on: Constructor) -> Constructor:
    """Let `EditingMethod.on` refuse an unknown option, which most often is a setting, by naming ``settings={…}``.

    Raises:
        ConfigError: the option is unknown, or given without its name.
    """
    options = [name for name, parameter in signature(on).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]

    @wraps(on)
    def checked(cls: type[EditingMethod], /, *given: Any, **named: Any) -> Any:
        if len(given) > 1:
            way = f"{cls.__name__}.on(model, settings={{'NAME': value}}), or {cls.__name__}(model, config)"
            raise ConfigError(f"found {describe(given[1])} after the model; give {way}")
        for name in named.keys() - {*options, "model"}:
            known = [*cls.config_class.model_fields]
            for group, field in cls.config_class.model_fields.items():
                if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                    known += [f"{group}.{inner}" for inner in field.annotation.model_fields]
            for setting in known:  # require_graph is graph.require
                if sorted(re.split("[._]", setting)) == sorted(name.split("_")):
                    nested = reduce(lambda value, part: {part: value}, reversed(setting.split(".")), named[name])
                    raise ConfigError(f"{name} is the setting {setting} of {cls.name}; give settings={nested!r}")
            near = did_you_mean(name, [*options, *known])
            raise ConfigError(
                f"unknown option {name!r}{near}; the options are {', '.join(options)}; a setting is given as "
                "settings={'NAME': value}"
            )
        return on(cls, *given, **named)

    return cast(Constructor, checked)


class EditingMethod(ABC):
    """Base class of an editing method. Computing an edit leaves the model unchanged, bit for bit.

    Attributes:
        entry: the method's entry in the registry, with its name, which listings show; the attributes from ``name`` to
            ``takes_text`` are those of the entry.
        name: the method's name, as ``--method`` takes it.
        family: which computation the method does (`kg_edit.methods.workload`); None: the planner can't estimate it.
        trains: what the method's optimiser trains.
        kind: what a patch of this method changes: weights, a layer's output (adapter) or the prompt.
        joint: true if all edits of a call are computed together (a batch); false if they are made in sequence, each on
            the model with the earlier edits applied.
        separable: whether an edit can be removed from a patch without computing the other edits again.
        needs_graph: whether the method needs a knowledge graph.
        takes_graph: whether it can read one, which depends on its settings, although it needs none.
        takes_text: whether it makes unstructured edits: a paragraph (``target_text``), and perhaps no subject.
        takes_recurrent: whether it edits models with recurrent blocks, of which there are no keys and values to keep.
        config_class: the class of the method's settings.
    """

    entry: ClassVar[MethodEntry]
    name: ClassVar[str]
    family: ClassVar[str | None] = None
    trains: ClassVar[Trains] = "nothing"
    kind: ClassVar[Kind] = "weights"
    joint: ClassVar[bool] = False
    separable: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    takes_graph: ClassVar[bool] = False
    takes_text: ClassVar[bool] = False
    takes_recurrent: ClassVar[bool] = True
    config_class: ClassVar[type[MethodConfig]]
    memory: float = 1000.0
    """MB that a forward pass may take besides the model, on a CPU; on an accelerator half of what is free there.

    It changes the speed, never the result.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Take the name and the flags from the class's entry."""
        super().__init_subclass__(**options)
        entry = vars(cls).get("entry")
        if entry is None:  # a base class of a family
            return
        cls.name = entry.name
        cls.family = entry.family or None
        cls.kind = entry.changes
        cls.joint = entry.joint
        cls.separable = entry.separable
        cls.needs_graph = entry.needs_graph
        cls.takes_text = entry.takes_text

    def __new__(cls, *given: object, **named: object) -> Self:
        """Refuse a model without settings, in the words of `on`."""
        if len(given) + len({"model", "config"} & named.keys()) == 1:
            raise ConfigError(f"a method needs its settings; give {cls.__name__}.on(model, settings={{…}})")
        return super().__new__(cls)

    def __init__(
        self, model: LanguageModel, config: MethodConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        self._refuse_no_graph(graph)
        if model.is_recurrent and not self.takes_recurrent:
            raise refuse_recurrent(model.name)
        warn_of_another_model(config.preset_name, model.text_config.to_dict())
        self.model, self.config, self._fingerprint = model, config, model.fingerprint
        self.memory = pass_megabytes(model.device) or self.memory
        self.graph = None if graph is None else self.source_of(graph)
        self.layers = config.written_layers(len(model.blocks))
        for layer in self.layers:  # raises early if the model has no such layer, or experts in the place of its matrix
            (model.block if self.family in (None, "low-rank") else model.down_projection)(layer)

    def source_of(self, graph: SubgraphSource | nx.DiGraph) -> SubgraphSource:
        """Return the source of subgraphs for a given ``graph``."""
        return as_source(graph)

    @property
    def layer(self) -> int:
        """The written block (0-based) of a method that writes one; the lowest one of others."""
        return self.layers[0]

    def __repr__(self) -> str:
        layers, parts = self.layers, [repr(self.model.name)]
        parts += [f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"] if layers else []
        parts += [f"graph {getattr(self.graph, 'about', type(self.graph).__name__)}"] if self.graph is not None else []
        settings = self.config.model_dump(exclude_defaults=True)
        return f"{type(self).__name__}({', '.join(parts)}{f', settings={settings}' if settings else ''})"

    def _repr_html_(self) -> str:
        fields = type(self.config).model_fields
        rows = [(name, getattr(self.config, name), field.description or "") for name, field in fields.items()]
        return html_table(repr(self), ("setting", "value", "what it is"), rows)

    @classmethod
    @hint_settings
    def on(
        cls,
        model: LanguageModel | str | Path,
        *,
        preset: str = "default",
        settings: dict[str, Any] | None = None,
        graph: SubgraphSource | nx.DiGraph | str | Path | None = None,
    ) -> Self:
        """Build this method for a model.

        Args:
            model: the language model, or its name, by which it is loaded.
            preset: the name of a preset, whose settings are used.
            settings: values that override single settings of the preset.
            graph: a graph; or a file of facts (facts.csv), a folder, URL, or name of a packaged graph, as `open_named`
                opens it. A method that needs a graph uses the packaged extract if none is given.

        Raises:
            ConfigError: the preset or a setting is unknown, a value is invalid, or the method reads no graph.
            KgEditError: there is no such model, or the graph can't be opened.
        """
        if graph is not None and not (cls.needs_graph or cls.takes_graph):
            raise ConfigError(f"graph has no effect: {cls.name} reads no graph; leave it out, or use another method")
        name = EXTRACT if graph is None and cls.needs_graph else graph
        opened = open_named(name) if isinstance(name, str | Path) else name
        return cls(as_model(model), cls.config_class.preset(preset, settings, method=cls.name), graph=opened)

    def edit(
        self,
        edits: Edits,
        *,
        start: Patch | str | Path | None = None,
        after_each: Callable[[Patch], object] = lambda _: None,
        guard: Callable[[Patch, Patch], object] = lambda new_patch, before: None,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ) -> Patch:
        """Make all ``edits`` and return one patch. The model itself is unchanged afterwards, also after an exception.

        Args:
            edits: the facts to change: edits, rows of their fields, or the path of a file of them.
            start: a patch made earlier, or its path; the result contains it, and the new edits are made on top of it.
            after_each: called with the patch so far after each batch of edits, so that a killed run can resume.
            guard: called with the new patch and the patch so far before the new one is added; it may raise.
            callbacks: get the losses of each step (`kg_edit.callbacks`).
            progress: whether to show a progress bar.

        Raises:
            KgEditError: an edit can't be made; the message says why, and a note names the edit.
        """
        requested = as_edits(edits)
        refuse_same_ids("edits", (edit.id for edit in requested))
        self.refuse_texts(requested)
        if self.joint:
            refuse_clash(requested)  # before anything is measured
        earlier = None if start is None else as_patch(start)
        if earlier is not None:
            earlier.check_model(self.model)  # before any work, and so that it is not taken for a fault of a plug-in
        self._prepare_unpatched()  # before ``start`` is applied, so that the patch is the same with and without it
        patch = self.empty_patch() if earlier is None else earlier
        with Bar(title=self.name, unit="edit", total=len(requested), shown=progress) as bar:
            for batch in self._batches(requested):
                seen = (*callbacks, StepNotes(bar.note))
                with annotate_errors(*batch), watched(seen, [edit.id for edit in batch]):
                    new_patch = self._recorded(self._make_batch(batch, patch), batch)
                    guard(new_patch, patch)
                    patch = patch + new_patch
                    after_each(patch)
                bar.update(len(batch))
        return patch

    def update(self, edits: Edits, *, before: Patch | str | Path | None = None, progress: bool = False) -> Patch:
        """Make ``edits`` on the model with the patch ``before`` applied, and return a patch of these edits alone.

        It differs from `edit` with ``start=before`` in one point: the result does not contain ``before``.

        Raises:
            KgEditError: an edit can't be made; the message says why, and a note names the edit.
        """
        update = [self.empty_patch()]
        self.edit(edits, start=before, guard=lambda patch, _: update.append(patch), progress=progress)
        return reduce(add, update)

    def edit_each(self, edits: Edits) -> tuple[Patch | Exception, ...]:
        """Make each edit alone, on the unedited model.

        The patches are the same, up to rounding, as from one call of `edit` for each edit.

        Returns:
            For each edit, its patch, or the exception of `FAILURES` that it raised.
        """
        requested = as_edits(edits)
        self.refuse_texts(requested)
        self._prepare_unpatched()
        outcomes = list[Patch | Exception]()
        for edit, result in zip(requested, self.make_each(requested), strict=True):
            if isinstance(result, Exception):
                outcomes.append(result)
                continue
            patch = with_weight_norms(self._fitting(result), self.model)
            outcomes.append(attempt(edit, partial(self._recorded, patch, [edit])))
        return tuple(outcomes)

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Return for each edit its patch, or its exception; callers use `edit_each`.

        Some methods override this to compute all of them together, which is faster. ``before`` is the patch that is
        applied to the model, if any.
        """
        before = self.empty_patch() if before is None else before
        return tuple(attempt(edit, partial(self.make, (edit,), before=before)) for edit in edits)

    @property
    def plug_in(self) -> dict[str, str | None] | None:
        """The package, version and hash of the code, if another package has the method as a plug-in."""
        return plug_in_code(self.entry.target)

    def start_anew(self) -> None:  # noqa: B027 - most methods keep nothing from edit to edit
        """Forget the state that earlier edits left for later ones, such as GLAME's R-GNN with ``warm_start``."""

    def _prepare_unpatched(self) -> None:
        """Run `prepare` on the model without a patch, because measurements are stored under the model's name."""
        refuse_patched(self.model)
        if self.model.fingerprint != self._fingerprint:  # contexts and C are those of the model before
            name = type(self).__name__
            raise PatchError(
                f"a patch was merged into the model since this {name} was made; make it again: {name}.on(…)"
            )
        self.prepare()

    def empty_patch(self) -> Patch:
        """Return a patch that changes nothing, with this method's provenance."""
        return WeightPatch(factors={}, provenance=self.provenance())

    def _batches(self, edits: Sequence[Edit]) -> Iterator[Sequence[Edit]]:
        """Yield the batches for `make`: one batch of all edits if the method is joint, else one edit per batch."""
        if self.joint:
            yield edits
        else:
            yield from ((edit,) for edit in edits)

    def _make_batch(self, edits: Sequence[Edit], before: Patch) -> Patch:
        with before.applied(self.model):
            patch = self.make(edits, before=before)
        return with_weight_norms(self._fitting(patch), self.model)

    def _fitting(self, patch: object) -> Patch:
        """Return what ``make`` returned, if it is a patch whose changes have the shapes of the model's weights."""
        if not isinstance(patch, Patch):  # a plug-in forgot to return it
            raise TypeError(f"make returned {patch!r:.80}; expected a Patch")
        if isinstance(patch, WeightPatch):
            patch.modules(self.model)
        return patch

    def _recorded(self, patch: Patch, edits: Sequence[Edit]) -> Patch:
        """Return the patch of ``edits`` with what its method left out: the provenance, and the records of edits.

        The records of a joint method have the size of their batch, so that a ledger computes the same batches again.

        Raises:
            PatchError: the patch has a value that is not finite.
        """
        patch.check_finite()
        recorded = {record.get("edit", {}).get("id") for record in patch.edits}
        records = [*patch.edits, *(self.record(edit) for edit in edits if edit.id not in recorded)]
        if self.joint:
            records = [{**record, "batch": len(edits)} for record in records]
        return patch if records == [*patch.edits] else patch.with_records(records, self.provenance())

    def record(self, edit: Edit) -> dict[str, Any]:
        """Return the record of an edit for a patch's provenance; a method may add what it notes of the edit."""
        return {"edit": edit.model_dump(mode="json", exclude_defaults=True), "method": self.name}

    @property
    def reads_graph(self) -> bool:
        """Whether the method reads the given graph; by default, whether it needs one."""
        return self.needs_graph

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """Which graph the method reads: its files and hashes, or its URL without a date. None if it reads no graph."""
        if self.graph is None or not self.reads_graph:
            return None
        return graph_identity(self.graph)

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs that need no model, before the model is loaded.

        Raises:
            KgEditError: the method needs a graph and none is given, it does not take an edit's text, or a setting that
                was changed has no effect.
        """
        cls._refuse_no_graph(graph)
        cls.refuse_texts(edits)
        config.refuse_idle()

    @classmethod
    def refuse_texts(cls, edits: Iterable[Edit]) -> None:
        """Refuse unstructured edits, unless the method takes them.

        Raises:
            EditError: an edit has a ``target_text``; the message names the methods that take it.
        """
        text = next((edit for edit in edits if edit.target_text), None)
        if text is None or cls.takes_text:
            return
        able = ", ".join(entry.name for entry in method_entries().values() if entry.takes_text)
        message = f"{cls.name} does not make unstructured edits, such as the edit {text.id!r}; methods that do: {able}"
        raise EditError([Fault("target_text", message)])

    @classmethod
    def _refuse_no_graph(cls, graph: object | None) -> None:
        if cls.needs_graph and graph is None:
            raise ConfigError(f"the method {cls.name} needs a knowledge graph; give graph=... (CLI: --graph)")

    def prepare(self) -> None:  # noqa: B027 - a method may have nothing to prepare
        """Compute once what all edits share, such as contexts and covariances."""

    def check(self, edits: Sequence[Edit]) -> None:  # noqa: B027 - a method may have nothing to check
        """Check all ``edits`` before the first one is made.

        Raises:
            KgEditError: an edit can't be made.
        """

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph | None:
        """Return the subgraph that this method reads for ``edit``; None if it reads no graph."""
        return None

    @property
    def stated(self) -> Mapping[str, bool]:
        """For each edit whose subgraph was read, by its id: whether it has statements of o*; empty with `NoGraph`."""
        return {}

    def why_alone(self, edit: Edit) -> str:
        """Return why this method reads s -r-> o* alone, in words; "" if it reads more, or no graph."""
        return ""

    @abstractmethod
    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return the patch of ``edits``. Subclasses implement this; callers use `edit` or `update`.

        The provenance of the patch may have a record of each edit with what the method notes of it, as
        ``{"edit": …, "method": …}``; the records that are missing are added.

        Args:
            edits: one edit, unless the method is joint.
            before: the patch that is already applied to the model.
        """

    def provenance(self) -> dict[str, Any]:
        """Return what every patch of this method records: model, versions, method, settings, input files."""
        files = self._input_files
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
                    **({"files_sha256": files} if files else {}),
                }
            ],
        }

    @cached_property
    def _input_files(self) -> dict[str, str]:
        """The SHA-256 of files that settings name: hashed once, and not for every patch."""
        return input_files(self.config)


SUBGRAPHS = 1024
"""The number of subgraphs that a method caches: a server makes edits for as long as it runs."""


class GraphReader(EditingMethod):
    """Mixin that gives a method the subgraph of each edit; put it before the method in the list of base classes.

    The subgraph of an edit is fetched from the graph once; the last `SUBGRAPHS` of them are cached.
    """

    needs_graph = True
    config: GraphSettings
    _reported = False

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and ask the graph for every edit's subgraph."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, GraphSettings) and graph is not None  # noqa: S101 - needs_graph
        others = []
        for edit in edits:
            with annotate_errors(edit):
                subgraph = config.ask(graph, edit)
                config.check_subgraph(edit, subgraph)
            if label := other_label(subgraph, edit):
                others.append(f"edit {edit.id!r}: {edit.target_new_id} is {label!r}, not {edit.target_new!r}")
        if others:
            log.warning(
                "%d of %d edits have a target_new_id with another label in the graph, so their subgraphs may be about "
                "something else: %s",
                *(len(others), len(edits), "; ".join(others[:3])),
            )

    @cached_property
    def _subgraphs(self) -> dict[Edit, nx.MultiDiGraph]:
        return {}

    @cached_property
    def stated(self) -> dict[str, bool]:
        """For each edit whose subgraph was read, by its id: whether it has statements of o*; empty with `NoGraph`."""
        return {}

    def subgraph(self, edit: Edit) -> nx.MultiDiGraph:
        """Return the edit's subgraph, fetched once."""
        assert self.graph is not None  # noqa: S101 - needs_graph
        if edit not in self._subgraphs:
            if len(self._subgraphs) >= SUBGRAPHS:
                del self._subgraphs[next(iter(self._subgraphs))]
            self._subgraphs[edit] = self.config.ask(self.graph, edit)
            self._report_answers(edit)
            if states_nothing(self.graph):  # each edit reads its own fact alone, by choice
                return self._subgraphs[edit]
            if (why := self.why_alone(edit)) and all(self.stated.values()):  # said once per run
                log.warning("edit %r: %s", edit.id, why)
            self.stated[edit.id] = not why
        return self._subgraphs[edit]

    def why_alone(self, edit: Edit) -> str:
        """Return why this method reads s -r-> o* alone, in words; "" if the subgraph has statements of o*."""
        if has_statements(subgraph := self.subgraph(edit)):
            return ""
        near = "" if edit.target_new_id else "; wikidata-cache link finds other spellings"
        if isinstance(self.graph, PrivateGraph):
            near = self.graph.near(edit.target_new)
        return f"{why_alone(subgraph, edit, self.config.graph)}{near}, so {self.name} reads s -r-> o* alone"

    def answers_met(self, edit: Edit) -> list[str]:
        """Return the labels in the edit's subgraph that overlap an answer of its test questions or its record's probes.

        Raises:
            KgEditError, WikidataCacheError: the graph has no o*.
        """
        answers, graph = self.test_answers(edit), self.subgraph(edit)
        return sorted(str(graph.nodes[node]["label"]) for node in answers_in(graph, answers)) if answers else []

    def test_answers(self, edit: Edit) -> tuple[str, ...]:
        """Return the answers of the edit's test questions, and of its record's probes if the graph knows them."""
        return (*asked_answers(edit), *probe_answers(self.graph, edit))

    def _report_answers(self, edit: Edit) -> None:
        """Log once per run that the subgraph has answers to a benchmark's test questions, which an evaluation names.

        Elsewhere a method is meant to read these facts: an answer that follows from an edit of one's own.
        """
        if self._reported or self.config.exclude_answers or not probe_answers(self.graph, edit):
            return
        try:  # an incomplete subgraph has no answers to look up; the code that uses it raises the error
            check_graph(self._subgraphs[edit])
            target_of(self._subgraphs[edit])
        except GraphError:
            return
        if met := self.answers_met(edit):
            self._reported = True
            log.info(
                "edit %r: the graph that %s reads contains %s, with words of an answer to a test question of this "
                "record; leave such answers out with the setting exclude_answers=true (--set exclude_answers=true)",
                edit.id,
                self.name,
                ", ".join(map(repr, met[:3])),
            )


class ValueMethod(EditingMethod):
    """A method that finds values by descent and writes them under keys; it holds layers, contexts and covariances.

    Contexts and covariances may be passed in. Otherwise the model samples the contexts, and C is loaded or measured.
    """

    trains: ClassVar[Trains] = "value"
    site: Site = "value"  # which output of the last written block a value is
    config: ValueConfig

    def __init__(
        self,
        model: LanguageModel,
        config: ValueConfig,
        *,
        graph: SubgraphSource | nx.DiGraph | None = None,
        contexts: tuple[str, ...] | None = None,
        covariances: Mapping[int, Covariance] | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(model, config, graph=graph)
        self._given_contexts, self._given_covariances = contexts, covariances
        self._progress = progress

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around the prompt, so that the edit holds after other text; the first is the bare ``{}``."""
        if self._given_contexts is not None:
            return self._given_contexts
        with untouched(self.model):  # `check` or `provenance` may ask first, of a model in training mode
            return self.sampled_contexts()

    @abstractmethod
    def sampled_contexts(self) -> tuple[str, ...]:
        """Return contexts sampled from the model, according to the settings."""

    @cached_property
    def covariances(self) -> Mapping[int, Covariance]:
        """By layer, the second moment C [d_ff, d_ff] of the inputs of the edited down-projection."""
        given = self._given_covariances or {}
        layers = [layer for layer in self.layers if layer not in given]
        rest = find_covariances(self.model, layers, self.config.covariance, progress=self._progress) if layers else {}
        return {**given, **rest}

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and open the corpus that C is measured from."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, ValueConfig)  # noqa: S101 - config_class
        open_corpus(config.covariance.corpus, seed=config.covariance.seed)

    @cached_property
    def value_norm(self) -> float:
        """The mean norm of the unedited model's values, for the setting ``anchor``."""
        with untouched(self.model):  # `provenance` may ask first, as for the contexts
            return mean_value_norm(
                self.model,
                # The layer of the values: the last written one, but GLAME-Plus' second layer has no value of this kind.
                self.layers[-1 if self.family == "joint" else 0],
                self.contexts,
                site=self.site,
                clamp=self.config.clamp_norm_factor,
                stops=self.config.stops,
            )

    @property
    def parameters(self) -> int:
        """The number of values that are trained for an edit: those of its change."""
        return self.model.width

    def portions(self, requests: Sequence[Request]) -> Iterator[slice]:
        """Yield the parts of ``requests`` for which what each keeps during a descent fits into ``memory`` at once.

        That is the keys and values of its prompts, in every block, and what it trains, with gradients and Adam's means.
        Those of the contexts are kept once, if the model's attention allows it (`SharedContexts.prefix`).
        """
        token = 2 * self.model.width * len(self.model.blocks) * self.model.model.dtype.itemsize
        rows = [row for request in requests for row in request.rewrites]
        shares = mask_decides(self.model, max((len(row.ids) for row in rows), default=0))
        starts = list(dict.fromkeys(context_starts(self.model, self.contexts))) if shares else []
        shared = token * len(starts) * max(map(len, starts), default=0)  # padded to the longest

        def own_tokens(row: Prompt) -> int:
            longest = longest_start(starts, row.ids)
            return len(row.ids) - (0 if longest is None else len(starts[longest]))

        start, size = 0, float(shared)
        for index, request in enumerate(requests):
            padded = len(request.rewrites) * max(map(own_tokens, request.rewrites))
            needed = token * padded + _OPTIMISER_BYTES * self.parameters
            if index > start and size + needed > self.memory * 1e6:
                yield slice(start, index)
                start, size = index, float(shared)
            size += needed
        if requests:
            yield slice(start, len(requests))

    def prepare(self) -> None:
        """Sample the contexts, load or measure the covariances, and with ``anchor`` measure the values' norm."""
        _ = self.contexts, self.covariances
        _ = self.config.anchor and self.value_norm

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, and the norm of ``anchor`` if it is on."""
        provenance = super().provenance()
        if self.config.anchor:
            provenance["methods"][0] |= {"value_norm": self.value_norm}
        return provenance


def attempt(edit: Edit, make: Callable[[], Made]) -> Made | Exception:
    """Call ``make`` and return its result, or the exception of `FAILURES` that it raised, with a note of the edit."""
    try:
        with annotate_errors(edit):
            return make()
    except FAILURES as error:
        return error


@contextmanager
def annotate_errors(*edits: Edit) -> Iterator[None]:
    """Add a note to any exception of the ``with`` block: the edit, or the first and last edit of a batch."""
    try:
        yield
    except Exception as error:
        if not edits:
            raise
        first, *_, last = (*edits, *edits)
        note = f"in the edit {first.id!r}: {first.text!r} -> {first.target_new!r}"
        if len(edits) > 1:
            note = f"in a batch of {len(edits)} edits, {first.id!r} to {last.id!r}"
        if note not in getattr(error, "__notes__", ()):  # nested calls would note the same edit twice
            error.add_note(note)
        raise
