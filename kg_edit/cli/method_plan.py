"""Turn options into a method: its name, preset, settings, layer and graph are checked before a model is loaded.

`plan_method` makes a `MethodPlan` from the options; `MethodPlan.select_usable` checks the edits, and `MethodPlan.on`
makes the method. Then come the model, the choice of a method, and `open_graph`, which opens the graph of the options.

`graph_names` are the texts of ``--graph`` (files, or names such as ``extract``), and `graph` is the opened graph.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    """A method with its settings and graph, before a model is loaded. `plan_method` makes it."""

    method: type[EditingMethod]
    config: MethodConfig
    graph: SubgraphSource | None  # the opened graph that the method reads; None: it reads none
    auto: bool = False  # choose the layer once the model is loaded (`with_layer`)
    sweep: Any = None  # how the layer was chosen: the outcome of the service "layer choice"; None: it was not
    memory: float | None = None  # MB that a pass may use besides the model; None: the method's own limit

    def select_usable(
        self,
        edits: Sequence[Edit],
        *,
        file: Path | None = None,
        graph_names: Sequence[str] | None = None,
        keep_going: bool = False,
    ) -> tuple[Edit, ...]:
        """Check the edits as far as possible without a model; return the edits that can be made, in their order.

        Args:
            edits: the edits to check.
            file: the file of the edits; if it has ambiguous or unknown names, the command that resolves them is shown.
            graph_names: the texts of ``--graph``, for that command.
            keep_going: leave out edits that can't be made, and list them on stderr; without it, they are an error.
        """
        with doing("checking the edits"):
            error = self._find_error(edits)
            if error is None:
                return tuple(edits)
            # All wrong edits are searched for only where that helps: to leave them out, or to list the names in a file
            # that can be mended together.
            can_be_mended = file is not None and isinstance(error, _OF_THE_GRAPH)
            if not edits or not (keep_going or can_be_mended):
                raise error
            faults = self._find_faults(edits, error)
        if not faults:  # no edit alone is wrong, only several together
            raise error
        if keep_going:
            return _leave_out(edits, faults)
        command = None
        if file is not None:
            command = link_command(file, graph_names)
        raise _join_faults(faults, command)

    def _find_error(self, edits: Sequence[Edit]) -> Exception | None:
        """Check the settings, the graph and the edits together; return the first error, or None."""
        try:
            self.method.check_inputs(self.config, self.graph, edits)
        except (KgEditError, WikidataCacheError) as error:
            return error
        return None

    def _find_faults(self, edits: Sequence[Edit], error: Exception) -> dict[Edit, Exception]:
        """Return the error of each wrong edit among ``edits``; ``error`` is that of their check together.

        There is at least one edit. Each check opens what all edits share, such as the corpus of C. So it is not called
        for each edit: only a half with an error is halved again. An error that only several edits together have is not
        found in their halves.
        """
        if len(edits) == 1:
            return {edits[0]: error}
        middle = len(edits) // 2
        faults: dict[Edit, Exception] = {}
        for half in (edits[:middle], edits[middle:]):
            error_of_half = self._find_error(half)
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


def _leave_out(edits: Sequence[Edit], faults: Mapping[Edit, Exception]) -> tuple[Edit, ...]:
    """Return the edits without a fault, and print the faults on stderr; if no edit is left, raise the first fault."""
    if len(faults) == len(edits):
        first = faults[edits[0]]  # a wrong setting, for example, is the same fault in each edit
        if len(edits) > 1:
            first.add_note(f"none of the {len(edits)} edits can be made; this is the error of the first one")
        raise first
    for edit, fault in faults.items():
        typer.echo(f"skipped: {edit.id}: {fault}", err=True)
    return tuple(edit for edit in edits if edit not in faults)


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


def link_command(edits: Path, graph_names: Sequence[str] | None) -> str:
    """Return the command that fills ids into a file of edits, from the same graph."""
    words = ["wikidata-cache link", shlex.quote(str(edits))]
    for name in graph_names or ():
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
    layer_text = None
    if layer is not None and not auto:
        layer_text = str(layer)
        if not layer_text.isdecimal():
            raise ConfigError(f"--layer {layer}: expected a layer's number from 0 on, or auto")
    overrides = parse_settings(pairs, layer=layer_text, corpus=corpus)
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


def load_model(model: str, dtype: str = "auto", device: str = "auto") -> LanguageModel:
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


def choose_method(method: str | None, graph_names: Sequence[str] | None) -> str:
    """Return the name of ``--method``; without it glame if there is a graph to read, else rome (see `note_choice`).

    Args:
        method: the value of ``--method``.
        graph_names: the texts of ``--graph``, or the name of a packaged graph that is used.
    """
    if method:
        return method
    if graph_names:
        return "glame"
    return "rome"


def note_choice(method: str | None, graph_names: Sequence[str] | None) -> None:
    """Log which method is used without ``--method``, once all options are checked; arguments as `choose_method`."""
    if method is None and graph_names:
        log.info("no --method given: glame, which reads the graph %s", ", ".join(graph_names))
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
            len(method.states_target),
            shown,
        )


def graph_name(data: Path) -> str:
    """Return the packaged graph for a benchmark: the one of its name, if it is a packaged one, or else the extract."""
    name = str(data)
    if packaged_graph(name):
        return name
    return EXTRACT


def open_graph(
    graph_names: list[str] | None, contact: str | None, language: str = ENGLISH
) -> WikidataCache | PrivateGraph | None:
    """Open the graph of ``--graph``; None if the option is absent.

    Args:
        graph_names: the texts of ``--graph``: the name of a packaged graph, files of facts, or sources of Wikidata.
        contact: e-mail address or URL for the endpoints of Wikimedia.
        language: that of the labels of Wikidata's ids.
    """
    if not graph_names:
        return None
    for name in graph_names:
        check_graph_name(name)
    from kg_edit.graphs.source import open_named

    with doing("reading the graph"):
        return open_named(graph_names, contact=contact, language=language)


def open_wikidata(graph_names: list[str] | None, contact: str | None, *, needed: str) -> WikidataCache:
    """Open the graph of ``--graph`` for a command that needs Wikidata's ids.

    Args:
        graph_names: the texts of ``--graph``.
        contact: e-mail address or URL for the endpoints of Wikimedia.
        needed: the beginning of both error messages: what needs the graph, ending in "a graph", such as "edits are
            drawn from a graph". The second message goes on with " of Wikidata's ids".
    """
    from wikidata_cache import WikidataCache

    opened = open_graph(graph_names, contact)
    if opened is None:
        raise ConfigError(f"{needed}: give --graph, such as --graph extract")
    if not isinstance(opened, WikidataCache):
        names = ", ".join(graph_names or ())
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
