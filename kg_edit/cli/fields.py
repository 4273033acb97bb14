"""Options of a command from the fields of a dataclass, so that they are named, typed and explained once.

typer reads the options of a command from the signature of its function. `with_fields_of` gives it a function with
another signature, in which the fields stand for the dataclass:

    @dataclass
    class Job:
        name: Annotated[str, typer.Option()]
        measure: Measure  # a pydantic model with the field `every`

    @with_fields_of(Job, after={"name": ("dry",)})
    def work(job: Job, *, dry: bool = False): ...

Then typer sees the function ``work(*, name, dry, every)``. A call of it,

    work(name="a", dry=True, every=2)

calls the function above with

    Job(name="a", measure=Measure(every=2)), dry=True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kg_edit.errors import ConfigError, Fault, faults_of

FieldsT = TypeVar("FieldsT")  # the dataclass
Own = ParamSpec("Own")  # the command's own options
Command = Callable[Concatenate[FieldsT, Own], None]


def with_fields_of(
    job_class: type[FieldsT], *, after: Mapping[str, Sequence[str]]
) -> Callable[[Command[FieldsT, Own]], Callable[..., None]]:
    """Give a command an option for each field of a dataclass; they reach it as one value, its first argument.

    A field is declared as an option of typer is: ``seed: Annotated[int, typer.Option(help=...)] = 0``. A field whose
    type is a pydantic model is replaced by options for the model's fields that have a description (`options_of`).

    Args:
        job_class: the dataclass.
        after: the command's own options that the help shows after a field; the rest of them come last.
    """
    field_options = dict(signature(job_class, eval_str=True).parameters)

    def decorate(command: Command[FieldsT, Own]) -> Callable[..., None]:
        ordered = _order_options(field_options, command, after)

        @wraps(command)
        def run(**options: Any) -> None:
            values = _take_values(field_options, options)  # takes them out of ``options``; the command's own remain
            command(job_class(**values), **options)  # type: ignore[call-arg]

        # What typer reads, instead of the signature of ``command``
        run.__signature__ = signature(command).replace(parameters=ordered)  # type: ignore[attr-defined]
        run.__annotations__ = {option.name: option.annotation for option in ordered}
        return run

    return decorate


def _take_values(field_options: Mapping[str, Parameter], options: dict[str, Any]) -> dict[str, Any]:
    """Take the values of the dataclass's fields out of ``options``, and return them by field."""
    values = dict[str, Any]()
    for name, option in field_options.items():
        model = _model_of(option)
        if model is None:
            values[name] = options.pop(name)
        else:
            values[name] = _take_model(model, options)
    return values


def _order_options(
    field_options: Mapping[str, Parameter], command: Callable[..., None], after: Mapping[str, Sequence[str]]
) -> list[Parameter]:
    """Return all options in the order of the help: those of the fields, and the command's own, as ``after`` says."""
    _, *parameters = signature(command, eval_str=True).parameters.values()  # the first one is the dataclass
    own_options = {option.name: option for option in parameters}
    ordered = list[Parameter]()
    for name, option in field_options.items():
        model = _model_of(option)
        if model is None:
            ordered.append(option)
        else:
            ordered += options_of(model)
        for own_name in after.get(name, ()):
            ordered.append(own_options.pop(own_name))
    ordered += own_options.values()
    return [option.replace(kind=Parameter.KEYWORD_ONLY) for option in ordered]


def _model_of(option: Parameter) -> type[BaseModel] | None:
    """Return the pydantic model that is a field's type, and whose fields replace it; None for another type."""
    kind = option.annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return None


def options_of(model: type[BaseModel]) -> list[Parameter]:
    """Return an option for each field of a pydantic model that has a description, which is its help.

    The flag is the field's name, or ``flag`` in its ``json_schema_extra``, which may also have ``show_default``, and
    ``panel`` (of the help). A tuple is an option that can be repeated; its values are texts, which the model parses.
    """
    parameters = []
    for name, field in model.model_fields.items():
        if not field.description:
            continue
        extra = _extra_of(field)
        kind: Any = field.annotation
        default = field.default
        if get_origin(kind) is tuple:
            kind = list[str] | None
            default = None
        option = typer.Option(
            _flag(name, field),
            help=field.description,
            show_default=extra.get("show_default", True),
            rich_help_panel=extra.get("panel"),
        )
        annotation = Annotated[kind, option]
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return parameters


def _extra_of(field: FieldInfo) -> Mapping[str, Any]:
    """Return what a field's ``json_schema_extra`` says of its option; {} if it has none."""
    if isinstance(field.json_schema_extra, dict):
        return field.json_schema_extra
    return {}


def _flag(name: str, field: FieldInfo) -> str:
    """Return the flag of a model's field."""
    default = f"--{name.replace('_', '-')}"
    flag: str = _extra_of(field).get("flag", default)
    return flag


def _take_model(model: type[BaseModel], options: dict[str, Any]) -> BaseModel:
    """Take the values of a model's options out of ``options``, and build the model from them.

    A value of None, which an option has that was not typed, is left out, so the model's default holds.
    """
    values = {}
    for option in options_of(model):
        value = options.pop(option.name)
        if value is not None:
            values[option.name] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        messages = [_describe_fault(fault, model) for fault in faults_of(error, model)]
        raise ConfigError("; ".join(messages)) from None


def _describe_fault(fault: Fault, model: type[BaseModel]) -> str:
    """Return the fault of a field as that of its option, such as "--extra: …" for the field extras."""
    name, _, _ = fault.field.partition("[")  # the field of an entry of a list is name[0]
    field = model.model_fields.get(name)
    if field is None:
        return str(fault)
    return f"{_flag(name, field)}: {fault.message}"
