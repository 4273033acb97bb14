"""The page of `--help` of a command: its options in panels, names and values in one narrow column.

typer's own page gives names, opposite names and types a column each, which at 80 columns leaves 18 for the help.
"""

from __future__ import annotations

import re
from typing import Any

import typer
from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from kg_edit.cli.console import stdout
from kg_edit.cli.options import CHAT, CHECKS, COVARIANCE, LOGGING, MACHINE

_NAMES = 24  # width of the column of names, at most; a longer name gets a line of its own
_VALUES = {"<str>": "TEXT", "<list[str]>": "TEXT", "<int>": "N", "<list[int]>": "N", "<float>": "X", "<path>": "PATH"}
_LAST = (CHAT, COVARIANCE, CHECKS, LOGGING, MACHINE)


class HelpPageCommand(TyperCommand):
    """A command whose help has panels of two columns."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; refuse a name with one dash, which click would read as options of one letter each."""
        names = [name for parameter in self.get_params(ctx) for name in parameter.opts]
        for typed in args:
            if f"-{typed}" in names:
                ctx.fail(f"No such option: {typed}; did you mean -{typed}?")
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page at once; click's formatter stays empty."""
        from rich.markdown import Markdown

        console = stdout()
        console.print(Padding(Text(self.get_usage(ctx), style="bold"), (1, 1, 0, 1)))
        # A line break inside a paragraph becomes a space. It stays between paragraphs, which an empty line separates,
        # and before the items of a list, which begin with "-".
        text = re.sub(r"(?<!\n)\n(?![\n-])", " ", self.help or "")
        console.print(Padding(Markdown(text), 1))
        panels = self._group_by_panel(ctx)
        others = [name for name in panels if name not in _LAST]
        for name in dict.fromkeys(["Arguments", "Options", *others, *_LAST]):  # each once
            if name in panels:
                console.print(Panel(_rows(panels[name]), title=name, title_align="left", border_style="dim"))

    def _group_by_panel(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """Return (name, help) of the arguments and options, by the title of their panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:  # a hidden one
                continue
            panel = getattr(parameter, "rich_help_panel", None)
            if not panel and parameter.param_type_name == "option":
                panel = "Options"
            elif not panel:
                panel = "Arguments"
            panels.setdefault(panel, []).append(record)
        return panels


def _rows(records: list[tuple[str, str]]) -> Group:
    """Return a line for each option: its name and value, and the help; a long name has a line of its own."""
    width = min(_NAMES, max(len(_shorten_types(name)) for name, _ in records))
    rows: list[Table | Text] = []
    for typed_name, help_text in records:
        name = _shorten_types(typed_name)
        text = Text(_join_notes(help_text))
        text.highlight_regex(r"`[^`]+`", "cyan")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=width, no_wrap=True)
        table.add_column()
        if len(name) > width:
            rows.append(Text(name, style="bold cyan"))
            table.add_row("", text)
        else:
            table.add_row(Text(name, style="bold cyan"), text)
        rows.append(table)
    return Group(*rows)


def _shorten_types(name: str) -> str:
    """Return the name of an option with a short name for the type of its value."""
    for typed, shown in _VALUES.items():
        name = name.replace(typed, shown)
    return name


def _join_notes(text: str) -> str:
    """Return the help with its notes, such as the default, in brackets right after it.

    The parentheses that typer puts around a default in words go: "[default: (from the file's name)]" becomes
    "[default: from the file's name]".
    """
    joined = text.replace("  [", " [")
    return re.sub(r"\[default: \((.*?)\)(;|\])", r"[default: \1\2", joined)  # the note ends in "]", or goes on with ";"


def use_help_pages(app: typer.Typer) -> None:
    """Give every command of an app and of its groups this page."""
    for command in app.registered_commands:
        command.cls = HelpPageCommand
    for group in app.registered_groups:
        if group.typer_instance:
            use_help_pages(group.typer_instance)
