"""The job behind `kg-edit glame-net train`: options to a trained network; the same command again resumes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kg_edit.errors import ConfigError
from kg_edit.jobs.method_plan import doing, load, open_graph, parse_relations

if TYPE_CHECKING:
    from kg_edit.methods.glame_net.edits import Excluded
    from kg_edit.methods.glame_net.store import Manifest


@dataclass(frozen=True, kw_only=True)
class GlameNetRun:
    """The options of a training run: the model, the graph, and how the training edits are drawn."""

    model: str
    graph: list[str]
    out: Path
    relations: str | None = None
    n: int = 3000
    per_subject: int = 1
    seed: int = 0
    exclude: list[Path] = field(default_factory=list)
    preset: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"
    contact: str | None = None

    def run(self, *, progress: bool = True) -> Manifest:
        """Draw the edits, load the model, and train.

        Raises:
            ConfigError: there is no graph, an option is wrong, or there are too few edits.
            KgEditError, WikidataCacheError: the model, the graph or a file can't be read.
        """
        from kg_edit.methods.glame_net.edits import training_edits
        from kg_edit.methods.glame_net.store import NetTraining
        from kg_edit.methods.glame_net.training import train
        from kg_edit.ripples.facts import FactTable
        from kg_edit.ripples.words import RippleWords
        from kg_edit.storage.run_folder import check_folder

        chosen = NetTraining.preset(self.preset, {"seed": self.seed, **self.settings})
        words, relations, excluded = RippleWords.load(), parse_relations(self.relations), self._excluded()
        check_folder(self.out)
        graph = open_graph(self.graph, self.contact)
        if graph is None:
            raise ConfigError("edits are drawn from a graph: give --graph, such as --graph extract")
        with doing("drawing edits from the graph"):
            edits = training_edits(
                FactTable(graph, words),
                relations or tuple(words.edited),
                n=self.n,
                seed=self.seed,
                excluded=excluded,
                per_subject=self.per_subject,
            )
        model = load(self.model, self.dtype, self.device)
        return train(model, graph, edits, chosen, self.out, excluded=excluded, progress=progress)

    def _excluded(self) -> Excluded:
        from kg_edit.datasets import guess_dataset
        from kg_edit.methods.glame_net.edits import Excluded

        return Excluded.of(record for path in self.exclude for record in guess_dataset(path)(path))
