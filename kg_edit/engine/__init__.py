"""The same loss, fast: only what a change can reach is run, and what does not change is run once.

The environment variable ``KG_EDIT_ENGINE`` chooses between this code, ``fast`` (the default), and ``plain``, which is
beside the equations. Both compute the same numbers, apart from the order of sums; plain is slower, and shorter to read
and to debug.
"""

from __future__ import annotations

import os
from typing import Literal, cast, get_args

import kg_edit.models as _models  # noqa: F401 - before transformers, so that a notebook does not show a warning of tqdm
from kg_edit.errors import ConfigError, describe

VARIABLE = "KG_EDIT_ENGINE"
EngineName = Literal["fast", "plain"]


def chosen_engine() -> EngineName:
    """Return the engine that ``KG_EDIT_ENGINE`` names."""
    name = os.environ.get(VARIABLE) or "fast"
    if name not in get_args(EngineName):
        raise ConfigError(f"{VARIABLE} is {describe(name)}; expected fast or plain; unset it for fast")
    return cast(EngineName, name)
