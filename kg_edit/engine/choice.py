"""Which code computes what a method needs: the fast one of this folder, or the plain one beside the equations.

The environment variable ``KG_EDIT_ENGINE`` is ``fast`` (the default) or ``plain``. Both compute the same numbers, apart
from the order of sums; plain is slower, and shorter to read and to debug.
"""

from __future__ import annotations

import os
from typing import Literal, cast, get_args

from kg_edit.errors import ConfigError, describe

VARIABLE = "KG_EDIT_ENGINE"
EngineName = Literal["fast", "plain"]


def chosen_engine() -> EngineName:
    """Return the engine that ``KG_EDIT_ENGINE`` names."""
    name = os.environ.get(VARIABLE) or "fast"
    if name not in get_args(EngineName):
        raise ConfigError(f"{VARIABLE} is {describe(name)}; expected fast or plain; unset it for fast")
    return cast(EngineName, name)
