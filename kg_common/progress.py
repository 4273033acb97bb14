"""How far long work is: a bar on a terminal, and elsewhere (a log file, CI) a line of the log every ten seconds.

Work that ends within ten seconds logs nothing. A thread logs the lines, because one item may take minutes.
"""

from __future__ import annotations

import logging
import sys
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_LINE_S = 10.0  # seconds between two lines
_REDRAW_S = 0.1  # seconds between two states of a bar
# (below so many seconds, seconds of the unit, unit)
_UNITS = ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h"), (float("inf"), 86_400, "days"))

log = logging.getLogger(__name__)


class _Phase(NamedTuple):
    """A phase that is not ended yet: its name, the number of items that go through it, and the time of its start."""

    name: str
    items: int
    start: float


class Bar(tqdm):  # type: ignore[misc] # tqdm has no types
    """`tqdm` for both packages, which writes to stderr. Iterate over it, or use it in a ``with`` block and `update` it.

    On a terminal it is drawn by tqdm. Elsewhere it logs a line (`line`) in the place of each drawing, as `display` is
    the method by which tqdm draws. Two callers ask for a drawing, each if ten seconds have passed since the last one:
    `update`, and the thread of `_log_lines` by `show`, because a single item may take minutes.

    Args:
        items: what is iterated over; None: `update` counts.
        title: what is done, such as the method's name.
        unit: what is counted: ``edit``; bytes are ``B``.
        total: how many there are; by default the number of ``items``.
        done: how many an earlier run has done.
        shown: whether to show anything.
        leave: whether a bar stays on the terminal at the end.
        delay: seconds after which a bar appears.
    """

    disable: bool
    last_print_t: float

    def __init__(
        self,
        items: Iterable[Item] | None = None,
        *,
        title: str,
        unit: str,
        total: int | None = None,
        done: int = 0,
        shown: bool = True,
        leave: bool = True,
        delay: float = 0.0,
    ) -> None:
        # A process may have no stderr, such as one of pythonw or of a service.
        self._logs = not (sys.stderr and sys.stderr.isatty())
        interval = _REDRAW_S
        least_items = None  # tqdm looks at the clock only after as many items as there were in the last interval
        if self._logs:
            delay = _LINE_S
            interval = _LINE_S
            least_items = 1
        self._ended = Event()
        self._stopped = False
        self._moved = time.time()  # when work was last counted
        self._phase: _Phase | None = None  # the present one; None: the caller names no phases
        self._timed: dict[str, tuple[int, float]] = {}  # by name of ended phases: items and seconds of all together
        super().__init__(
            items,
            desc=title,
            unit=unit,
            unit_scale=unit == "B",
            total=total,
            initial=done,
            disable=not shown,
            leave=leave,
            delay=delay,
            mininterval=interval,
            miniters=least_items,
        )
        if self._logs and shown:  # a weak reference, so the thread does not keep a bar alive that is not closed
            Thread(target=_log_lines, args=(weakref.ref(self), self._ended), daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items; each counts when the next one is asked for."""
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """End the bar; the log says that the work was stopped if an exception ends the block."""
        self._stopped = kind is not None
        super().__exit__(kind, *error)

    def update(self, n: float | None = 1) -> bool | None:
        """Count ``n`` more items."""
        self._moved = time.time()
        shown: bool | None = super().update(n)
        return shown

    def skip(self, n: int) -> None:
        """Count ``n`` more items as done by an earlier run: they took no time of this one."""
        if self.disable:  # tqdm gives a bar that is not shown no `initial`
            return
        self.initial += n
        self.n += n

    def phase(self, name: str, items: int) -> None:
        """End the present phase, and begin one that ``items`` items go through.

        Each item goes through every phase once, in a group of any size, and is counted after its last phase. So a run
        of 16 records in two groups calls:

            bar.phase("editing", 8)
            bar.phase("edited model", 8)
            bar.update(8)
            bar.phase("editing", 8)  # from now on, the mean times of the first group give the time that is left
            bar.phase("edited model", 8)
            bar.update(8)
        """
        now = time.time()
        if self._phase and self._phase.items:  # a phase that no items went through has no time of an item
            items_before, seconds_before = self._timed.get(self._phase.name, (0, 0.0))
            seconds = now - self._phase.start
            self._timed[self._phase.name] = (items_before + self._phase.items, seconds_before + seconds)
        self._phase = _Phase(name, items, now)

    def note(self, text: str) -> None:
        """Show ``text`` after the numbers from now on, also while the first item is not done."""
        if not self.disable:
            self.set_postfix_str(text, refresh=False)
            self.show()

    def show(self) -> None:
        """Draw the bar, or log a line, unless less than `mininterval` has passed since the last time."""
        with self.get_lock():
            now = time.time()
            if not self.disable and now - self.start_t >= self.delay and now - self.last_print_t >= self.mininterval:
                self.last_print_t = now
                self.refresh(nolock=True)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or log a line; tqdm calls this in `update` and `refresh`."""
        if not self._logs:
            return bool(super().display(msg, pos))
        log.info("%s", self.line)
        return True

    def close(self) -> None:
        """End the bar; if lines were logged, log how long it took."""
        if not self._logs or self.disable:
            super().close()
            return
        self._ended.set()  # for the thread
        self.disable = True  # the rest of tqdm's own `close`, without its drawing
        self._decr_instances(self)
        has_logged = self.last_print_t >= self.start_t + self.delay  # until the first line, it is the time of the start
        if has_logged:
            words = "%s: stopped after %s, %s" if self._stopped else "%s: %s in %s"
            log.info(words, self.desc.removesuffix(": "), self.counted, duration(time.time() - self.start_t))

    @property
    def counted(self) -> str:
        """The count in words: "3 of 8 edits"; "3 edits" where nobody knows how many there are."""
        if self.total is None:
            return f"{self.n:,} {self.unit}s"
        if self.unit == "B":
            done = self.format_sizeof(self.n, "B", 1000)
            total = self.format_sizeof(self.total, "B", 1000)
            return f"{done} of {total}"
        return f"{self.n:,} of {self.total:,} {self.unit}s"

    @property
    def line(self) -> str:
        """The state in words: "rome: 3 of 8 edits, about 40 s left"."""
        seconds = self._remaining_seconds()
        if seconds is not None and seconds > 0:
            time_ = f"about {duration(seconds)} left"
        else:
            time_ = f"{duration(time.time() - self.start_t)} so far"
        note = f" ({self.postfix})" if self.postfix else ""
        return f"{self.desc.removesuffix(': ')}: {self.counted}, {time_}{note}"

    def _remaining_seconds(self) -> float | None:
        """Return the seconds that are left, from what was done in this run; None if nothing gives an estimate.

        The number is 0 or negative where the work takes longer than estimated.
        """
        if self.total is None:
            return None
        if self._phase:
            return self._remaining_by_phases(self._phase)
        return self._remaining_by_items()

    def _remaining_by_items(self) -> float | None:
        """Estimate the seconds that are left from the mean time of the counted items; None before the first one."""
        done: float = self.n - self.initial
        if not done:
            return None
        left: float = self.total - self.n
        seconds_an_item: float = (self._moved - self.start_t) / done
        since_last_count = time.time() - self._moved
        return seconds_an_item * left - since_last_count

    def _remaining_by_phases(self, present: _Phase) -> float | None:
        """Estimate the seconds that are left from the mean times of an item in each phase.

        All items of this run go through each phase. A phase that has not ended once has no mean time, and is left out;
        if it is the present one, the result is None.
        """
        if present.name not in self._timed:
            return None
        all_items: float = self.total - self.initial
        left_at_start = 0.0  # seconds that were left when the present phase began: its items are not in `_timed` yet
        for name, (items, _) in self._timed.items():
            left_at_start += self._mean_seconds(name) * max(0, all_items - items)
        # A present phase that takes longer than expected uses up its own time, and not that of the later phases.
        expected = self._mean_seconds(present.name) * present.items
        used = min(time.time() - present.start, expected)
        return left_at_start - used

    def _mean_seconds(self, phase: str) -> float:
        """Return the mean seconds that an item has taken in the ended phases of a name."""
        items, seconds = self._timed[phase]
        return seconds / items


def _log_lines(bar: weakref.ref[Bar], ended: Event) -> None:
    """Log a line of a bar every ten seconds until it ends, or nobody has it any more."""
    while not ended.wait(_LINE_S):
        open_bar = bar()
        if open_bar is None:
            return
        open_bar.show()
        del open_bar  # while the thread waits, it keeps no bar alive


@contextmanager
def log_progress(what: str) -> Iterator[None]:
    """Log every ten seconds how long the block, which does ``what``, has run: for work that can't be counted."""
    ended = Event()
    start = time.time()

    def log_lines() -> None:
        while not ended.wait(_LINE_S):
            log.info("%s: %s so far", what, duration(time.time() - start))

    Thread(target=log_lines, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def duration(seconds: float) -> str:
    """Return a duration in words, with one unit: "40 s", "12 min", "5 h", "11 days"; "for ever" if it is infinite."""
    for below, size, unit in _UNITS:
        if seconds < below:
            return f"{seconds / size:.0f} {unit}"
    return "for ever"
