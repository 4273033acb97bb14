"""`kg-edit audit`: how the weights of an edited checkpoint differ from its base, and whether a ledger explains it.

Without a base it lists the weights that stand out among those of their kind.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kg_common.terminal import number_of
from kg_edit.cli.console import say, stdout
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import refuse_unused
from kg_edit.errors import ConfigError

if TYPE_CHECKING:
    from kg_edit.ship.checkpoint.audit import Finding
    from kg_edit.ship.checkpoint.spectrum import Outlier


def audit(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The edited model: a folder or a hub id.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="The unedited model: a folder or a hub id.", show_default="none: which weights stand out in MODEL?"
        ),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(metavar="LEDGER", help="Ledger or patch file whose edits MODEL should have in its weights."),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Names of things, one a line: which of them does a change answer to?"),
    ] = None,
    fail_on_unexplained: Annotated[
        bool, typer.Option("--fail-on-unexplained", help="Exit with 1 if the ledger does not explain a difference.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare an edited checkpoint with its base, and say what a ledger does not explain.

    With `--base`, the table has a row for each weight that differs. Rank and norm are those of the difference, without
    what the rounding of the number type explains. "Left over" is what remains of it without the ledger's edits.
    "Writes" names the tokens whose logits its strongest direction changes most. "Answers to" names the things on which
    it acts most when the model reads them; it needs `--names`, and is known for down-projections only. Without
    `--names`, the model is not loaded. Without `--base`, the table has the weights whose singular values stand out
    against those of the same kind in the other blocks: large edits and many edits, and some weights of every unedited
    model too.

    Examples:

    - `kg-edit audit merged/ --base base/ --ledger ledger/ --fail-on-unexplained`
    - `kg-edit audit merged/`
    """
    if base is None:
        refuse_unused(
            context, ("ledger", "names", "fail_on_unexplained"), "without --base", way="also give --base BASE"
        )
        _audit_alone(model, as_json=as_json)
        return
    if ledger is None:
        refuse_unused(context, ("fail_on_unexplained",), "without --ledger", way="also give --ledger LEDGER")
    things = _read_names(names) if names else ()
    from kg_edit.ship.checkpoint.audit import audit as compare
    from kg_edit.ship.checkpoint.stored import Checkpoint
    from kg_edit.ship.ledger.listing import active_at

    patch = None
    if ledger:
        patch, _ = active_at(ledger)
    loaded = load_model(base) if things else None
    findings = compare(Checkpoint.of(base), Checkpoint.of(model), ledger=patch, names=things, model=loaded)
    if as_json:
        say(json.dumps([{**asdict(finding), "explained": finding.is_explained} for finding in findings]))
    else:
        _show(findings, has_ledger=ledger is not None)
    if fail_on_unexplained and not all(finding.is_explained for finding in findings):
        raise typer.Exit(1)


def _audit_alone(model: str, *, as_json: bool) -> None:
    """Print the weights of a model that stand out; in JSON, all of them."""
    from kg_edit.ship.checkpoint.spectrum import STANDS_OUT, find_outliers
    from kg_edit.ship.checkpoint.stored import Checkpoint

    outliers = find_outliers(Checkpoint.of(model))
    if as_json:
        say(json.dumps([{**asdict(outlier), "stands_out": outlier.stands_out} for outlier in outliers]))
        return
    listed = [outlier for outlier in outliers if outlier.stands_out]
    if listed:
        stdout().print(_make_outlier_table(listed))
    verb = "stands" if len(listed) == 1 else "stand"
    say(
        f"{len(listed)} of {number_of(len(outliers), 'weight')} {verb} out (deviation of {STANDS_OUT:g} or more); an "
        "unedited model has such weights too: give --base to see what differs"
    )


def _make_outlier_table(outliers: list[Outlier]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("weight", "deviation", "singular value", "usually", "writes"):
        table.add_column(header, overflow="fold")
    for outlier in outliers:
        value = f"no. {outlier.place}: {outlier.value:.3g}"
        written = " ".join(repr(token) for token in outlier.writes)
        table.add_row(outlier.name, f"{outlier.deviation:.1f}", value, f"{outlier.usual:.3g}", written)
    return table


def _read_names(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't read the names in {file}: {error}; give a text file, one name a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ConfigError(f"{file} has no names; write one a line")
    return names


def _show(findings: tuple[Finding, ...], *, has_ledger: bool) -> None:
    if not findings:
        say("no weight differs from the base")
        return
    stdout().print(_make_table(findings))
    verb = "differs" if len(findings) == 1 else "differ"
    differ = f"{number_of(len(findings), 'weight')} {verb}"
    if has_ledger:
        unexplained = sum(not finding.is_explained for finding in findings)
        say(f"{differ}; the ledger leaves {unexplained} of them unexplained")
    else:
        say(f"{differ}; give --ledger to see whether its edits explain that")


def _make_table(findings: tuple[Finding, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("weight", "rank", "norm", "left over", "writes", "answers to"):
        table.add_column(header, overflow="fold")
    for finding in findings:
        rank = "" if finding.rank is None else str(finding.rank)
        left_over = ""
        if finding.is_explained:
            left_over = "explained"
        elif finding.left_over is not None:
            left_over = f"rank {finding.left_over_rank}, norm {finding.left_over:.3g}"
        written = " ".join(repr(token) for token in finding.writes)
        answered = ", ".join(finding.answers_to)
        table.add_row(finding.name, rank, f"{finding.norm:.3g}", left_over, written, answered)
    return table
