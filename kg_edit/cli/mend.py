"""`kg-edit mend`: train the network that the method mend edits with."""

from __future__ import annotations

import typer

from kg_edit.cli.training import Data, DatasetName, Leave, Limit, Out, Steps, learned_from, show_validations
from kg_edit.jobs.method_plan import load, parse_settings
from kg_edit.jobs.options import Device, Dtype, ModelName, Preset, Settings
from kg_edit.models.loading import check_model_name

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="MEND: train the network that edits.")


@app.callback()
def _top() -> None:
    """MEND: train the network that the method mend edits with."""


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
    """Train an editor on edits with paraphrases and neighbourhood prompts; then `--method mend --set network=OUT`.

    Score it on other facts: --leave-out keeps the subjects of a file out of the training.

    Example: `kg-edit mend train --data counterfact-edit.json --leave-out dev.json --model smollm2-135m --out mend/`
    """
    check_model_name(model)
    edits = learned_from(data, dataset, limit, leave_out or [])
    from kg_edit.methods.mend.store import MendTraining
    from kg_edit.methods.mend.training import train as train_editor
    from kg_edit.storage.run_folder import check_folder

    wanted = {**parse_settings(settings or []), **({} if steps is None else {"steps": steps})}
    chosen = MendTraining.preset(preset, wanted)
    check_folder(out)
    manifest = train_editor(load(model, dtype, device), edits, chosen, out)
    show_validations(manifest.validations, manifest.steps, out, method="mend")
