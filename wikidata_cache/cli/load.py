"""`wikidata-cache load`: dumps and graph files into a store on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wikidata_cache.stores.load import LoadReport


def load(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="N-Triples, TSV, a Wikidata dump (RDF or JSON), plain or as .gz or .bz2, a folder of these, "
            "or a CoDEx folder.",
        ),
    ],
    store: Annotated[Path, typer.Option(metavar="FOLDER", help="The store to make.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a store that is there already.")] = False,
    keep_all: Annotated[
        bool,
        typer.Option("--keep-all", help="Keep every triple of N-Triples, not only what this package asks for."),
    ] = False,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Leave out lines that cannot be read instead of stopping.")
    ] = False,
) -> None:
    """Make a store on disk, with a label index, of dumps and graph files.

    It is put in place when it is whole; after an interruption, the same command goes on where it stopped.

    Example: `wikidata-cache load wikidata.nt.gz labels.nt.gz --store wd/`
    """
    from wikidata_cache.stores import load as loading  # numpy takes a tenth of a second to import

    options = loading.LoadOptions(keep_all=keep_all, skip_bad_lines=skip_bad_lines)
    report = loading.load(sources, store, force=force, options=options)
    _say(store, report)


def _say(store: Path, report: "LoadReport") -> None:
    counts, seconds = report.manifest.counts, report.seconds
    speed = f"; {counts['triples'] / seconds:,.0f} triples a second" if seconds else ""
    typer.echo(
        f"{store}: {counts['triples']:,} triples, {counts['statements']:,} statements about {counts['items']:,} items "
        f"with {counts['properties']:,} properties, {counts['named']:,} entities with a name\n"
        f"{seconds:.1f} s for the triples and {report.label_seconds:.1f} s for the label index{speed}\n"
        f"content hash {report.manifest.content_hash}"
    )
    if report.skipped:
        typer.echo(f"{report.skipped:,} lines could not be read and were left out")
