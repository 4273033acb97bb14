"""`kg-edit`, the command line. Its commands are entries of the registry; one is imported when it is called."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kg_edit.cli.console import friendly
from kg_edit.cli.lazy_commands import LazyCommands
from kg_edit.registry import command_entries
from kg_edit.version import __version__

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # a traceback is for us: whole, and without the values of variables
    help="Change facts in a language model: knowledge editing with GLAME, ROME, MEMIT and others.",
    epilog="""Examples:

- `kg-edit demo --out out/`
- `kg-edit edit edits.jsonl --method glame --graph extract --out out/`
- `kg-edit evaluate --data dev.json --method rome --limit 24 --out runs/rome/`
""",
)


def _show_version(flag: bool) -> None:
    if flag:
        typer.echo(f"kg-edit {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Read the options before the command's name."""


def main() -> None:
    """Run the command line; an error that a user can mend is one message and exit code 2."""
    with friendly():
        try:
            app()
        except SystemExit as end:
            if end.code == _INTERRUPTED:
                _report_stop(sys.argv[1:])
            raise


def _report_stop(arguments: list[str]) -> None:
    """Say that the command was stopped, and whether the same command continues the work."""
    message = "kg-edit: stopped"
    if arguments:
        entry = command_entries().get(arguments[0])
        if entry is not None and entry.resumes:
            message += "; run the same command again to continue with what is finished"
    typer.echo(message, err=True)
