"""Wrong values of options on both command lines, in plain words: what was found, and what is expected."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from kg_common.errors import expected_of


class Commands(TyperGroup):
    """The top group of commands; it rewords the message about a wrong value, which newer typers take from pydantic."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the arguments."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if cause := getattr(error.__cause__, "errors", None):
                error.message = _words(cause()[0])
            raise


def _words(fault: dict[str, Any]) -> str:
    if fault["type"] == "value_error":  # typer's own check of choices and paths
        return str(fault["ctx"]["error"])
    return f"found {str(fault['input'])[:60]!r}; expected {expected_of(fault)}"
