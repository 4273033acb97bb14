"""What a job says while it works: a line on a terminal, nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say on a terminal what takes its time; elsewhere nothing, not even the empty line that rich would write."""
    console = Console(stderr=True)
    with console.status(plain(what)) if console.is_terminal else nullcontext():
        yield


def plain(text: str) -> str:
    """``text`` for a rich console, with nothing in it taken for markup."""
    from rich.markup import escape

    from kg_edit.jobs.before_after import one_line

    return escape(one_line(text))
