"""`wikidata-cache extract`: a small graph file out of a big graph."""

from pathlib import Path
from typing import Annotated

import typer

from wikidata_cache.cli.options import Cache, Contact, Graph, Offline, open_cache
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.extract import PER_NODE, build_extract, check_out, read_seeds


def extract(
    seeds: Annotated[Path, typer.Argument(metavar="SEEDS.tsv", help="Header row, then an id in column one.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.nt.gz", help="The file to write.")],
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
    per_node: Annotated[
        list[int] | None,
        typer.Option(help=f"Statements kept of each item, once for each hop. Default: {PER_NODE}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Cut the neighbourhoods of some seeds out of a big graph, with all labels.

    Example: `wikidata-cache extract seeds.tsv small.nt.gz -g wikidata.nt.gz --per-node 80 --per-node 20`
    """
    check_out(out)
    try:
        wanted = read_seeds(seeds)
    except (OSError, UnicodeDecodeError) as error:
        raise WikidataCacheError(f"{seeds} cannot be read ({error}); expected a TSV file of ids.") from error
    source = open_cache(graph, contact, cache=cache, offline=offline).source
    report = build_extract(source, wanted, out, per_node=per_node or PER_NODE, seed=seed)
    typer.echo(
        f"{out}: {report.statements} statements, {report.labels} labels, {report.bytes} bytes, sha256 {report.sha256}"
    )
