"""`wikidata-cache serve`: a SPARQL endpoint on loopback."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from wikidata_cache.stores.serve import served


def serve(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store made by `load`, or an Oxigraph folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")] = 7878,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds after which a query is cut off.")] = 60,
) -> None:
    """Answer SPARQL queries about a store at /query, to this machine only, until Ctrl-C.

    Example: `wikidata-cache serve wd/ --port 7878`
    """
    stopped = threading.Event()
    with served(store, port=port, timeout_s=timeout) as url:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: stopped.set())
        typer.echo(f"{url} is up; stop it with Ctrl-C. For example:")
        typer.echo(f"  curl {url} -H 'Accept: text/csv' --data-urlencode 'query=SELECT * {{ ?s ?p ?o }} LIMIT 5'")
        typer.echo(f"  wikidata-cache show Q1345 --graph {url}")
        stopped.wait()
    typer.echo("stopped")
