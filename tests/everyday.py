"""Which cases of a check run every day, and which only in `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet


def keep_first(values: Iterable[Any], *, keep: int = 1, unpack: bool = False) -> list[ParameterSet]:
    """Values for `parametrize`: the first ``keep`` run every day, the others are slow.

    ``unpack``: each value is a tuple of arguments.
    """
    cases = [value if unpack else (value,) for value in values]
    return [pytest.param(*case, marks=() if index < keep else pytest.mark.slow) for index, case in enumerate(cases)]
