"""The base class of all editing methods: a frozen config, and two verbs, ``edit`` and ``edit_each``.

A method implements one verb, `EditingMethod.make`: the patch of its edits on the model as it is. Methods that find
values by descent have the base class `ValueMethod` (`value_method.py`), those that read a graph `GraphMethod`
(`graph_reader.py`); this file knows neither.

What the base class calls, in this order:

    edit:       prepare once; then for each batch: make on the model with the earlier edits, _finish, guard, after_each
    edit_each:  prepare once; make_each on the unedited model; then _finish for each patch

``before`` is a patch that is on the model while edits are made. In `edit` it is the caller's patch, which the result
does not contain. In `make` and `make_each` it is all that is applied: that patch, and the result so far on top of it.

`check` and `check_inputs` are for callers that want all errors before the first edit is made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from kg_common.progress import Bar
from kg_edit.callbacks import Callback, StepNotes, send_losses
from kg_edit.edits.edit import Edit, refuse_clash, refuse_same_ids
from kg_edit.edits.inputs import Edits, as_edits
from kg_edit.errors import FAILURES, ConfigError, EditError, Fault, PatchError
from kg_edit.methods.config import MethodConfig, Trains
from kg_edit.models.architectures import refuse_quantised, refuse_recurrent
from kg_edit.models.devices import pass_megabytes
from kg_edit.models.hooks import refuse_patched
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.patches.base import ChangedPart, Patch, as_patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.registry import MethodEntry, method_entries, plug_in_code
from kg_edit.storage.setting_fields import input_files
from kg_edit.version import __version__, code_sha256

# Families that train or rewrite the stored weight itself: a quantised layer does not store it as plain numbers
_CHANGE_STORED_WEIGHTS = ("fine-tuning", "adapter", "neurons", "gradient", "hypernetwork")


class EditingMethod(ABC):
    """Base class of an editing method. Computing an edit leaves the model unchanged, bit for bit.

    Attributes:
        entry: the method's entry in the registry, which listings show; the attributes from ``name`` to ``takes_text``
            are those of the entry.
        name: the method's name, as ``--method`` takes it.
        family: which computation the method does (`kg_edit.methods.config`); None: its own, which the planner can't
            estimate.
        changed_part: what a patch of this method changes: weights, a layer's output (adapter) or the prompt.
        joint: true if all edits of a call are computed together (a batch); false if they are made in sequence, each on
            the model with the earlier edits applied.
        separable: whether an edit can be removed from a patch without computing the other edits again.
        needs_graph: whether the method needs a knowledge graph.
        takes_text: whether it makes unstructured edits: a paragraph (``target_text``), and perhaps no subject.
        takes_graph: whether it can read a graph, which depends on its settings, although it needs none.
        takes_recurrent: whether it edits models with recurrent blocks, of which there are no keys and values to keep.
        trains: what the method's optimiser trains.
        config_class: the class of the method's settings.
    """

    entry: ClassVar[MethodEntry]
    name: ClassVar[str]
    family: ClassVar[str | None] = None
    changed_part: ClassVar[ChangedPart] = "weights"
    joint: ClassVar[bool] = False
    separable: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    takes_text: ClassVar[bool] = False
    takes_graph: ClassVar[bool] = False
    takes_recurrent: ClassVar[bool] = True
    trains: ClassVar[Trains] = "nothing"
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
        cls.changed_part = entry.changes
        cls.joint = entry.joint
        cls.separable = entry.separable
        cls.needs_graph = entry.needs_graph
        cls.takes_text = entry.takes_text

    def __init__(self, model: LanguageModel, config: MethodConfig, *, graph: Any = None) -> None:
        self._refuse_no_graph(graph)
        if model.is_quantised and self.family in _CHANGE_STORED_WEIGHTS:
            refuse_quantised(self.name)
        if model.is_recurrent and not self.takes_recurrent:
            refuse_recurrent(model.name)
        # A preset that the class does not define has the published settings of one model, which may be another one.
        if config.preset_name not in config.preset_names():
            from kg_edit.methods.presets import warn_of_another_model  # reads a table of all published presets

            warn_of_another_model(config.preset_name, model.text_config.to_dict())
        self.model = model
        self.config = config
        self.graph: Any = graph
        self.memory = pass_megabytes(model.device) or self.memory
        self.layers = config.written_layers(len(model.blocks))
        self._fingerprint = model.fingerprint
        self._check_layers()

    def _check_layers(self) -> None:
        """Check early that the model has the written layers, and there the matrix that the family writes.

        Most families write the down-projection, in whose place a mixture of experts has others. LoRA ("low-rank") and
        methods without a family may write something else.
        """
        for layer in self.layers:
            self.model.block(layer)
            if self.family not in (None, "low-rank"):
                self.model.down_projection(layer)

    @property
    def layer(self) -> int:
        """The written block (0-based) of a method that writes one; the lowest one of others."""
        return self.layers[0]

    def __repr__(self) -> str:
        parts = [repr(self.model.name)]
        if self.layers:
            noun = "layer" if len(self.layers) == 1 else "layers"
            parts.append(f"{noun} {', '.join(str(layer) for layer in self.layers)}")
        if self.graph is not None:
            about = getattr(self.graph, "about", type(self.graph).__name__)
            parts.append(f"graph {about}")
        settings = self.config.model_dump(exclude_defaults=True)
        if settings:
            parts.append(f"settings={settings}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_html_(self) -> str:
        from kg_edit.storage.notebook import html_table  # an edit draws no table

        fields = type(self.config).model_fields
        rows = [(name, getattr(self.config, name), field.description or "") for name, field in fields.items()]
        return html_table(repr(self), ("setting", "value", "what it is"), rows)

    @classmethod
    def on(
        cls,
        model: LanguageModel | str | Path,
        *,
        preset: str = "default",
        settings: dict[str, Any] | None = None,
        graph: Any = None,
    ) -> Self:
        """Build this method for a model.

        Args:
            model: the language model, or its name, by which it is loaded.
            preset: the name of a preset, whose settings are used.
            settings: values that override single settings of the preset.
            graph: a graph; or a file of facts (facts.csv), a folder, URL, or name of a packaged graph. A method that
                needs a graph uses the packaged extract if none is given (`kg_edit.methods.graph_reader`).

        Raises:
            ConfigError: the preset or a setting is unknown, a value is invalid, or the method reads no graph.
            KgEditError: there is no such model, or the graph can't be opened.
        """
        if graph is not None and not (cls.needs_graph or cls.takes_graph):
            raise ConfigError(f"graph has no effect: {cls.name} reads no graph; leave it out, or use another method")
        config = cls.config_class.preset(preset, settings, method=cls.name)
        opened = cls.open_graph(graph)  # before the model, which may take minutes to load
        return cls(as_model(model), config, graph=opened)

    @classmethod
    def open_graph(cls, graph: Any) -> Any:
        """Return the graph that `on` was given, opened; this base class opens none."""
        return graph

    def edit(
        self,
        edits: Edits,
        *,
        start: Patch | str | Path | None = None,
        before: Patch | str | Path | None = None,
        after_each: Callable[[Patch], object] = lambda _: None,
        guard: Callable[[Patch, Patch], object] = lambda new_patch, so_far: None,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ) -> Patch:
        """Make all ``edits`` and return one patch. The model itself is unchanged afterwards, also after an exception.

        Args:
            edits: the facts to change: edits, rows of their fields, or the path of a file of them.
            start: a patch made earlier, or its path; the result contains it, and the new edits are made on top of it.
            before: a patch, or its path, that the model has while the edits are made; the result does not contain it.
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
        start_patch = None if start is None else as_patch(start)
        before_patch = None if before is None else as_patch(before)
        for earlier_patch in (start_patch, before_patch):
            if earlier_patch is not None:
                earlier_patch.check_model(self.model)  # before any work
        self._prepare_unpatched()  # before a patch is applied, so that the result is the same with and without it
        so_far = self.empty_patch() if start_patch is None else start_patch  # the result, which grows batch by batch

        with Bar(title=self.name, unit="edit", total=len(requested), shown=progress) as bar:
            for batch in self._batches(requested):
                watchers = (*callbacks, StepNotes(bar.note, most=self.config.most_steps))
                with annotate_errors(*batch), send_losses(watchers, [edit.id for edit in batch]):
                    applied = so_far if before_patch is None else before_patch + so_far
                    new_patch = self._make_batch(batch, before=applied)
                    new_patch = self._finish(new_patch, batch)
                    guard(new_patch, so_far)
                    so_far = so_far + new_patch
                    after_each(so_far)
                bar.update(len(batch))
        return so_far

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
            try:
                with annotate_errors(edit):
                    outcomes.append(self._finish(result, [edit]))
            except FAILURES as error:
                outcomes.append(error)
        return tuple(outcomes)

    @abstractmethod
    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Return the patch of ``edits``: the one verb that a method implements. Callers use `edit`.

        The provenance of the patch may have a record of each edit with what the method notes of it, as
        ``{"edit": …, "method": …}``; the records that are missing are added.

        Args:
            edits: one edit, unless the method is joint.
            before: all that is applied to the model: ``before`` of `edit`, and the result so far on top of it.
        """

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Return for each edit, made alone, its patch or its exception. Callers use `edit_each`.

        Methods whose edits share a descent override this. ``before`` is the patch that is applied to the model.
        """
        applied = self.empty_patch() if before is None else before
        outcomes = list[Patch | Exception]()
        for edit in edits:
            try:
                with annotate_errors(edit):
                    outcomes.append(self.make((edit,), before=applied))
            except FAILURES as error:
                outcomes.append(error)
        return tuple(outcomes)

    def prepare(self) -> None:  # noqa: B027 - a method may have nothing to prepare
        """Compute once what all edits share, such as contexts and covariances."""

    def start_anew(self) -> None:  # noqa: B027 - most methods keep nothing from edit to edit
        """Forget the state that earlier edits left for later ones, such as GLAME's R-GNN with ``warm_start``."""

    def check(self, edits: Sequence[Edit]) -> None:  # noqa: B027 - a method may have nothing to check
        """Check all ``edits`` before the first one is made.

        Raises:
            KgEditError: an edit can't be made.
        """

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: Any, edits: Sequence[Edit]) -> None:
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
        if cls.takes_text:
            return
        for edit in edits:
            if edit.target_text:
                able = [entry.name for entry in method_entries().values() if entry.takes_text]
                found = f"{cls.name} does not make unstructured edits, such as the edit {edit.id!r}"
                raise EditError([Fault("target_text", f"{found}; methods that do: {', '.join(able)}")])

    @classmethod
    def _refuse_no_graph(cls, graph: object | None) -> None:
        if cls.needs_graph and graph is None:
            raise ConfigError(f"the method {cls.name} needs a knowledge graph; give graph=... (CLI: --graph)")

    def empty_patch(self) -> Patch:
        """Return a patch that changes nothing, with this method's provenance."""
        return WeightPatch(factors={}, provenance=self.provenance())

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """Which graph the method reads; None if it reads none."""
        return None

    @property
    def plug_in(self) -> dict[str, str | None] | None:
        """The package, version and hash of the code, if another package has the method as a plug-in."""
        return plug_in_code(self.entry.target)

    def _prepare_unpatched(self) -> None:
        """Run `prepare` on the model without a patch, because measurements are stored under the model's name."""
        refuse_patched(self.model)
        if self.model.fingerprint != self._fingerprint:  # contexts and C were measured on the model as it was
            name = type(self).__name__
            raise PatchError(
                f"a patch was merged into the model since this {name} was made; make it again: {name}.on(…)"
            )
        self.prepare()

    def _batches(self, edits: Sequence[Edit]) -> Iterator[Sequence[Edit]]:
        """Yield the batches for `make`: one batch of all edits if the method is joint, else one edit per batch."""
        if self.joint:
            yield edits
            return
        for edit in edits:
            yield (edit,)

    def _make_batch(self, edits: Sequence[Edit], before: Patch) -> Patch:
        """Call `make` with ``before`` applied to the model."""
        with before.applied(self.model):
            return self.make(edits, before=before)

    def _finish(self, patch: Patch, edits: Sequence[Edit]) -> Patch:
        """Check what `make` returned for ``edits``, and add what it left out: the weights' norms, records of edits."""
        if isinstance(patch, WeightPatch):
            patch.modules(self.model)  # raises if a shape differs
            patch = patch.with_weight_norms(self.model)
        patch.check_finite()
        records = self._complete_records(patch, edits)
        if records == list(patch.edits):
            return patch
        # The records are a part of the provenance. Other parts that the patch lacks, such as the model, are added too.
        return patch.with_records(records, self.provenance())

    def _complete_records(self, patch: Patch, edits: Sequence[Edit]) -> list[Mapping[str, Any]]:
        """Return the records of a patch, with one for each of ``edits`` that has none.

        The records of a joint method have the size of their batch, so that a ledger computes the same batches again.
        """
        records = list[Mapping[str, Any]](patch.edits)
        recorded_ids = {record.get("edit", {}).get("id") for record in records}
        for edit in edits:
            if edit.id not in recorded_ids:
                records.append(self.record(edit))
        if self.joint:
            records = [{**record, "batch": len(edits)} for record in records]
        return records

    def record(self, edit: Edit) -> dict[str, Any]:
        """Return the record of an edit for a patch's provenance; a method may add what it notes of the edit."""
        return {"edit": edit.model_dump(mode="json", exclude_defaults=True), "method": self.name}

    def provenance(self) -> dict[str, Any]:
        """Return what every patch of this method records: model, versions, method, settings, input files."""
        method: dict[str, Any] = {"name": self.name, "config": self.config.model_dump(mode="json")}
        if self._input_files:
            method["files_sha256"] = self._input_files
        return {
            "model": {
                "name": self.model.name,
                "fingerprint": self.model.fingerprint,
                "dtype": str(self.model.model.dtype),  # the fingerprint survives a cast, an edit does not
                "stored": self.model.precision,
            },
            "code_sha256": self._code_sha256,
            "versions": {
                "kg_edit": __version__,
                "torch": torch.__version__,
                "transformers": version("transformers"),
            },
            "methods": [method],
        }

    @cached_property
    def _code_sha256(self) -> str:
        """The SHA-256 of the code: read once, and not for every patch."""
        return code_sha256()

    @cached_property
    def _input_files(self) -> dict[str, str]:
        """The SHA-256 of files that settings name: hashed once, and not for every patch."""
        return input_files(self.config)


@contextmanager
def annotate_errors(*edits: Edit) -> Iterator[None]:
    """Add a note to any exception of the ``with`` block: the edit, or the first and last edit of a batch."""
    try:
        yield
    except Exception as error:
        if not edits:
            raise
        first = edits[0]
        note = f"in the edit {first.id!r}: {first.text!r} -> {first.target_new!r}"
        if len(edits) > 1:
            note = f"in a batch of {len(edits)} edits, {first.id!r} to {edits[-1].id!r}"
        if note not in getattr(error, "__notes__", ()):  # nested calls would note the same edit twice
            error.add_note(note)
        raise
