"""The job behind `kg-edit data ripples`: options to a file.

The model's answers are stored in the cache folder, so the same command again resumes the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kg_edit.cli.method_plan import load, open_graph, parse_relations
from kg_edit.errors import ConfigError

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.ripples.build import Document
    from wikidata_cache import WikidataCache


@dataclass(frozen=True, kw_only=True)
class RipplesRun:
    """The options of a run that makes a Ripples file."""

    model: str
    graph: list[str]
    out: Path
    edits: Path | None = None
    relations: str | None = None
    n: int = 300
    seed: int = 0
    words: Path | None = None
    templates: Path | None = None
    dtype: str = "auto"
    device: str = "auto"
    contact: str | None = None

    def run(self, *, progress: bool = True) -> Document:
        """Make the file and return its content.

        Raises:
            ConfigError: there is no graph, an option is wrong, or no question can be made.
            KgEditError, WikidataCacheError: the model, the graph or the edits can't be read.
        """
        from kg_edit.models.loading import cache_folder
        from kg_edit.ripples.build import Builder, write_ripples
        from kg_edit.ripples.facts import FactTable
        from kg_edit.ripples.words import RippleWords

        words, relations = RippleWords.load(self.words), parse_relations(self.relations)
        graph = open_graph(self.graph, self.contact)
        if graph is None:
            raise ConfigError("questions are made from a graph: give --graph, such as --graph extract")
        edits = self._edits(graph)
        builder = Builder(
            model=load(self.model, self.dtype, self.device),
            table=FactTable(graph, words),
            folder=cache_folder() / "knowledge",
            seed=self.seed,
            progress=progress,
        )
        made = builder.build(relations or tuple(words.edited), n=self.n) if edits is None else builder.build_for(edits)
        write_ripples(self.out, made)
        return made

    def _edits(self, graph: WikidataCache) -> list[Edit] | None:
        if self.edits is None:
            return None
        if self.relations:
            raise ConfigError("--relations draws edits from the graph, --edits reads your own; give only one of them")
        from kg_edit.edits.files import read_edits
        from kg_edit.edits.templates import RelationTemplates

        return list(read_edits(self.edits, labels=graph, templates=RelationTemplates.load(self.templates)).edits)
