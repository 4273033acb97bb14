"""No space left at any byte: one message, nothing half, and once there is space the same command ends well.

A limit on the size of files (RLIMIT_FSIZE) takes the place of the disk: a write beyond it fails as on a full one.
"""

from __future__ import annotations

import random
import resource
import signal
from collections.abc import Callable

import pytest

from tests.attacks.commands import NAMES, Case, in_words
from tests.attacks.conftest import Undisturbed

pytestmark = pytest.mark.slow


def limited(size: int) -> Callable[[], None]:
    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it: the write fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


@pytest.mark.parametrize("name", NAMES)
def test_full_disk_is_one_message_and_loses_nothing(
    name: str, case: Callable[[str, str], Case], undisturbed: Undisturbed
) -> None:
    right, _ = undisturbed(name)
    draw = random.Random(name)  # noqa: S311 - no secret
    for turn, size in enumerate((0, *(int(10 ** draw.uniform(1.5, 5.5)) for _ in range(3)))):
        command = case(name, f"run-{turn}")
        ended = command.run(prepare=limited(size))
        if ended.code == 0:
            assert command.made() == right, f"{size} bytes: it says that all is well"
            continue
        assert in_words(ended), f"{size} bytes, exit code {ended.code}: {ended.output}"
        assert not command.atomic or command.made() in (None, right)
        again = command.run()
        assert again.code == 0 or (command.made() == right and again.code in command.again), again.output
        assert command.made() == right
