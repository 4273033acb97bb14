"""Options that would have no effect are refused before any work, with the way out."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from kg_edit.errors import ConfigError


def refuse_unused(context: typer.Context, names: Sequence[str], where: str, *, way: str | None = None) -> None:
    """Refuse those of the parameters ``names`` that stand on the command line, because they have no effect.

    Args:
        context: the command as it was typed.
        names: names of parameters of the command's function.
        where: in which case they have no effect, such as "without --push".
        way: what to do instead of leaving them out, such as "give --push OWNER/NAME".

    Raises:
        ConfigError: at least one of them was typed.
    """
    given = [name for name in names if is_typed(context, name)]
    if not given:
        return
    said = ", ".join(_shown(context, name) for name in given)
    have, them = ("has", "it") if len(given) == 1 else ("have", "them")
    raise ConfigError(f"{said} {have} no effect {where}; leave {them} out" + (f", or {way}" if way else ""))


def is_typed(context: typer.Context, name: str) -> bool:
    """Whether a parameter stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _shown(context: typer.Context, name: str) -> str:
    """A parameter as it is typed: ``--gguf-type``; an argument, which is typed without its name, in capitals."""
    (found,) = (parameter for parameter in context.command.params if parameter.name == name)
    return found.opts[0] if found.opts[0].startswith("-") else found.opts[0].upper()
