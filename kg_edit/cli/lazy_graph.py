"""The graph of a command with a method: it is opened only when something reads it.

Whether a method needs a graph is known from its class, whose import takes seconds (torch). A row with a fault is
reported before that, unless a graph has to be opened for the ids in the rows.

A command uses a `LazyGraph` in this order: `read_edits` asks it for the labels of ids (`in_language`, `labels`); then
`refuse_unread` refuses a graph that neither the rows nor the method read; `set_language_of` chooses the language of the
labels; `open` returns the method's graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kg_edit.cli.method_plan import open_graph
from kg_edit.errors import ConfigError
from kg_edit.languages import ENGLISH
from kg_edit.methods.registry import find_method
from kg_edit.storage.packaged import EXTRACT

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.graphs.private_graph import PrivateGraph
    from wikidata_cache import WikidataCache

log = logging.getLogger(__name__)


@dataclass
class _Shared:
    """What a `LazyGraph` and its copies in other languages have in common.

    Attributes:
        opened: by language: the graph with labels in it, once it was opened; None: there is no graph to open.
        labels_were_asked: whether ids in the rows were looked up, in any language.
    """

    opened: dict[str, WikidataCache | PrivateGraph | None] = field(default_factory=dict)
    labels_were_asked: bool = False


@dataclass
class LazyGraph:
    """The graph of ``--graph``, or a method's default, opened when it is needed.

    Attributes:
        method: the method's name.
        graph_names: the texts of ``--graph``; None or empty: the option is absent.
        contact: e-mail address or URL for the endpoints of Wikimedia.
        default: the packaged graph that a method reads without ``--graph``.
        language: of the labels of Wikidata's ids.
    """

    method: str
    graph_names: list[str] | None
    contact: str | None
    default: str = EXTRACT
    language: str = ENGLISH
    _shared: _Shared = field(default_factory=_Shared, repr=False)  # `in_language` passes it on to the copy

    def open(self) -> WikidataCache | PrivateGraph | None:
        """Return the graph, without ``--graph`` a packaged one; None if the method needs none.

        It is opened once for each language.
        """
        opened = self._shared.opened
        if self.language not in opened:
            names = self.graph_names
            if not names and find_method(self.method).needs_graph:
                log.info("no --graph given: %s uses the packaged graph %s", self.method, self.default)
                names = [self.default]
            opened[self.language] = open_graph(names, self.contact, self.language)
        return opened[self.language]

    def in_language(self, language: str) -> LazyGraph:
        """Return this graph with labels in another language."""
        if language == self.language:
            return self
        return replace(self, language=language)

    def set_language_of(self, edits: Iterable[Edit]) -> None:
        """Take the language of ``edits`` for the labels that `open` shows, if all edits are in one language."""
        languages = {edit.language for edit in edits}
        if len(languages) == 1:
            self.language = languages.pop()

    @property
    def about(self) -> str:
        """The graph in words, for errors about its labels (see `LabelSource`); "" if there is no graph.

        This opens the graph; `read_edits` asks for it only after `labels`, which has opened it already.
        """
        graph = self.open()
        if graph is None:
            return ""
        return graph.about

    def labels(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the labels of those ``ids`` that have one in the graph."""
        self._shared.labels_were_asked = True
        graph = self.open()
        if graph is None:
            return {}
        return graph.labels(ids)

    def refuse_unread(self) -> None:
        """Refuse a graph of ``--graph`` that nothing reads; to be called after the edits are read."""
        if not self.graph_names or self._shared.labels_were_asked:
            return
        self.open()  # a graph that can't be opened is an error here, before `find_method` imports torch
        method_class = find_method(self.method)
        if not (method_class.needs_graph or method_class.takes_graph):
            raise ConfigError(
                f"--graph has no effect: {self.method} reads no graph, and no row has an id in the place of a name; "
                "leave it out, or give another --method, such as glame"
            )
