"""`kg-edit serac`: train the classifier and the counterfactual model that the method serac edits with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.training import Data, DatasetName, Leave, Limit, Out, Steps, learned_from, say_kept
from kg_edit.jobs.method_plan import load, parse_settings
from kg_edit.jobs.options import Device, Dtype, ModelName, Preset, Settings
from kg_edit.models.loading import check_model_name

if TYPE_CHECKING:
    from kg_edit.methods.serac.store import SeracManifest

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="SERAC: train what answers within a scope.")


@app.callback()
def _top() -> None:
    """SERAC: train the scope classifier and the counterfactual model that the method serac edits with."""


@app.command()
def train(
    data: Data,
    out: Out,
    dataset: DatasetName = None,
    model: ModelName = "smollm2-135m",
    leave_out: Leave = None,
    limit: Limit = None,
    steps: Steps = None,
    preset: Preset = "default",
    settings: Settings = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Train on edits with paraphrases and neighbourhood prompts; then `--method serac --set network=OUT`.

    Score it on other facts: --leave-out keeps the subjects of a file out of the training.

    Example: `kg-edit serac train --data counterfact-edit.json --leave-out dev.json --model smollm2-135m --out serac/`
    """
    check_model_name(model)
    edits = learned_from(data, dataset, limit, leave_out or [])
    from kg_edit.methods.serac.store import SeracTraining
    from kg_edit.methods.serac.training import train as train_network
    from kg_edit.storage.run_folder import check_folder

    wanted = {**parse_settings(settings or []), **({} if steps is None else {"steps": steps})}
    chosen = SeracTraining.preset(preset, wanted)
    check_folder(out)
    _show(train_network(load(model, dtype, device), edits, chosen, out), out)


def _show(manifest: SeracManifest, out: Path) -> None:
    """A table of what was found on edits held out, and how the method uses what was kept."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header in ("steps", "-log p (new target)", "scope", "paraphrases inside", "others outside", "loss"):
        table.add_column(header, justify="right")
    for found in manifest.validations:
        mark = " *" if found.step == manifest.steps else ""
        shares = (f"{found.inside:.2f}", f"{found.outside:.2f}")
        table.add_row(f"{found.step}{mark}", f"{found.edit:.3f}", f"{found.scope:.3f}", *shares, f"{found.total:.3f}")
    stdout().print(table, "on edits held out; * is what was kept")
    say_kept(out, "serac")
