"""The same command twice at the same time in one folder: both end well, or one says that the other is at work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.attacks.commands import NAMES, Case
from tests.attacks.conftest import Undisturbed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_two_at_once_are_as_one(name: str, case: Callable[[str, str], Case], undisturbed: Undisturbed) -> None:
    right, _ = undisturbed(name)
    one = case(name, "run")
    with one.start() as first, one.start() as second:
        said = [process.communicate(timeout=300)[0] for process in (first, second)]
        codes = sorted([first.returncode, second.returncode])
    assert codes[0] == 0 and codes[1] in (0, 2), said
    assert "Traceback" not in "".join(said)
    assert one.made() == right
