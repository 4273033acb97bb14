"""`kg-edit mend`: train the network that the method mend edits with."""

from __future__ import annotations

from functools import partial

import typer

from kg_edit.cli.training import Training, show_validations, training_command

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train the editing network of MEND.")
_ABOUT = """Train an editing network on edits with paraphrases and neighbourhood prompts.

Use it with `--method mend --set network=OUT`.

Evaluate it on other facts: `--leave-out` keeps the subjects of a file out of the training.

Example: `kg-edit mend train --data counterfact-edit.json --leave-out dev.json --model smollm2-135m --out mend/`
"""


@app.callback()
def _top() -> None:
    """MEND: train the network that the method mend edits with."""


def _training() -> Training:
    from kg_edit.methods.mend.store import MendTraining
    from kg_edit.methods.mend.training import train

    return Training(settings=MendTraining, train=train, show=partial(show_validations, method="mend"))


training_command(app, _ABOUT, _training)
