"""Turn options into a method: its name, preset, settings, layer and graph are checked before a model is loaded.

`plan_method` makes a `MethodPlan` from the options; `MethodPlan.usable` checks the edits, and `MethodPlan.on` makes the
method. Then come the model, the choice of a method, and the graph of the options.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from kg_common.progress import log_progress
from kg_edit.errors import ConfigError, GraphError, KgEditError
from kg_edit.languages import ENGLISH
from kg_edit.methods.registry import find_method
from kg_edit.models.loading import check_model_name
from kg_edit.registry import load_service
from kg_edit.storage.packaged import EXTRACT, check_graph_name, packaged_graph
from kg_edit.text.display import plain
from wikidata_cache.errors import (
    AmbiguousLabelError,
    EntityNotInGraphError,
    UnknownLabelError,
    WikidataCacheError,
)

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.graphs.private_graph import PrivateGraph
    from kg_edit.graphs.source import SubgraphSource
    from kg_edit.methods import EditingMethod, MethodConfig
    from kg_edit.models.language_model import LanguageModel
    from wikidata_cache import WikidataCache


AUTO = "auto"
# Methods whose preset `fast` scores as their default does (docs/speed.md#preset-fast)
_FAST_IS_AS_GOOD = ("rome", "memit", "alphaedit")
_SHOWN = 20  # edits that can't be made, in a message
# Errors of one edit and the graph, which are listed for all edits of a file
_OF_THE_GRAPH = (AmbiguousLabelError, UnknownLabelError, EntityNotInGraphError, GraphError)

log = logging.getLogger(__name__)


def parse_relations(text: str | None) -> tuple[str, ...]:
    """Parse the property ids of ``--relations``; () if the option is absent."""
    ids = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    for property_id in ids:
        if not re.fullmatch(r"P[1-9][0-9]*", property_id):
            raise ConfigError(f"--relations: expected property ids such as P17,P19; found {property_id!r}")
    return ids


def parse_settings(pairs: list[str], *, layer: str | None = None, corpus: str | None = None) -> dict[str, Any]:
    """Parse NAME=VALUE pairs; a value is JSON if it can be parsed, else text.

    Args:
        pairs: the texts of ``--set``.
        layer: the value of ``--layer``.
        corpus: the value of ``--corpus``, which is the setting covariance.corpus.
    """
    all_pairs = list(pairs)
    if layer is not None:
        all_pairs.append(f"layer={layer}")
    if corpus is not None:
        all_pairs.append(f"covariance.corpus={corpus}")
    settings: dict[str, Any] = {}
    for pair in all_pairs:
        path, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: expected NAME=VALUE, such as --set steps=30")
        name = ".".join(part.strip() for part in path.split("."))
        if name in settings:
            raise ConfigError(f"{name} is set twice, the second time by {pair!r}; keep one")
        try:
            settings[name] = json.loads(text)
        except (ValueError, RecursionError):
            settings[name] = text
    return settings


@dataclass(frozen=True)
class MethodPlan:
    """A method with its settings and graph, before a model is loaded."""

    method: type[EditingMethod]
    config: MethodConfig
    graph: SubgraphSource | None  # as the method reads it
    auto: bool = False  # choose the layer once the model is loaded
    sweep: Any = None  # how the layer was chosen: the outcome of the service "layer choice"
    memory: float | None = None  # MB that a pass may use besides the model

    def usable(
        self,
        edits: Sequence[Edit],
        *,
        file: Path | None = None,
        graph: Sequence[str] | None = None,
        keep_going: bool = False,
    ) -> tuple[Edit, ...]:
        """Check the edits as far as possible without a model; return the edits that can be made.

        Args:
            edits: the edits to check.
            file: the file of the edits; if it has ambiguous or unknown names, the command that resolves them is shown.
            graph: the texts of ``--graph``, for that command.
            keep_going: leave out edits that can't be made, and list them on stderr.
        """
        with doing("checking the edits"):
            error = self._check(edits)
            if error is None:
                return tuple(edits)
            is_listed = keep_going or (file is not None and isinstance(error, _OF_THE_GRAPH))
            if not edits or not is_listed:
                raise error
            faults = self._find_faults(edits, error)
        if not faults:  # the error is of several edits together
            raise error
        if not keep_going:
            command = None
            if file is not None:
                command = link_command(file, graph)
            raise _join_faults(faults, command)
        if len(faults) == len(edits):  # nothing is left to make: a wrong setting, for example, is an error of each edit
            raise faults[edits[0]]
        for edit, fault in faults.items():
            typer.echo(f"skipped: {edit.id}: {fault}", err=True)
        return tuple(edit for edit in edits if edit not in faults)

    def _check(self, edits: Sequence[Edit]) -> Exception | None:
        """Check the settings, the graph and the edits together; return the first error, or None."""
        try:
            self.method.check_inputs(self.config, self.graph, edits)
        except (KgEditError, WikidataCacheError) as error:
            return error
        return None

    def _find_faults(self, edits: Sequence[Edit], error: Exception) -> dict[Edit, Exception]:
        """Return the error of each wrong edit among ``edits``; ``error`` is that of their check together.

        Each check opens what all edits share, such as the corpus of C. So it is not called for each edit: only a half
        with an error is halved again. An error that only several edits together have is not found in their halves.
        """
        if len(edits) == 1:
            return {edits[0]: error}
        middle = len(edits) // 2
        faults: dict[Edit, Exception] = {}
        for half in (edits[:middle], edits[middle:]):
            error_of_half = self._check(half)
            if error_of_half is not None:
                faults |= self._find_faults(half, error_of_half)
        return faults

    def with_layer(self, model: LanguageModel, edits: Sequence[Edit]) -> MethodPlan:
        """Return the plan with its layer chosen on a few of ``edits``, if that was asked for (--layer auto)."""
        if not self.auto:
            return self

        def make_method(config: MethodConfig) -> EditingMethod:
            return self.method(model, config, graph=self.graph)

        sweep = load_service("layer choice").auto_layer(make_method, model, self.config, edits)
        config = self.config.model_copy(update={"layer": sweep.chosen})
        return replace(self, config=config, auto=False, sweep=sweep)

    @property
    def layer_choice(self) -> dict[str, Any] | None:
        """How the layer was chosen, for the file ``layer.json``; None if it was not."""
        if not self.sweep:
            return None
        return {"version": 1, **self.sweep.model_dump(mode="json")}

    def on(self, model: LanguageModel) -> EditingMethod:
        """Bind the method to a loaded model, and set its memory limit."""
        method = self.method(model, self.config, graph=self.graph)
        if self.memory:
            method.memory = self.memory
        return method


def _join_faults(faults: Mapping[Edit, Exception], link: str | None) -> Exception:
    """Return one error for all edits that can't be made; ``link`` is the command that resolves their names."""
    way = None
    if link and any(isinstance(fault, AmbiguousLabelError | UnknownLabelError) for fault in faults.values()):
        way = (
            "Resolve all names at once with this command, choose where several candidates are left (--choose ROW=ID), "
            f"and edit that file:\n  {link}"
        )
    if len(faults) == 1:
        (fault,) = faults.values()
        if way:
            fault.add_note(way)
        return fault
    lines = [f"{len(faults)} edits can't be made:"]
    for edit, fault in list(faults.items())[:_SHOWN]:
        lines.append(f"  {edit.id}: {fault}")
    if len(faults) > _SHOWN:
        lines.append(f"  and {len(faults) - _SHOWN} more")
    if way:
        lines.append(way)
    return GraphError("\n".join(lines))


