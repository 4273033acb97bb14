"""Options of a command from the fields of a dataclass, so that they are named, typed and explained once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_origin

import typer
from pydantic import BaseModel, ValidationError

from kg_edit.errors import ConfigError, faults_of

FieldsT = TypeVar("FieldsT")
Own = ParamSpec("Own")
Command = Callable[Concatenate[FieldsT, Own], None]


def with_fields_of(
    fields: type[FieldsT], *, after: Mapping[str, Sequence[str]]
) -> Callable[[Command[FieldsT, Own]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass; they reach it as one value, its first argument.

    A field is declared as an option of typer is: ``seed: Annotated[int, typer.Option(help=...)] = 0``. A field whose
    type is a pydantic model is replaced by options for the model's fields that have a description (`options_of`).

    Args:
        fields: the dataclass.
        after: the command's own options that the help shows after a field; the rest of them come last.
    """

    def decorate(command: Command[FieldsT, Own]) -> Callable[..., None]:
        _, *parameters = signature(command, eval_str=True).parameters.values()
        own_options = {option.name: option for option in parameters}
        ordered = list[Parameter]()
        plain = list[str]()
        models = dict[str, type[BaseModel]]()
        for name, option in signature(fields, eval_str=True).parameters.items():
            kind = option.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                models[name] = kind
                ordered += options_of(kind)
            else:
                plain.append(name)
                ordered.append(option)
            ordered += [own_options.pop(other) for other in after.get(name, ())]
        ordered = [option.replace(kind=Parameter.KEYWORD_ONLY) for option in (*ordered, *own_options.values())]

        @wraps(command)
        def run(**options: Any) -> None:
            values = {name: options.pop(name) for name in plain}
            for name, kind in models.items():
                values[name] = _built(kind, {option.name: options.pop(option.name) for option in options_of(kind)})
            command(fields(**values), **options)  # type: ignore[call-arg]

        run.__signature__ = signature(command).replace(parameters=ordered)  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in ordered}
        return run

    return decorate


def options_of(model: type[BaseModel]) -> list[Parameter]:
    """Return an option for each field of a pydantic model that has a description, which is its help.

    The flag is the field's name, or ``flag`` in its ``json_schema_extra``, which may also have ``show_default``, and
    ``panel`` (of the help). A tuple is an option that can be repeated.
    """
    parameters = []
    for name, field in model.model_fields.items():
        if not field.description:
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        flag = str(extra.get("flag", f"--{name.replace('_', '-')}"))
        several = get_origin(field.annotation) is tuple
        kind: Any = list[str] | None if several else field.annotation
        shown = str(extra["show_default"]) if "show_default" in extra else True
        panel = str(extra["panel"]) if "panel" in extra else None
        option = typer.Option(flag, help=field.description, show_default=shown, rich_help_panel=panel)
        annotation = Annotated[kind, option]
        default = None if several else field.default
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return parameters


def _built(model: type[BaseModel], values: Mapping[str, Any]) -> BaseModel:
    try:
        return model.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        faults = (f"--{fault.field.replace('_', '-')}: {fault.message}" for fault in faults_of(error, model))
        raise ConfigError("; ".join(faults)) from None
