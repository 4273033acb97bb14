"""`kg-edit methods`, `models` and `doctor`: what there is, and whether a model can be edited."""

from __future__ import annotations

from typing import Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import Device, Dtype, Layer, ModelArgument, complete_method, refuse_unused
from kg_edit.models.loading import check_model_name
from kg_edit.text.display import plain

_WIDEST = 120  # characters of a line
_BRIEF = ("method", "changes", "graph", "what it does")  # columns of the overview that fit into such lines


def methods(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="METHOD", show_default="all methods", help="Method to show.", autocompletion=complete_method
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page `docs/methods.md`.")] = False,
) -> None:
    """List the editing methods, or show the settings and presets of one.

    Examples:

    - `kg-edit methods`
    - `kg-edit methods rome`
    """
    if markdown:
        refuse_unused(context, ("name",), "with --markdown, which prints all methods")
        from kg_edit.methods.overview import methods_page

        typer.echo(methods_page(), nl=False)
    elif name:
        _show_method(name)
    else:
        list_methods()


def list_methods() -> None:
    """Print a table of the methods with the main columns, and which one to take."""
    from rich.table import Table

    from kg_edit.methods.overview import CHOICES, HEADER, row_of
    from kg_edit.registry import method_entries

    console = stdout()
    if not console.is_terminal or console.width > _WIDEST:
        console.width = _WIDEST
    table = Table(box=None, pad_edge=False)
    for header in _BRIEF:
        table.add_column(header, overflow="fold", no_wrap=header == "method")
    for _, entry in sorted(method_entries().items()):
        cells = dict(zip(HEADER, row_of(entry), strict=True))
        table.add_row(*(plain(cells[name]) for name in _BRIEF))
    console.print(table, "All columns: kg-edit methods --markdown. One method: kg-edit methods NAME")
    console.print("\nWhich one to take, from what was measured on SmolLM2-135M:")
    for choice in CHOICES:
        console.print(f"  {choice.want}: [bold]{choice.take}[/bold]\n    {choice.because}", soft_wrap=False)


def _show_method(name: str) -> None:
    """Print the settings and the presets of a method."""
    from rich.table import Table

    from kg_edit.methods.registry import check_method, find_method

    check_method(name)  # a misspelt name is an error before torch is imported
    from kg_edit.methods.overview import describe_computation, list_settings
    from kg_edit.methods.presets import list_presets

    method_class = find_method(name)
    entry = method_class.entry
    table = Table(title=f"{name}: {plain(entry.about)} ({plain(entry.paper)})", title_justify="left")
    for header in ("setting", "default", "meaning"):
        table.add_column(header, overflow="fold", no_wrap=header == "setting")
    for row in list_settings(method_class):
        table.add_row(*(plain(cell) for cell in row))
    config_class = method_class.config_class
    presets = [*config_class.preset_names(), *list_presets(config_class.published_as or name)]
    stdout().print(table, describe_computation(method_class), f"presets: {', '.join(presets)}")


def models() -> None:
    """List the named models, and the families of models that can be edited.

    Examples:

    - `kg-edit models`
    """
    from kg_edit.models.architectures import known_architectures
    from kg_edit.models.loading import NAMED_MODELS

    for name, named in NAMED_MODELS.items():
        stdout().print(f"[bold]{name}[/bold]  {named.about}\n  install: {named.install}")
    stdout().print(f"families: {', '.join(sorted(known_architectures()))}")


def doctor(model: ModelArgument, layer: Layer = None, dtype: Dtype = "auto", device: Device = "auto") -> None:
    """Inspect a model and try one edit on it.

    Examples:

    - `kg-edit doctor smollm2-135m`
    """
    check_model_name(model)
    from kg_edit.cli.doctor import examine

    for name, value in examine(load_model(model, dtype, device), layer=layer):
        stdout().print(f"[bold]{name}[/bold]: {plain(value)}", soft_wrap=True)