def link_command(edits: Path, graph: Sequence[str] | None) -> str:
    """Return the command that fills ids into a file of edits, from the same graph."""
    words = ["wikidata-cache link", shlex.quote(str(edits))]
    for name in graph or ():
        path = name  # wikidata-cache knows the extract by its name
        if name != EXTRACT:
            path = str(packaged_graph(name) or name)
        words.append(f"--graph {shlex.quote(path)}")
    linked = edits.with_name(f"{edits.stem}-linked.jsonl")
    words.append(f"--out {shlex.quote(str(linked))}")
    return " ".join(words)


def plan_method(
    method: str,
    *,
    preset: str | None = "default",
    layer: str | int | None = None,
    settings: list[str] | None = None,
    corpus: str | None = None,
    graph: SubgraphSource | None = None,
    require_graph: bool = False,
    memory: float | None = None,
) -> MethodPlan:
    """Find the method and check its settings.

    Args:
        method: the method's name.
        preset: the value of ``--preset``; None: the quickest one that is as good as the default.
        layer: the value of ``--layer``.
        settings: the texts of ``--set``.
        corpus: the value of ``--corpus``.
        graph: the opened graph.
        require_graph: the value of ``--require-graph``, which is the setting graph.require.
        memory: MB that a pass may use besides the model.
    """
    method_class = find_method(method)
    if require_graph and not method_class.needs_graph:
        raise ConfigError(
            f"--require-graph has no effect: {method} reads no graph; leave it out, or give another --method"
        )
    if corpus is not None and "covariance" not in method_class.config_class.model_fields:
        raise ConfigError(
            f"--corpus has no effect: {method} reads no covariance; leave it out, or give another --method"
        )
    pairs = list(settings or ())
    if require_graph:
        pairs.append("graph.require=true")
    auto = layer == AUTO
    number = None
    if layer is not None and not auto:
        number = str(layer)
        if not number.isdecimal():
            raise ConfigError(f"--layer {layer}: expected a layer's number from 0 on, or auto")
    overrides = parse_settings(pairs, layer=number, corpus=corpus)
    if preset is None:
        preset = _quickest_preset(method)
    config = method_class.config_class.preset(preset, overrides, method=method)
    if auto:
        load_service("layer choice").check_choosable(config)
    return MethodPlan(method_class, config, graph, auto=auto, memory=memory)


