"""The group of all commands: it lists them from their entries, and imports one when it is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand

from kg_common.commands import Commands
from kg_edit.cli.help_page import HelpPageCommand, use_help_pages
from kg_edit.errors import did_you_mean
from kg_edit.registry import CommandEntry, command_entries, load

# Panels of other packages come last
_PANELS = ("Edit and ask", "Measure", "Ship", "Train an editor")


class LazyCommands(Commands):
    """The commands of the registry."""

    _only_listed = False  # see `_list_without_import`

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, panel by panel."""
        entries = command_entries().values()
        panels = [*_PANELS, *[entry.panel for entry in entries]]
        names = list[str]()
        for panel in dict.fromkeys(panels):  # each once
            names += [entry.name for entry in entries if entry.panel == panel]
        return names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a name; None if there is none.

        The command is imported, unless commands are only listed (`_list_without_import`): then it has its help alone.
        """
        entry = command_entries().get(cmd_name)
        if entry is None:
            return None
        if self._only_listed:
            return TyperCommand(entry.name, help=entry.about, rich_help_panel=entry.panel)
        return build_command(entry)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is typed."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}{did_you_mean(args[0], names)}.")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page of ``kg-edit --help``."""
        with self._list_without_import():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands that begin with what is typed."""
        with self._list_without_import():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _list_without_import(self) -> Iterator[None]:
        """Within the block, let `get_command` return commands with a name and a line of help, and without a function.

        typer and click call `get_command` for each command that they list. Importing all of them would take seconds.
        """
        self._only_listed = True
        try:
            yield
        finally:
            self._only_listed = False


def build_command(entry: CommandEntry) -> Any:
    """Import the function or the group of an entry, and return its command."""
    target = load(entry.target)
    if entry.is_group:
        app = target
        app._add_completion = False  # the top command has it
        use_help_pages(app)
    else:
        app = typer.Typer(rich_markup_mode="markdown", add_completion=False, pretty_exceptions_enable=False)
        app.command(entry.name, cls=HelpPageCommand)(target)
    command = typer.main.get_command(app)
    command.name = entry.name
    return command
