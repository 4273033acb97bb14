"""`wikidata-cache export` and `import`: a cache as one file to share."""

from pathlib import Path
from typing import Annotated

import typer

from wikidata_cache.answers.importing import OnConflict, import_snapshot
from wikidata_cache.answers.modes import cache_file, utc
from wikidata_cache.answers.snapshot import export_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.cli.options import Cache


def export(
    out: Annotated[Path, typer.Argument(metavar="FILE.jsonl.gz", help="The file to write.")],
    cache: Cache = None,
    latest: Annotated[bool, typer.Option("--latest", help="Only the newest version of every answer.")] = False,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="The versions that held at this time (ISO 8601, UTC).")
    ] = None,
    graph_name: Annotated[str | None, typer.Option(help="Only the graph kept under this name.")] = None,
) -> None:
    """Write the cache to one file: JSON lines, sorted, with a hash. The same cache gives the same bytes.

    Examples: `wikidata-cache export snapshot.jsonl.gz` ·
    `wikidata-cache export paper.jsonl.gz --cache paper.sqlite --latest`
    """
    with AnswerStore(cache_file(cache), read_only=True) as store:
        moment = utc(as_of) if as_of else None
        summary = export_snapshot(
            store, out, newest_only=latest or as_of is not None, as_of=moment, graph_name=graph_name
        )
    typer.echo(f"{out}: {summary.facts} facts, {summary.queries} requests, sha256 of the rows {summary.sha256}")


def import_(
    snapshot: Annotated[Path, typer.Argument(metavar="FILE.jsonl.gz", help="A file that `export` has written.")],
    cache: Cache = None,
    on_conflict: Annotated[
        OnConflict,
        typer.Option(help="Where the cache knows an id too: keep its answer, let the newer speak, or stop."),
    ] = "keep",
) -> None:
    """Add a snapshot to the cache, after checking its hash and every row; all of it, or nothing.

    Examples: `wikidata-cache import snapshot.jsonl.gz` ·
    `wikidata-cache import paper.jsonl.gz --cache paper.sqlite --on-conflict error`
    """
    with AnswerStore(cache_file(cache)) as store:
        done = import_snapshot(store, snapshot, on_conflict=on_conflict)
        typer.echo(f"{store.path}: {done.new} new facts of {done.facts}, {done.queries} requests in the log")
