"""`kg-edit ke`: train the network that the method ke edits with."""

from __future__ import annotations

from functools import partial

import typer

from kg_edit.cli.training import Training, show_validations, training_command

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train the editing network of KE.")
_ABOUT = """Train an editing network on edits with paraphrases and neighbourhood prompts.

Use it with `--method ke --set network=OUT`.

Evaluate it on other facts: `--leave-out` keeps the subjects of a file out of the training.

Example: `kg-edit ke train --data counterfact-edit.json --leave-out dev.json --model smollm2-135m --out ke/`
"""


@app.callback()
def _top() -> None:
    """KE (KnowledgeEditor): train the network that the method ke edits with."""


def _training() -> Training:
    from kg_edit.methods.ke.store import KeTraining
    from kg_edit.methods.ke.training import train

    return Training(settings=KeTraining, train=train, show=partial(show_validations, method="ke"))


training_command(app, _ABOUT, _training)
