"""The steps that commands of `kg-edit` are made of: what is checked first, then the model, then the work."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from kg_edit.cli.options import AUTO, parse_layer, parse_settings
from kg_edit.errors import KgEditError
from wikidata_cache.errors import WikidataCacheError

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.locate.layer_sweep import Sweep
    from kg_edit.methods import EditingMethod, MethodConfig
    from kg_edit.models.language_model import LanguageModel
    from wikidata_cache import WikidataCache


def stdout() -> Console:
    """Where results go; made anew, so that it fits the terminal as it is now."""
    return Console(highlight=False, emoji=False)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say on a terminal what takes its time; elsewhere nothing, not even the empty line that rich would write."""
    console = Console(stderr=True)
    with console.status(plain(what)) if console.is_terminal else nullcontext():
        yield


@dataclass(frozen=True)
class Plan:
    """A method with its settings and graph, for which no model is loaded yet."""

    method: type[EditingMethod]
    config: MethodConfig
    graph: WikidataCache | None
    auto: bool = False  # the layer is chosen once there is a model
    sweep: Sweep | None = None  # how it was chosen
    memory: float | None = None  # MB above the model that a pass may take

    def check(self, edits: Sequence[Edit], out: Path, *, keep_going: bool = False) -> tuple[Edit, ...]:
        """All that can be said without a model about the edits and the output folder; the edits that can be made.

        Raises:
            KgEditError, WikidataCacheError: something can't work; with ``keep_going`` only if no edit can be made.
        """
        from kg_edit.storage.run_folder import check_folder

        check_folder(out)
        with doing("looking at the edits"):
            if not keep_going:
                self.method.check_inputs(self.config, self.graph, edits)
                return tuple(edits)
            faults = {edit: fault for edit in edits if (fault := self._fault(edit))}
        if len(faults) == len(edits):
            raise next(iter(faults.values()))
        for edit, fault in faults.items():
            typer.echo(f"skipped: {edit.id}: {fault}", err=True)
        return tuple(edit for edit in edits if edit not in faults)

    def _fault(self, edit: Edit) -> Exception | None:
        try:
            self.method.check_inputs(self.config, self.graph, [edit])
        except (KgEditError, WikidataCacheError) as error:
            return error
        return None

    def settled(self, model: LanguageModel, edits: Sequence[Edit]) -> Plan:
        """The plan with its layer chosen on a few of ``edits``, where that was asked for (--layer auto).

        Raises:
            KgEditError: the method has no layer to choose, or no edit can be made.
        """
        if not self.auto:
            return self
        from kg_edit.locate.auto_layer import auto_layer

        found = auto_layer(lambda config: self.method(model, config, graph=self.graph), model, self.config, edits)
        return replace(self, config=self.config.model_copy(update={"layer": found.chosen}), auto=False, sweep=found)

    def note_layer(self, out: Path) -> None:
        """Write how the layer was chosen to ``out``, where it was."""
        from kg_edit.storage.atomic import write_json

        if self.sweep:
            write_json(out / "layer.json", self.sweep.model_dump(mode="json"))

    def on(self, model: LanguageModel) -> EditingMethod:
        """The method, on a model."""
        made = self.method(model, self.config, graph=self.graph)
        made.memory = self.memory or made.memory
        return made


def plan(
    method: str,
    *,
    preset: str = "default",
    layer: str | int | None = None,
    settings: list[str] | None = None,
    corpus: str | None = None,
    graph: list[str] | None = None,
    contact: str | None = None,
    memory: float | None = None,
) -> Plan:
    """Find the method, check its settings, open the graph.

    Raises:
        KgEditError: there is no such method, preset or setting.
        WikidataCacheError: the graph can't be opened.
    """
    from kg_edit.methods import find_method

    found = find_method(method)
    wanted = parse_settings(settings or [], parse_layer(layer), corpus)
    config = found.config_class.preset(preset, wanted, method=method)
    if layer == AUTO:
        from kg_edit.locate.layer_sweep import check_choosable

        check_choosable(config)
    return Plan(found, config, open_graph(graph, contact), auto=layer == AUTO, memory=memory)


def load(model: str, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """Load a model, without the bars and remarks of transformers."""
    from transformers.utils import logging as transformers_logging

    from kg_edit.models.language_model import LanguageModel

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with doing(f"loading {model}"):
        return LanguageModel.load(model, dtype=dtype, device=device)


def run(method: EditingMethod, model: LanguageModel, edits: tuple[Edit, ...], out: Path) -> None:
    """Make the edits, draw the first one's subgraph, show what changed."""
    from kg_edit.jobs.edit_run import PATCH, RECORDS, REPORT, draw_subgraph, run_edits
    from kg_edit.report import terminal_table

    rows = run_edits(method, model, edits, out)
    picture = draw_subgraph(method, edits[0], out)
    stdout().print(terminal_table(rows))
    files = [PATCH, RECORDS, REPORT, *([picture.name] if picture else [])]
    stdout().print(f"{plain(str(out))}: {', '.join(files)}", soft_wrap=True)


def plain(text: str) -> str:
    """``text`` for a rich console, with nothing in it taken for markup."""
    from rich.markup import escape

    from kg_edit.report import one_line

    return escape(one_line(text))


@contextmanager
def quiet() -> Iterator[None]:
    """Only the two packages' own remarks reach the terminal; whatever it can't show becomes a question mark."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
    with warnings.catch_warnings(), _remarks("kg_edit"), _remarks("wikidata_cache"):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def friendly() -> Iterator[None]:
    """For scripts: errors that a user can mend end them with one message and exit code 2."""
    with quiet():
        try:
            yield
        except (KgEditError, WikidataCacheError) as error:
            report(error)
            raise SystemExit(2) from None


@contextmanager
def _remarks(package: str) -> Iterator[None]:
    """What a package logs, on stderr."""
    logger, handler = logging.getLogger(package), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def report(error: Exception) -> None:
    """An error that a user can mend: its message and its notes on stderr."""
    notes = getattr(error, "__notes__", ())
    typer.echo("\n  ".join([f"kg-edit: {error}", *notes]), err=True)


def open_graph(graph: list[str] | None, contact: str | None) -> WikidataCache | None:
    """The graph of ``--graph``; None where there is none."""
    if not graph:
        return None
    from wikidata_cache import WikidataCache

    with doing("reading the graph"):
        return WikidataCache(graph[0] if len(graph) == 1 else graph, contact=contact)
