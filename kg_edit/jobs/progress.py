"""What a job says on a terminal while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console

from kg_edit.text.safe_text import plain


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show ``what`` beside a spinner on stderr for as long as the block runs; nothing where stderr is no terminal.

    Elsewhere rich's own status would still write an empty line.
    """
    console = Console(stderr=True)
    with console.status(plain(what)) if console.is_terminal else nullcontext():
        yield
