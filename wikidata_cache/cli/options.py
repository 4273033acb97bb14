"""Options that several commands share, and what they open."""

from typing import Annotated

import typer

from wikidata_cache.cache import WikidataCache
from wikidata_cache.extract import packaged_extract

Graph = Annotated[
    str | None,
    typer.Option(
        "--graph",
        "-g",
        envvar="KG_GRAPH",
        help="FILE.nt.gz, .nt, .tsv, .tsv.gz, a folder, oxigraph:FOLDER or a SPARQL URL; "
        "by default the small extract that ships with the package.",
    ),
]
Contact = Annotated[
    str | None,
    typer.Option(envvar="KG_EDIT_CONTACT", help="Your e-mail address or URL; Wikimedia endpoints require it."),
]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids such as Q1345 or P19.")]


def open_cache(graph: str | None, contact: str | None) -> WikidataCache:
    """The graph that was asked for, or the packaged extract."""
    return WikidataCache(graph or packaged_extract(), contact=contact)
