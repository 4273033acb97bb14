"""Commands that are killed at any moment: the same command, given again, ends as if nothing had happened.

In between nothing half is there: what a reader finds is nothing yet, a part that he can tell from the whole, or all.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.attacks.commands import KILLS, NAMES, Case
from tests.attacks.conftest import Undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EACH = max(1, round(KILLS / len(NAMES) / 1.5))  # runs, each of them killed once or twice


def killed_after(case: Case, seconds: float, wish: signal.Signals) -> int:
    """Start a command, send it a signal after so long, and wait for its end; its exit code."""
    with case.start() as process:
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(wish)
        process.communicate(timeout=120)
        return int(process.returncode)


@pytest.mark.parametrize("name", NAMES)
def test_after_kills_nothing_is_lost_or_double(
    name: str, case: Callable[[str, str], Case], undisturbed: Undisturbed
) -> None:
    right, uninterrupted = undisturbed(name)
    draw = random.Random(name)  # noqa: S311 - no secret
    for turn in range(EACH):
        command = case(name, f"run-{turn}")
        for _ in range(draw.randint(1, 2)):
            after = uninterrupted.seconds * draw.uniform(0.2, 1.0)
            killed_after(command, after, draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
            result = command.made()
            assert not command.atomic or result in (None, right), f"half of it is there after {after:.2f} s"
        finished = command.made() == right
        ended = command.run()
        assert ended.code in (command.again if finished else (0,)) or (finished and ended.code == 0), ended.output
        assert command.made() == right, f"after {after:.2f} s: {ended.output}"
