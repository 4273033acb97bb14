"""The job behind `kg-edit data edits`, and the first step of `kg-edit glame-net train`: draw edits from a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.method_plan import doing, open_graph, parse_relations
from kg_edit.errors import ConfigError

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.ripples.drawn import Excluded
    from kg_edit.ripples.facts import FactTable
    from wikidata_cache import WikidataCache

Relations = Annotated[
    str | None, typer.Option(show_default="all packaged ones", help="Relations r of the edits, such as `P17,P19`.")
]
Number = Annotated[int, typer.Option("--n", min=1, metavar="N", help="Number of edits drawn from the graph.")]
PerSubject = Annotated[
    int, typer.Option(min=1, metavar="N", help="Maximum number of edits per subject, each with a different o*.")
]
Exclude = Annotated[
    list[Path] | None,
    typer.Option(
        "--exclude", metavar="FILE", help="Benchmark (packaged name or file) whose s and o* are not used. Repeatable."
    ),
]


@dataclass(frozen=True, kw_only=True)
class DrawnEdits:
    """The options by which edits are drawn from a graph."""

    graph: list[str]
    relations: str | None = None
    n: int = 3000
    per_subject: int = 1
    seed: int = 0
    exclude: list[Path] = field(default_factory=list)
    contact: str | None = None

    @property
    def excluded(self) -> Excluded:
        """The subjects and new objects of the benchmarks in ``exclude``."""
        from kg_edit.datasets import guess_dataset
        from kg_edit.ripples.drawn import Excluded

        return Excluded.of(record for path in self.exclude for record in guess_dataset(path)(path))

    def draw(self) -> tuple[WikidataCache, list[Edit]]:
        """Open the graph and draw the edits; return both.

        Raises:
            ConfigError: there is no graph, an option is wrong, or the graph gives no edit.
            WikidataCacheError: the graph can't be read.
        """
        table, edits = self._drawn()
        return table.graph, edits

    def draw_whole(self, *, questions: bool) -> list[Edit]:
        """The drawn edits with their old objects and neighbourhood prompts.

        With ``questions``, edits whose o* the graph does not know are left out, and the others have questions about
        what follows from them.

        Raises:
            ConfigError, WikidataCacheError: as `draw`.
        """
        from kg_edit.methods.glame_net.examples import with_questions
        from kg_edit.ripples.drawn import with_neighbours

        (table, edits), excluded = self._drawn(), self.excluded
        with doing("reading what is known around the edits"):
            edits = with_neighbours(table, edits, seed=self.seed, excluded=excluded)
            return with_questions(table.graph, edits, seed=self.seed, excluded=excluded) if questions else edits

    def _drawn(self) -> tuple[FactTable, list[Edit]]:
        from kg_edit.ripples.drawn import training_edits
        from kg_edit.ripples.facts import FactTable
        from kg_edit.ripples.words import RippleWords

        words, relations, excluded = RippleWords.load(), parse_relations(self.relations), self.excluded
        graph = open_graph(self.graph, self.contact)
        if graph is None:
            raise ConfigError("edits are drawn from a graph: give --graph, such as --graph extract")
        table, wanted = FactTable(graph, words), relations or tuple(words.edited)
        with doing("drawing edits from the graph"):
            edits = training_edits(
                table, wanted, n=self.n, seed=self.seed, excluded=excluded, per_subject=self.per_subject
            )
        return table, edits
