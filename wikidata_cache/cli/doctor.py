"""`wikidata-cache doctor`: is all that is needed here, and does it work?"""

import typer

from wikidata_cache.cli.options import Cache, Graph
from wikidata_cache.doctor import examine


def doctor(graph: Graph = None, cache: Cache = None) -> None:
    """Look at versions, the packaged extract, the cache file and what is optional; exit code 1 if something is broken.

    Of a store made by `load` every file is read and compared with what was loaded.

    Nobody on the network is asked, unless `--graph` names an endpoint: then it gets one small question.

    Examples: `wikidata-cache doctor` · `wikidata-cache doctor --cache paper.sqlite` · `wikidata-cache doctor -g wd/`
    """
    well = True
    for finding in examine(graph, cache=cache):
        mark = typer.style("ok    ", fg="green") if finding.ok else typer.style("BROKEN", fg="red", bold=True)
        typer.echo(f"{mark} {finding.what}: {finding.found}")
        well = well and finding.ok
    if not well:
        raise typer.Exit(1)
