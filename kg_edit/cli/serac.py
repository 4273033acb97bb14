"""`kg-edit serac`: train the classifier and the counterfactual model that the method serac edits with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.training import Training, say_kept, training_command

if TYPE_CHECKING:
    from kg_edit.methods.serac.network import SeracManifest

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train the two networks of SERAC.")

_ABOUT = """Train the networks of SERAC on edits with paraphrases and neighbourhood prompts.

Use them with `--method serac --set network=OUT`.

Evaluate it on other facts: `--leave-out` keeps the subjects of a file out of the training.

Example: `kg-edit serac train --data counterfact-edit.json --leave-out dev.json --model smollm2-135m --out serac/`
"""


@app.callback()
def _top() -> None:
    """SERAC: train the scope classifier and the counterfactual model that the method serac edits with."""


def _training() -> Training:
    from kg_edit.methods.serac.network import SeracTraining
    from kg_edit.methods.serac.training import train

    return Training(settings=SeracTraining, train=train, show=_show)


def _show(manifest: SeracManifest, out: Path) -> None:
    """A table of what was found on edits held out, and how the method uses what was kept."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header in ("steps", "-log p (new target)", "scope", "paraphrases in scope", "others out of scope", "loss"):
        table.add_column(header, justify="right")
    for found in manifest.validations:
        mark = " *" if found.step == manifest.steps else ""
        shares = (f"{found.inside:.2f}", f"{found.outside:.2f}")
        table.add_row(f"{found.step}{mark}", f"{found.edit:.3f}", f"{found.scope:.3f}", *shares, f"{found.total:.3f}")
    stdout().print(table, "measured on held-out edits; * marks the saved step")
    say_kept(out, "serac")


training_command(app, _ABOUT, _training)
