"""What `fetch` says: its table, and the command that gets what an offline cache lacks."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.table import Table

from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.errors import BadOptionError, CacheMissError
from wikidata_cache.fetch import Fetched
from wikidata_cache.sources.source import Source

# What keeps it offline, and what a `Cure` knows itself.
_LEFT_OUT = ("edits", "offline", "mode", "as_of", "endpoint", "cache", "contact", "graph_name")
_OF_A_CACHE = {"cache": "--cache", "offline": "--offline", "mode": "--mode", "pack": "--pack", "as_of": "--as-of"}


@contextmanager
def naming_the_cure(context: typer.Context, source: Source) -> Iterator[None]:
    """Let a miss name the very command that was typed, without what kept it offline."""
    try:
        yield
    except CacheMissError as miss:
        if not isinstance(source, CachedSource):
            raise
        command = source.cure.command(*context.params["edits"], *_options(context))
        raise CacheMissError(miss.kind, miss.ids, miss.searched, command) from miss


@contextmanager
def stopped_politely() -> Iterator[None]:
    """End with one line and exit code 130 on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; what was fetched is kept, the same command goes on", err=True)
        raise typer.Exit(130) from None


def check_cached(context: typer.Context, source: Source) -> None:
    """Raise BadOptionError for options of the cache with a graph on this machine, which has none."""
    given = [option for name, option in _OF_A_CACHE.items() if _is_typed(context, name)]
    if given and not isinstance(source, CachedSource):
        raise BadOptionError(
            f"{source.name} is a local graph and needs no cache, so leave out {', '.join(given)}. For a smaller graph "
            f"use `wikidata-cache extract`; to fill a cache from it, `wikidata-cache serve` it and fetch from there."
        )


def report(fetched: Fetched) -> None:
    """Print the counts and the digest."""
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    rows = {
        "edits": len(fetched.graphs),
        "skipped": len(fetched.skipped),
        "labels that differ": len(fetched.contradictions),
        "nodes": sum(len(graph) for graph in fetched.graphs),
        "edges": sum(graph.number_of_edges() for graph in fetched.graphs),
        "requests": fetched.tally.requests,
        "ids asked for": fetched.tally.asked,
        "ids from the cache": fetched.tally.found,
    }
    for name, count in rows.items():
        if count or name not in ("skipped", "labels that differ"):
            table.add_row(name, f"{count:,}")
    Console().print(table)
    typer.echo(f"digest {fetched.digest}")


def _options(context: typer.Context) -> Iterator[str]:
    """The options that were typed, word by word."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _LEFT_OUT or not _is_typed(context, name):
            continue
        value = context.params[name]
        for one in value if isinstance(value, list | tuple) else [value]:
            yield parameter.opts[0]
            if one is not True:
                yield str(one)


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
