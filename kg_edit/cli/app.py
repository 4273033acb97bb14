"""`kg-edit`, the command line: puts the commands together; each has a file, reads its options and calls a job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from kg_edit.cli import (
    catalogue,
    covariance,
    data,
    drift,
    edit,
    evaluate,
    generate,
    locate,
    patch,
    plan,
    serve,
    sweep,
    training,
)
from kg_edit.cli.console import friendly
from kg_edit.version import __version__

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # a traceback is for us: whole, and without the values of variables
    help="Change single facts in a trained language model, and measure what follows from them.",
    epilog="Example: `kg-edit demo --out out/`",
)

_COMMANDS = (
    *(edit.edit, edit.demo, generate.generate, evaluate.evaluate, evaluate.judge, evaluate.compare, evaluate.merge),
    *(plan.plan, serve.serve, locate.locate, sweep.sweep, drift.drift),
    *(catalogue.methods, catalogue.metrics, catalogue.models, catalogue.doctor),
)
_GOING_ON = (
    "edit",
    "demo",
    "evaluate",
    "judge",
    "locate",
    "sweep",
    "drift",
    "mend",
    "ke",
    "serac",
    "glame-net",
)  # given again, where they were
_GROUPS = {
    "patch": patch.app,
    **training.groups,
    "covariance": covariance.app,
    "data": data.app,
}

for _command in _COMMANDS:
    app.command()(_command)
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kg-edit {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the command's name."""


def main() -> None:
    """The console script: errors that a user can mend are one message and exit code 2."""
    with friendly():
        try:
            app()
        except SystemExit as end:
            if end.code == _INTERRUPTED:
                again = "; run the same command again to continue" if _goes_on(sys.argv[1:]) else ""
                typer.echo(f"kg-edit: stopped{again}", err=True)
            raise


def _goes_on(arguments: Sequence[str]) -> bool:
    """Whether this command, given again, goes on where it was stopped; of covariances only measuring them does."""
    command, *options = arguments or [""]
    others = {known.name or known.callback.__name__ for known in covariance.app.registered_commands if known.callback}
    measured = command == "covariance" and not others & set(options)
    return command in _GOING_ON or measured or (command == "data" and "ripples" in options[:1])


if __name__ == "__main__":
    main()
