"""`wikidata-cache diff`: the facts that changed between two times, as a file of edits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from kg_common.atomic import check_out, write_atomically
from kg_common.terminal import number_of, plain
from wikidata_cache.answers.modes import cache_file, utc
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.changes import Change, Changes, compare_dates, compare_versions, make_edit_rows
from wikidata_cache.cli.console import echo, table_console
from wikidata_cache.cli.options import Cache, GraphName, Language, read_languages
from wikidata_cache.endpoints.endpoint import now
from wikidata_cache.errors import BadOptionError


def diff(
    since: Annotated[str, typer.Option(metavar="TIME", help="Earlier time (ISO 8601, UTC).")],
    until: Annotated[
        str | None, typer.Option(metavar="TIME", show_default="now", help="Later time (ISO 8601, UTC).")
    ] = None,
    dates: Annotated[
        bool, typer.Option("--dates", help="Use the start and end times of statements instead of two versions.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="File of edits to write, for `kg-edit edit`.")
    ] = None,
    cache: Cache = None,
    graph_name: GraphName = "wikidata",
    language: Language = None,
) -> None:
    """List the facts that changed between two times, and write them as edits.

    A change is an object of a relation that replaced another one. By default, two versions of the answers in the cache
    are compared: fetch them with `fetch --kind out`, and later again with `--mode refresh`. With `--dates`, one version
    is enough, from `fetch --kind claims`. No request is sent.

    Examples:

    - `wikidata-cache diff --since 2026-01-01`
    - `wikidata-cache diff --since 2026-01-01 --until 2026-07-01 --out changed.jsonl`
    - `wikidata-cache diff --since 2024-06-01 --dates --out changed.jsonl`
    - `wikidata-cache diff --since 2026-01-01 --language zh --out changed.jsonl`
    """
    languages = read_languages(language)
    start = utc(since)
    end = now()
    if until is not None:
        end = utc(until)
    if start >= end:
        raise BadOptionError(f"--since {since} is not before --until {until or end}; give an earlier time.")
    if out is not None:
        check_out(out, ".jsonl", option="--out")
    with AnswerStore(cache_file(cache), read_only=True) as store:
        kind = "out"
        compare = compare_versions
        if dates:
            kind = "claims"
            compare = compare_dates
        item_count = len(store.list_ids(graph_name, kind))
        if item_count == 0:
            raise BadOptionError(_explain_no_answers(store, graph_name, kind))
        changes = compare(store, graph=graph_name, since=start, until=end)
        rows, unlabelled = make_edit_rows(changes.replacements, store, graph=graph_name, languages=languages)

    if rows:
        _print_rows(rows)
    echo(_summarize(changes, len(rows), item_count))
    if not changes.compared:
        echo(
            f"no item has answers from before {since}; later answers are added by `fetch --kind out ... --mode refresh`"
        )
    if unlabelled:
        _print_unlabelled(unlabelled)
    if out is not None:
        write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        echo(f"{out}: {len(rows)} edits")


def _summarize(changes: Changes, row_count: int, item_count: int) -> str:
    summary = f"{number_of(row_count, 'change')} of {number_of(item_count, 'item')}"
    counts = [f"{count} where {what}" for what, count in sorted(changes.other_counts.items())]
    if counts:
        summary += f"; left out: {', '.join(counts)}"
    return summary


def _explain_no_answers(store: AnswerStore, graph_name: str, kind: str) -> str:
    """Return the message for a cache without answers of the kind: where to get some."""
    path = str(store.path)
    if not store.path.exists():
        path += " (no such file)"
    other = ""
    if kind == "out" and store.list_ids(graph_name, "claims"):
        other = "add --dates to read those of kind claims, or "
    return (
        f"{path} has no answers of the kind {kind} for the graph {graph_name}; {other}fetch some: "
        f"wikidata-cache fetch --kind {kind} Q42 --contact YOU@EXAMPLE.ORG"
    )


def _print_rows(rows: Sequence[Mapping[str, str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header in ("subject", "relation", "old object", "new object", "since"):
        table.add_column(header, overflow="fold")
    for row in rows:
        time = row["id"].rpartition(" ")[2]  # an id ends with the time of the change
        cells = (row["subject"], row["relation"], row["object"], row["new_object"], time)
        table.add_row(*map(plain, cells))
    table_console().print(table)


def _print_unlabelled(changes: Sequence[Change]) -> None:
    """Print how many changes lack labels, and the command that fetches these."""
    ids = set[str]()
    for change in changes:
        ids |= change.ids
    shown = "IDS..."
    if len(ids) <= 20:
        shown = " ".join(sorted(ids))
    echo(f"left out: {len(changes)} without labels in the cache; fetch them: wikidata-cache fetch --kind label {shown}")
