"""Wrong values of options on both command lines, in plain words: what was found, and what is expected."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

_EXPECTED = {  # by pydantic's name of the fault; newer releases of typer check values with pydantic
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 18 digits",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "more than {gt}",
    "less_than": "less than {lt}",
}


class Commands(TyperGroup):
    """The top group of commands, which rewords what typer has to say about a wrong value."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the arguments.

        Raises:
            BadParameter: an option or an argument has a wrong value.
        """
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if cause := getattr(error.__cause__, "errors", None):
                error.message = _words(cause()[0])
            raise


def _words(fault: dict[str, Any]) -> str:
    if fault["type"] == "value_error":  # typer's own check of choices and paths
        return str(fault["ctx"]["error"])
    expected = _EXPECTED.get(fault["type"], fault["msg"].removeprefix("Input should be "))
    return f"found {str(fault['input'])[:60]!r}; expected {expected.format(**fault.get('ctx', {}))}"
