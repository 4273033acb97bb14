"""`wikidata-cache`: subgraphs of Wikidata from the command line. Thin; the work is in the library."""

import logging
from typing import Annotated

import typer

from wikidata_cache.cli import doctor, extract, fetch, link, load, lookup, serve, show, snapshot
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.release import release

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
for command in (show.show, lookup.labels, lookup.find, link.link, extract.extract, fetch.fetch, snapshot.export):
    app.command()(command)
app.command()(load.load)
app.command()(serve.serve)
app.command()(doctor.doctor)
app.command("import")(snapshot.import_)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wikidata-cache {release()}")
        raise typer.Exit


@app.callback(help=__doc__)
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """The console entry point: errors of this package and of files end with one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app()
    except (WikidataCacheError, OSError) as error:
        typer.echo(f"error: {' '.join(str(error).splitlines())}", err=True)
        raise SystemExit(2) from None