def _quickest_preset(method: str) -> str:
    """Return the quickest preset that is as good as the default, for commands that make edits to be used."""
    from kg_edit.models.devices import computes_in_bfloat16

    if method in _FAST_IS_AS_GOOD and computes_in_bfloat16():
        return "fast"
    return "default"


def load(model: str, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """Load a model, without progress bars and warnings of transformers.

    Args:
        model: the value of ``--model``.
        dtype: the value of ``--dtype``.
        device: the value of ``--device``.
    """
    check_model_name(model)
    from transformers.utils import logging as transformers_logging

    from kg_edit.models.language_model import LanguageModel

    # Its warnings are about training and generation settings, which are not used here
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with doing(f"loading {model}"):
        return LanguageModel.load(model, dtype=dtype, device=device)


def choose_method(method: str | None, graph: Sequence[str] | None) -> str:
    """Return the name of ``--method``; without it glame if there is a graph to read, else rome (see `note_choice`).

    Args:
        method: the value of ``--method``.
        graph: the texts of ``--graph``, or the name of a packaged graph that is used.
    """
    if method:
        return method
    if graph:
        return "glame"
    return "rome"


def note_choice(method: str | None, graph: Sequence[str] | None) -> None:
    """Log which method is used without ``--method``, once all options are checked; arguments as `choose_method`."""
    if method is None and graph:
        log.info("no --method given: glame, which reads the graph %s", ", ".join(graph))
    elif method is None:
        log.info(
            "no --method and no --graph given: rome. glame needs a graph with facts about the new objects: "
            "--graph facts.csv (head, relation, tail), or --graph extract (a sample of Wikidata)"
        )


def warn_of_edits_without_facts(method: EditingMethod) -> None:
    """Warn of the edits that were made without further facts, as the graph states nothing of o* (see `why_alone`)."""
    from kg_edit.methods.graph_reader import GraphReader, edits_alone

    alone = edits_alone(method)
    if alone and isinstance(method, GraphReader):
        shown = ", ".join(alone[:_SHOWN])
        if len(alone) > _SHOWN:
            shown += f" and {len(alone) - _SHOWN} more"
        log.warning(
            "%d of %d edits read s -r-> o* alone: %s. --require-graph refuses such edits",
            len(alone),
            len(method.stated),
            shown,
        )


@dataclass
class LazyGraph:
    """The graph of ``--graph``, or a method's default, opened when it is needed.

    To know whether a method needs a graph takes its class, and so torch. A bad row without ids is reported before that.

    Who needs it: `read_edits` asks it for the labels of ids (`in_language`, `labels`); then `refuse_unread` refuses a
    graph that neither the rows nor the method read; then `open` returns the method's graph.

    Attributes:
        method: the method's name.
        graph: the texts of ``--graph``.
        contact: e-mail address or URL for the endpoints of Wikimedia.
        default: the packaged graph that a method reads without ``--graph``.
        language: of the labels in what the graph shows.
    """

    method: str
    graph: list[str] | None
    contact: str | None
    default: str = EXTRACT
    language: str = ENGLISH
    # The copies that `in_language` makes share both fields: a graph is opened once, and `refuse_unread` knows of all.
    _opened: dict[str, WikidataCache | PrivateGraph | None] = field(default_factory=dict, init=False)  # by language
    _languages_of_labels: set[str] = field(default_factory=set, init=False)  # in which `labels` was asked

    def open(self) -> WikidataCache | PrivateGraph | None:
        """Return the graph, without ``--graph`` a packaged one; None if the method needs none. It is opened once."""
        if self.language not in self._opened:
            graph = self.graph
            if not graph and find_method(self.method).needs_graph:
                log.info("no --graph given: %s uses the packaged graph %s", self.method, self.default)
                graph = [self.default]
            self._opened[self.language] = open_graph(graph, self.contact, self.language)
        return self._opened[self.language]

    def in_language(self, language: str) -> LazyGraph:
        """Return this graph with labels in another language."""
        if language == self.language:
            return self
        other = replace(self, language=language)
        other._opened = self._opened
        other._languages_of_labels = self._languages_of_labels
        return other

    def speak_as(self, edits: Iterable[Edit]) -> None:
        """Show the labels in the language of the edits, if they are all in one."""
        languages = {edit.language for edit in edits}
        if len(languages) == 1:
            self.language = languages.pop()

    @property
    def about(self) -> str:
        """The graph in words; empty if there is none. Asking for it opens the graph."""
        graph = self.open()
        if graph is None:
            return ""
        return graph.about

    def labels(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the labels of those ``ids`` that have one in the graph."""
        self._languages_of_labels.add(self.language)
        graph = self.open()
        if graph is None:
            return {}
        return graph.labels(ids)

    def refuse_unread(self) -> None:
        """Refuse a graph of ``--graph`` that nothing reads; to be called after the edits are read."""
        if not self.graph or self._languages_of_labels:
            return
        self.open()  # a graph that can't be opened is an error here, before `find_method` imports torch
        method_class = find_method(self.method)
        if not (method_class.needs_graph or method_class.takes_graph):
            raise ConfigError(
                f"--graph has no effect: {self.method} reads no graph, and no row has an id in the place of a name; "
                "leave it out, or give another --method, such as glame"
            )


def graph_name(data: Path) -> str:
    """Return the packaged graph for a benchmark: the one of its name, if it is a packaged one, or else the extract."""
    name = str(data)
    if packaged_graph(name):
        return name
    return EXTRACT


def open_graph(
    graph: list[str] | None, contact: str | None, language: str = ENGLISH
) -> WikidataCache | PrivateGraph | None:
    """Open the graph of ``--graph``, which may be a packaged name or files of facts; None if the option is absent.

    Labels of Wikidata's ids are in ``language``.
    """
    if not graph:
        return None
    for part in graph:
        check_graph_name(part)
    from kg_edit.graphs.source import open_named

    with doing("reading the graph"):
        return open_named(graph, contact=contact, language=language)


def open_wikidata(graph: list[str] | None, contact: str | None, *, needed: str) -> WikidataCache:
    """Open the graph of ``--graph`` for a command that needs Wikidata's ids.

    Args:
        graph: the texts of ``--graph``.
        contact: e-mail address or URL for the endpoints of Wikimedia.
        needed: why a graph is needed, for the message.
    """
    from wikidata_cache import WikidataCache

    opened = open_graph(graph, contact)
    if opened is None:
        raise ConfigError(f"{needed}: give --graph, such as --graph extract")
    if not isinstance(opened, WikidataCache):
        names = ", ".join(graph or ())
        raise ConfigError(f"{needed} of Wikidata's ids, and {names} has names; give another, such as --graph extract")
    return opened


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show ``what`` with a spinner on stderr while the block runs; without a terminal, log it every ten seconds.

    Rich's own status would write an empty line if stderr is not a terminal.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(plain(what)):
            yield
    else:
        with log_progress(what):
            yield
