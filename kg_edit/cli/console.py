"""What the commands share on the terminal: where results go, quiet libraries, and errors as one message."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from kg_edit.errors import KgEditError, OutputError
from kg_edit.text.display import one_line, plain
from wikidata_cache.errors import WikidataCacheError

if TYPE_CHECKING:
    from kg_edit.callbacks import Callback
    from kg_edit.edits.edit import Edit
    from kg_edit.methods import EditingMethod
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.reports.report import Verdict


_NO_TEMPORARY = (
    "no folder for temporary files can be written to; free disk space, or set TMPDIR to a folder with free space"
)


def stdout() -> Console:
    """Where results go; made again for each output, so that it fits the terminal as it is now."""
    return Console(highlight=False, emoji=False)


def stderr() -> Console:
    """Where remarks go, beside the results."""
    return Console(stderr=True, highlight=False, emoji=False)


def run(
    method: EditingMethod,
    model: LanguageModel,
    edits: tuple[Edit, ...],
    out: Path,
    *,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Verdict:
    """Make the edits, draw the first one's subgraph, show what changed; which of them are said."""
    from kg_edit.reports.edit_run import LOSSES, PAGE, RECORDS, REPORT, draw_subgraph, run_edits
    from kg_edit.reports.report import Verdict, terminal_table
    from kg_edit.storage.run_folder import PATCH

    rows = run_edits(method, model, edits, out, force=force, callbacks=callbacks)
    picture = draw_subgraph(method, edits[0], out)
    stdout().print(terminal_table(rows))
    verdict = Verdict.of(rows)
    stdout().print(plain(one_line(str(verdict))), style="yellow" if verdict.missed else "green")
    files = [
        name for name in (PATCH, RECORDS, LOSSES, REPORT, PAGE) if (out / name).is_file()
    ]  # earlier versions made fewer
    files += [picture.name] if picture else []
    _list_files(out, files)
    return verdict


def _list_files(out: Path, files: Sequence[str]) -> None:
    """The folder and its files: on a line where they fit, else the folder, which stays whole, above the files."""
    console, line = stdout(), f"{plain(str(out))}: {', '.join(files)}"
    if len(line) <= console.width:
        console.print(line, soft_wrap=True)
        return
    console.print(f"{plain(str(out))}:", soft_wrap=True)
    console.print(", ".join(files))


@contextmanager
def quiet() -> Iterator[None]:
    """Only the two packages' own remarks reach the terminal; whatever it can't show becomes a question mark."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
    with warnings.catch_warnings(), _remarks("kg_edit"), _remarks("wikidata_cache"):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def friendly() -> Iterator[None]:
    """For scripts: errors that a user can mend end them with one message and exit code 2."""
    with quiet():
        try:
            yield
        except (KgEditError, WikidataCacheError) as error:
            report(error)
            raise SystemExit(2) from None
        except FileNotFoundError as error:
            if "temporary directory" not in str(error):
                raise
            report(OutputError(_NO_TEMPORARY))  # some libraries ask for the folder as soon as they are imported
            raise SystemExit(2) from None


@contextmanager
def _remarks(package: str) -> Iterator[None]:
    """Write what a package logs to stderr while the block runs."""
    logger, handler = logging.getLogger(package), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def report(error: Exception) -> None:
    """An error that a user can mend: its message and its notes on stderr."""
    notes = getattr(error, "__notes__", ())
    typer.echo("\n  ".join([f"kg-edit: {error}", *notes]), err=True)
