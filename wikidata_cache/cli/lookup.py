"""`wikidata-cache labels` and `find`: from ids to labels and back."""

from typing import Annotated

import typer

from wikidata_cache.cli.options import Cache, Contact, Graph, Ids, Offline, open_cache


def labels(
    ids: Ids, graph: Graph = None, contact: Contact = None, cache: Cache = None, offline: Offline = False
) -> None:
    """Print the English labels of items and properties; an id without one gets an empty cell.

    Examples: `wikidata-cache labels Q1345 P19` · `wikidata-cache labels Q42 -g graph.nt.gz`
    """
    found = open_cache(graph, contact, cache=cache, offline=offline).labels(ids)
    for entity in ids:
        typer.echo(f"{entity}\t{found.get(entity, '')}")


def find(
    label: Annotated[str, typer.Argument(help="A label, exactly as it is written.")],
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
) -> None:
    """Print the ids of everything with exactly this label; exit code 1 if there is nothing.

    Examples: `wikidata-cache find Philadelphia` · `wikidata-cache find "place of birth"`
    """
    found = open_cache(graph, contact, cache=cache, offline=offline).find(label)
    for entity in found:
        typer.echo(entity)
    if not found:
        raise typer.Exit(1)
