"""`kg-edit`, the command line: puts the commands together. Each file has a command or a group of commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kg_edit.cli import cache, catalogue, covariance, diff, edit, generate, plan
from kg_edit.cli.console import friendly
from kg_edit.cli.help_page import use_pages
from kg_edit.evaluation.cli import data, drift, evaluate, locate, sweep
from kg_edit.ship.cli import patch, serve
from kg_edit.version import __version__
from kg_edit.zoo.cli import training
from wikidata_cache.usage import Commands

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    cls=Commands,
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

_COMMANDS = (
    *(
        edit.edit,
        edit.demo,
        generate.generate,
        diff.diff,
        evaluate.evaluate,
        evaluate.judge,
        evaluate.compare,
        evaluate.merge,
    ),
    *(plan.plan, serve.serve, locate.locate, sweep.sweep, drift.drift),
    *(catalogue.methods, catalogue.metrics, catalogue.models, catalogue.doctor, cache.cache),
)
_GROUPS = {"patch": patch.app, **training.groups, "covariance": covariance.app, "data": data.app}
_RESUMABLE = {"edit", "demo", "evaluate", "judge", "locate", "sweep", "drift", *training.groups}

for _command in _COMMANDS:
    app.command()(_command)
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name)
use_pages(app)


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
                command, first, *_ = [*sys.argv[1:], "", ""]
                # Of covariances only the measurement is resumed, which is no subcommand; of data the ripple benchmark
                measures = command == "covariance" and first.startswith("-")
                resumes = command in _RESUMABLE or measures or (command, first) == ("data", "ripples")
                typer.echo(
                    f"kg-edit: stopped{'; run the same command again to continue with what is finished' * resumes}",
                    err=True,
                )
            raise
