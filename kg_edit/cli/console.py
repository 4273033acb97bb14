"""What the commands share on the terminal: where results go, quiet libraries, and errors as one message."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import typer
from rich.console import Console

from kg_common.terminal import harmless
from kg_edit.errors import KgEditError, ModelError, OutputError, is_memory_error
from kg_edit.text.display import plain
from wikidata_cache.errors import WikidataCacheError

_LONGEST = 300  # characters of an error of the system, which may have a long path
_PIPED = 200  # characters of a line of piped output


def stdout() -> Console:
    """Return the console for results; a new one for each output, so that it fits the terminal as it is now.

    Piped output has whole lines, unless ``COLUMNS`` is set.
    """
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPED
    return console


def stderr() -> Console:
    """Return the console for remarks."""
    return Console(stderr=True, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print one line of a result. It is not wrapped to the terminal's width, so that it can be copied and searched."""
    stdout().print(plain(text), soft_wrap=True)


@contextmanager
def quiet(*others: str) -> Iterator[None]:
    """Within the block, show only what the packages of kg-edit and the loggers ``others`` log.

    Two changes last beyond the block, as long as the process: a character that stdout or stderr can't show becomes a
    question mark, and the hub shows no progress bars unless ``HF_HUB_DISABLE_PROGRESS_BARS`` says otherwise.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # not every stream that replaces these has it
        if reconfigure is not None:
            reconfigure(errors="replace")
    with warnings.catch_warnings(), ExitStack() as shown:
        for name in ("kg_edit", "wikidata_cache", "kg_common", *others):
            shown.enter_context(_remarks(name))
        warnings.simplefilter("ignore")
        yield


@contextmanager
def friendly(*others: str) -> Iterator[None]:
    """End a script with one message and exit code 2 on an error that a user can mend, or 130 on Ctrl-C.

    Args:
        others: names of loggers whose remarks are shown besides those of the packages.
    """
    with quiet(*others):
        try:
            yield
        except (KgEditError, WikidataCacheError) as error:
            report(error)
            raise SystemExit(2) from None
        except KeyboardInterrupt as error:
            notes = getattr(error, "__notes__", ())
            typer.echo("\n  ".join(["kg-edit: stopped", *notes]), err=True)
            raise SystemExit(130) from None
        except OSError as error:
            way = "check the path, its permissions, and the free space"
            message = f"{str(error)[:_LONGEST]}; {way}"
            if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
                # Some libraries ask for the folder as soon as they are imported
                way = "free disk space, or set TMPDIR to a folder with free space"
                message = f"no folder for temporary files can be written to; {way}"
            report(OutputError(message))
            raise SystemExit(2) from None
        except Exception as error:
            if not is_memory_error(error):
                raise
            lines = str(error).splitlines() or ["MemoryError"]
            way = "give smaller files or settings, or see with `kg-edit plan` what the run needs"
            report(ModelError(f"there is not enough memory ({lines[0]}); {way}"))
            raise SystemExit(2) from None


@contextmanager
def _remarks(name: str) -> Iterator[None]:
    """Write what a logger and its children log to stderr while the block runs."""
    logger = logging.getLogger(name)
    handler = logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def report(error: Exception) -> None:
    """Write an error that a user can mend to stderr: its message and its notes; its traceback only if asked for."""
    if os.environ.get("KG_EDIT_TRACEBACK"):
        traceback.print_exception(error)
    notes = getattr(error, "__notes__", ())
    typer.echo(harmless("\n  ".join([f"kg-edit: {error}", *notes])), err=True)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
