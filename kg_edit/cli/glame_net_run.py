"""The job behind `kg-edit glame-net train`: options to a trained network; the same command again resumes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kg_edit.cli.drawn_edits import DrawnEdits
from kg_edit.cli.method_plan import load

if TYPE_CHECKING:
    from kg_edit.methods.glame_net.store import Manifest


@dataclass(frozen=True, kw_only=True)
class GlameNetRun:
    """The options of a training run: the model, and how the training edits are drawn from a graph."""

    model: str
    drawn: DrawnEdits
    out: Path
    preset: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"

    def run(self, *, progress: bool = True) -> Manifest:
        """Draw the edits, load the model, and train.

        Raises:
            ConfigError: there is no graph, an option is wrong, or there are too few edits.
            KgEditError, WikidataCacheError: the model, the graph or a file can't be read.
        """
        from kg_edit.methods.glame_net.store import NetTraining
        from kg_edit.methods.glame_net.training import train
        from kg_edit.storage.run_folder import check_folder

        chosen = NetTraining.preset(self.preset, {"seed": self.drawn.seed, **self.settings})
        check_folder(self.out)
        graph, edits = self.drawn.draw()
        model = load(self.model, self.dtype, self.device)
        return train(model, graph, edits, chosen, self.out, excluded=self.drawn.excluded, progress=progress)
