"""A bar off a terminal: lines of the log, at most one every ten seconds, and nothing on stdout or stderr."""

from __future__ import annotations

import gc
import sys
import threading
import time
from contextlib import suppress

import pytest

from kg_common import progress
from kg_common.progress import Bar, duration


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock.time)
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_line_every_ten_seconds_with_the_time_that_is_left(
    clock: Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    with Bar(title="rome", unit="edit", total=8, done=2) as bar:
        for seconds in (8, 4, 4, 8, 2, 2):
            clock.now += seconds
            bar.update()
    assert caplog.messages == [
        "rome: 4 of 8 edits, about 24 s left",
        "rome: 6 of 8 edits, about 12 s left",
        "rome: 8 of 8 edits in 28 s",
    ]
    assert capsys.readouterr() == ("", "")


def test_skipped_items_do_not_count_for_the_time_that_is_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A resumed sequence of four records, one of them done, had "about 0 s left"."""
    caplog.set_level("INFO")
    with Bar(title="rome", unit="record", total=4) as bar:
        bar.phase("unedited", 4)
        bar.skip(1)
        for _ in range(3):
            bar.phase("editing", 1)
            clock.now += 12
            bar.update()
    assert caplog.messages == [
        "rome: 2 of 4 records, 12 s so far",
        "rome: 3 of 4 records, about 12 s left",
        "rome: 4 of 4 records, 36 s so far",
        "rome: 4 of 4 records in 36 s",
    ]


def test_time_left_shrinks_while_the_last_item_runs(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Two of three items took 10 s each, and the last one has run for 8 s."""
    caplog.set_level("INFO")
    with Bar(title="rome", unit="edit", total=3) as bar:
        for _ in range(2):
            clock.now += 10
            bar.update()
        clock.now += 8
        bar.last_print_t -= 10
        bar.show()
    assert caplog.messages[2] == "rome: 2 of 3 edits, about 2 s left"


def test_bar_that_is_not_shown_takes_all_calls(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Bar(title="rome", unit="edit", total=3, shown=False) as bar:
        bar.skip(1)
        bar.update()
        bar.note("step 3")
    assert not caplog.messages


def test_stopped_work_does_not_look_done(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with suppress(KeyboardInterrupt):
        for edit in Bar(range(10), title="rome", unit="edit"):
            clock.now += 12
            if edit == 2:
                raise KeyboardInterrupt
    gc.collect()  # the bar is closed with its iterator
    assert caplog.messages[-1] == "rome: stopped after 2 of 10 edits, 36 s"


def test_steps_are_lines_while_the_first_item_is_not_done(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Bar(title="memit", unit="edit", total=20_000) as bar:
        for step in range(4):
            clock.now += 6
            bar.note(f"step {step}")
        clock.now += 100
        bar.update(100)
    assert caplog.messages == [
        "memit: 0 of 20,000 edits, 12 s so far (step 1)",
        "memit: 0 of 20,000 edits, 24 s so far (step 3)",
        "memit: 100 of 20,000 edits, about 7 h left (step 3)",
        "memit: 100 of 20,000 edits in 2 min",
    ]


def test_time_left_is_that_of_the_phases(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The unedited model is asked about all items at first, and the groups of the others are of different sizes."""
    caplog.set_level("INFO")
    with Bar(title="rome", unit="record", total=10) as bar:
        for records, base in ((4, 10), (6, 0)):
            for phase, seconds in (("unedited", 2.0 * base), ("editing", 10.0 * records), ("edited", 1.0 * records)):
                bar.phase(phase, base if phase == "unedited" else records)
                bar.note(phase)
                for _ in range(2):
                    clock.now += seconds / 2
                    bar.note(phase)
            bar.update(records)
    assert caplog.messages == [
        "rome: 0 of 10 records, 10 s so far (unedited)",
        "rome: 0 of 10 records, 20 s so far (unedited)",
        "rome: 0 of 10 records, 40 s so far (editing)",
        "rome: 0 of 10 records, 60 s so far (editing)",
        "rome: 4 of 10 records, about 36 s left (editing)",
        "rome: 4 of 10 records, about 6 s left (editing)",
        "rome: 10 of 10 records in 2 min",
    ]


def test_line_comes_while_an_item_is_not_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said by the item's work."""
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "_LINE_S", 0.02)
    for number in Bar(range(3), title="rome", unit="record"):
        lines, until = len(caplog.messages), time.time() + 10
        while number == 1 and len(caplog.messages) < lines + 2 and time.time() < until:
            time.sleep(0.005)
    early = [line for line in caplog.messages if line.startswith("rome: 1 of 3 records, ")]
    assert len(early) >= 2 and caplog.messages[-1].startswith("rome: 3 of 3 records in ")
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) is progress._log_lines:
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("shown", [True, False])
def test_short_or_hidden_work_logs_nothing(shown: bool, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for _ in Bar(range(4), title="layers", unit="layer", shown=shown):
        clock.now += 2 if shown else 20
    assert caplog.messages == []


def test_terminal_has_a_bar_and_no_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bar(title="rome", unit="edit", total=2) as bar:
        bar.update(2)
    assert "2/2" in capsys.readouterr().err and caplog.messages == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (100, "2 min"), (3 * 3600, "3 h"), (11 * 86_400, "11 days")]
)
def test_duration_has_one_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_process_without_stderr_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # of pythonw, of a service, after `2>&-`
    assert list(Bar([1, 2], title="rome", unit="edit")) == [1, 2]


def test_work_of_unknown_length_is_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Bar(iter(range(3)), title="read", unit="row") as bar:
        for _ in range(3):
            clock.now += 11
            bar.update()
    assert caplog.messages[0] == "read: 1 rows, 11 s so far" and caplog.messages[-1] == "read: 3 rows in 33 s"
