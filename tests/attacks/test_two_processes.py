"""The same command twice at the same time in one folder: both end well, or one says that the other is at work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.attacks.commands import NAMES, Case
from tests.attacks.conftest import Undisturbed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_give_the_result_of_one(
    name: str, case: Callable[[str, str], Case], undisturbed: Undisturbed
) -> None:
    right, _ = undisturbed(name)
    command = case(name, "run")
    with command.start() as first, command.start() as second:
        output = [process.communicate(timeout=300)[0] for process in (first, second)]
        codes = sorted([first.returncode, second.returncode])
    assert codes[0] == 0 and codes[1] in (0, 2), output
    assert "Traceback" not in "".join(output)
    assert command.made() == right
