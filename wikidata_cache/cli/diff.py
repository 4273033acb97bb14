"""`wikidata-cache diff`: the facts that changed between two times, as a file of edits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kg_common.atomic import check_out, write_atomically
from kg_common.terminal import number_of
from wikidata_cache.answers.modes import cache_file, utc
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.cli.console import echo
from wikidata_cache.cli.options import Cache, GraphName
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
) -> None:
    """List the facts that changed between two times, and write them as edits.

    A change is an object of a relation that replaced another one. By default, two versions of the answers in the cache
    are compared: fetch them with `fetch --kind out`, and later again with `--mode refresh`. With `--dates`, one version
    is enough, from `fetch --kind claims`. No request is sent.

    Examples:

    - `wikidata-cache diff --since 2026-01-01`
    - `wikidata-cache diff --since 2026-01-01 --until 2026-07-01 --out changed.jsonl`
    - `wikidata-cache diff --since 2024-06-01 --dates --out changed.jsonl`
    """
    from rich.console import Console
    from rich.table import Table

    from wikidata_cache.changes import Change, dated_changes, edit_rows, version_changes

    start = utc(since)
    end = now() if until is None else utc(until)
    if start >= end:
        raise BadOptionError(f"--since {since} is not before --until {until or end}; give an earlier time.")
    if out is not None:
        check_out(out, ".jsonl", option="--out")
    with AnswerStore(cache_file(cache), read_only=True) as store:
        kind = "claims" if dates else "out"
        item_count = len(store.ids(graph_name, kind))
        if not item_count:
            other = ""
            if not dates and store.ids(graph_name, "claims"):
                other = "add --dates to read those of kind claims, or "
            path = store.path if store.path.exists() else f"{store.path} (no such file)"
            raise BadOptionError(
                f"{path} has no answers of the kind {kind} for the graph {graph_name}; {other}fetch some: "
                f"wikidata-cache fetch --kind {kind} Q42 --contact YOU@EXAMPLE.ORG"
            )
        compare = dated_changes if dates else version_changes
        changes = compare(store, graph=graph_name, since=start, until=end)
        entries = list(edit_rows(changes.replacements, store, graph=graph_name))
    rows = [row for row in entries if not isinstance(row, Change)]
    bare = [change for change in entries if isinstance(change, Change)]

    if rows:
        table = Table(box=None, pad_edge=False)
        for header in ("subject", "relation", "old object", "new object", "since"):
            table.add_column(header, overflow="fold")
        for row in rows:
            time = row["id"].rpartition(" ")[2]
            table.add_row(row["subject"], row["relation"], row["object"], row["new_object"], time)
        Console().print(table)
    counts = [f"{count} where {what}" for what, count in sorted(changes.other_counts.items())]
    left_out = f"; left out: {', '.join(counts)}" if counts else ""
    echo(f"{number_of(len(rows), 'change')} of {number_of(item_count, 'item')}{left_out}")
    if not changes.compared:
        echo(
            f"no item has answers from before {since}; later answers are added by `fetch --kind out ... --mode refresh`"
        )
    if bare:
        ids = sorted({id_ for change in bare for id_ in (change.subject, change.relation, change.old, change.new)})
        shown = " ".join(ids) if len(ids) <= 20 else "IDS..."
        echo(
            f"left out: {len(bare)} without labels in the cache; fetch them: wikidata-cache fetch --kind label {shown}"
        )
    if out is not None:
        write_atomically(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        echo(f"{out}: {len(rows)} edits")
