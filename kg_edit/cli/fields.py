"""Options of a command from the fields of a dataclass, so that they are named, typed and explained once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Concatenate, ParamSpec, TypeVar

FieldsT = TypeVar("FieldsT")
Own = ParamSpec("Own")
Command = Callable[Concatenate[FieldsT, Own], None]


def with_fields_of(
    fields: type[FieldsT], *, after: Mapping[str, Sequence[str]]
) -> Callable[[Command[FieldsT, Own]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass; they reach it as one value, its first argument.

    A field is declared as an option of typer is: ``seed: Annotated[int, typer.Option(help=...)] = 0``. Options stand in
    the help in the order of the fields; ``after`` names the command's own options that stand after a field, the rest of
    them come last.
    """

    def decorate(command: Command[FieldsT, Own]) -> Callable[..., None]:
        _, *own = signature(command, eval_str=True).parameters.values()
        shared = signature(fields, eval_str=True).parameters
        ordered = _in_order(shared, {option.name: option for option in own}, after)

        @wraps(command)
        def run(**options: Any) -> None:
            values = {name: options.pop(name) for name in shared}
            command(fields(**values), **options)  # type: ignore[call-arg]

        run.__signature__ = signature(command).replace(parameters=ordered)  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in ordered}
        return run

    return decorate


def _in_order(
    shared: Mapping[str, Parameter], own: dict[str, Parameter], after: Mapping[str, Sequence[str]]
) -> list[Parameter]:
    ordered: list[Parameter] = []
    for name, option in shared.items():
        ordered += [option, *(own.pop(other) for other in after.get(name, ()))]
    return [option.replace(kind=Parameter.KEYWORD_ONLY) for option in (*ordered, *own.values())]
