"""`kg-edit cache`: what is stored between runs, its size and last use, and deleting it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import say, stdout
from kg_edit.cli.options import completion, refuse_unused
from kg_edit.errors import ConfigError, unknown_name
from kg_edit.models.loading import cache_folder
from kg_edit.storage.cached_files import KINDS, CachedItem, cached_items, delete, divide_unused
from kg_edit.text.display import plain, size_text

if TYPE_CHECKING:
    from rich.table import Table

WIKIDATA = "wikidata"
_ALL = (*KINDS, WIKIDATA, "all")
_KIND_NAMES = ", ".join(f"`{name}`" for name in _ALL)


def cache(
    context: typer.Context,
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KINDS...",
            show_default="a line for each kind",
            help=f"Kinds whose files are listed, or deleted: {_KIND_NAMES}.",
            autocompletion=completion(lambda: _ALL),
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Delete the files of these kinds, after a question.")] = False,
    older_than: Annotated[
        float, typer.Option(min=0, max=36_500, metavar="DAYS", help="Delete only what was not used for so many days.")
    ] = 0.0,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
) -> None:
    """Show what is stored between runs and fills the disk, or delete it.

    Everything but the answers about Wikidata and imported covariances is computed again when it is needed. Only files
    that kg-edit wrote are deleted; what was used in the last ten minutes is left, since a running process may need it.
    `all` deletes in the folder of `KG_EDIT_CACHE`; the answers are in the file of `KG_CACHE`, and only `wikidata`
    deletes them.

    Examples:

    - `kg-edit cache`
    - `kg-edit cache models covariances`
    - `kg-edit cache models --clear --older-than 30`
    - `kg-edit cache all --clear --yes`
    """
    if not clear:
        refuse_unused(context, ("older_than", "yes"), "without --clear", way="also give --clear")
    for name in kinds or ():
        if name not in _ALL:
            raise unknown_name("kind", name, _ALL)
    if clear and not kinds:
        raise ConfigError(f"--clear deletes nothing without a kind; give some of {', '.join(_ALL)}")
    chosen = set(kinds or ["all"])
    if "all" in chosen:
        chosen.update(KINDS)
        # The answers of Wikidata are shown with all, but not deleted: they are in another folder, and nothing computes
        # them again.
        if not clear:
            chosen.add(WIKIDATA)
    items = [item for item in cached_items(cache_folder()) if item.kind in chosen]
    if clear:
        _clear(items, chosen, days=older_than, yes=yes)
    else:
        _show(items, chosen, by_kind=not kinds)


def _show(items: Sequence[CachedItem], chosen: set[str], *, by_kind: bool) -> None:
    """Print a line for each kind, or for each item."""
    from rich.table import Table

    console = stdout()
    first_column = "kind" if by_kind else "file or folder"
    table = Table(first_column, "size", "used", "what it is", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    table.columns[1].justify = "right"
    if by_kind:
        _add_kinds(table, items)
    else:
        for item in items:
            table.add_row(plain(_name(item)), size_text(item.size), _day(item.used), item.kind)
    if WIKIDATA in chosen:
        _add_wikidata(table, by_kind=by_kind)
    if table.row_count:
        console.print(table)
    count = sum(len(item.files) for item in items)
    say(f"{cache_folder()}: {_total_size(items)} in {number_of(count, 'file')}")
    if by_kind and table.row_count:
        console.print("kg-edit cache KIND lists the files of a kind; --clear deletes them")


def _add_kinds(table: Table, items: Sequence[CachedItem]) -> None:
    """Add a row for each kind of which there are items: their size, first and last use, and number."""
    for kind, about in KINDS.items():
        matching = [item for item in items if item.kind == kind]
        if matching:
            size = sum(item.size for item in matching)
            dates = sorted({_day(item.used) for item in matching})
            period = dates[0]
            if len(dates) > 1:
                period = f"{dates[0]} to {dates[-1]}"
            table.add_row(kind, size_text(size), period, f"{len(matching)} {about}")


def _add_wikidata(table: Table, *, by_kind: bool) -> None:
    """Add the row of the file with the answers about Wikidata, if there is one."""
    from wikidata_cache.answers.store import AnswerStore

    path = _answers_file()
    if not path.exists():
        return
    with AnswerStore(path, read_only=True) as store:
        count, oldest, newest = store.find_span()
    days = dict.fromkeys(time[:10] for time in (oldest, newest) if time)  # each once
    period = " to ".join(days)
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*") if file.is_file())
    file = plain(str(path))
    if by_kind:
        table.add_row(WIKIDATA, size_text(size), period, f"{count:,} answers of endpoints, in {file}")
    else:
        table.add_row(file, size_text(size), period, WIKIDATA)


def _clear(items: Sequence[CachedItem], chosen: set[str], *, days: float, yes: bool) -> None:
    """Delete what can be deleted, after a question; print what is left, and why."""
    deletable, remaining = divide_unused(items, days=days)
    before = None  # answers of an earlier time are deleted; None: all answers
    if days:
        before = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
    clears_answers = WIKIDATA in chosen and _has_answers(before)
    if not deletable and not clears_answers:
        _say_remaining(remaining)
        message = "there is nothing to delete"
        if WIKIDATA not in chosen and _answers_file().exists():
            message += f"; answers about Wikidata are in {_answers_file()}: kg-edit cache {WIKIDATA} --clear"
        say(message)
        return

    what = _describe(deletable, clears_answers=clears_answers)
    if yes:
        say(f"deleting {what}")  # nobody is asked, so the folders are named here
    else:
        size = f" ({_total_size(deletable)})" if deletable else ""
        if not _confirm(f"Delete {what}{size}?"):
            stdout().print("nothing was deleted")
            return
    deleted = _delete(deletable, before, clears_answers=clears_answers)
    _say_remaining(remaining)
    say(deleted)


def _delete(deletable: Sequence[CachedItem], before: str | None, *, clears_answers: bool) -> str:
    """Delete items, and with ``clears_answers`` the answers that are older than ``before``; return in words what."""
    messages = []
    for item in deletable:
        delete(item)
    if deletable:
        messages.append(f"{len(deletable)} deleted, {_total_size(deletable)}")
    if clears_answers:
        count = _delete_answers(before)
        noun = "answer" if count == 1 else "answers"
        messages.append(f"{count:,} {noun} about Wikidata deleted")
    return "; ".join(messages)


def _total_size(items: Iterable[CachedItem]) -> str:
    """Return the size of all items together, in words."""
    return size_text(sum(item.size for item in items))


def _describe(deletable: Sequence[CachedItem], *, clears_answers: bool) -> str:
    """Return in words what will be deleted, and from where."""
    parts = []
    if deletable:
        kinds = ", ".join(dict.fromkeys(item.kind for item in deletable))
        parts.append(f"{number_of(len(deletable), 'item')} ({kinds}) in {cache_folder()}")
    if clears_answers:
        parts.append(f"answers about Wikidata in {_answers_file()}, which `wikidata-cache export` saves")
    return " and ".join(parts)


def _confirm(question: str) -> bool:
    """Ask a question; without a terminal, refuse."""
    has_terminal = sys.stdin is not None and sys.stdin.isatty()  # a service has no stdin
    if not has_terminal:
        raise ConfigError(f"{question} Nobody can answer here; give --yes")
    return typer.confirm(question)


def _has_answers(before: str | None) -> bool:
    """Return whether answers about Wikidata are stored that are older than the time ``before``; None: any."""
    from wikidata_cache.answers.store import AnswerStore

    path = _answers_file()
    if not path.exists():
        return False
    with AnswerStore(path, read_only=True) as store:
        count, oldest, _ = store.find_span()
    if count == 0:
        return False
    if before is None:
        return True
    return oldest is not None and oldest < before


def _delete_answers(before: str | None) -> int:
    """Delete the answers that are older than the time ``before``, None: all, and return their number."""
    from wikidata_cache.answers.store import AnswerStore

    with AnswerStore(_answers_file()) as store:
        return store.forget(before=before)


def _say_remaining(remaining: Iterable[CachedItem]) -> None:
    """Print what can't be deleted, and why."""
    for item in remaining:
        why = "used in the last ten minutes"
        if item.foreign:
            why = f"{item.foreign[0].name} in it is not kg-edit's"
        say(f"left: {_name(item)}, {why}")


def _name(item: CachedItem) -> str:
    """Return the path of an item: its folder, or its file if there is only one."""
    if len(item.files) > 1:
        return str(item.path)
    return str(item.files[0])


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().date().isoformat()


def _answers_file() -> Path:
    """Return the file of the answers about Wikidata."""
    from wikidata_cache.answers.modes import cache_file

    return cache_file()
