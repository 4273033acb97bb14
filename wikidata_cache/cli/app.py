"""`wikidata-cache`: the command-line application. Thin; the work is in the library.

The short commands are here: doctor, extract, load, labels, find, serve, export, import. `show`, `fetch` and `link` have
files of their own. `main` is the console entry point.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wikidata_cache.answers.modes import cache_file, utc
from wikidata_cache.answers.snapshot import OnConflict, export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.cli import fetch, link, show
from wikidata_cache.cli.console import one_line, say, say_row, set_up_console
from wikidata_cache.cli.options import Cache, Contact, Graph, Ids, Offline, open_cache
from wikidata_cache.errors import BadOptionError, WikidataCacheError
from wikidata_cache.extract import PER_NODE, build_extract, check_out, read_seeds
from wikidata_cache.ids import release

if TYPE_CHECKING:
    from wikidata_cache.stores.load import LoadReport

_INTERRUPTED = 130  # what typer makes of Ctrl-C
_AFTER_INTERRUPT = {
    "fetch": "; what was fetched is kept; run the same command again to continue",
    "load": "; run the same command again to continue",
    "import": "; the cache is unchanged",
    "export": "; nothing was written",
    "extract": "; nothing was written",
}
_FAULT = 70  # the exit code of a fault of this program, as sysexits.h has it


def doctor(graph: Graph = None, cache: Cache = None) -> None:
    """Check versions, the packaged extract, the cache file and optional parts; exit code 1 if something is broken.

    For a store made by `load`, every file is read and compared with what was loaded.

    The network is used only if `--graph` names an endpoint, which then gets one small query.

    Examples: `wikidata-cache doctor` · `wikidata-cache doctor --cache paper.sqlite` · `wikidata-cache doctor -g wd/`
    """
    from wikidata_cache.doctor import examine

    is_sound = True
    for finding in examine(graph, cache=cache):
        mark = typer.style("ok    ", fg="green") if finding.ok else typer.style("BROKEN", fg="red", bold=True)
        typer.echo(f"{mark} {one_line(f'{finding.what}: {finding.found}')}")
        is_sound = is_sound and finding.ok
    if not is_sound:
        raise typer.Exit(1)


def extract(
    seeds: Annotated[Path, typer.Argument(metavar="SEEDS.tsv", help="TSV file with ids in the first column.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.nt.gz", help="The file to write.")],
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
    per_node: Annotated[
        list[int] | None,
        typer.Option(help=f"Statements to keep per item; repeat the option for each hop. Default: {PER_NODE}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Extract the neighbourhoods of some seed items from a large graph, with all labels.

    Example: `wikidata-cache extract seeds.tsv small.nt.gz -g wikidata.nt.gz --per-node 80 --per-node 20`
    """
    check_out(out)
    if out.exists() and any(Path(part).exists() and out.samefile(part) for part in (graph or "").split(",")):
        raise BadOptionError(f"{out} is the graph itself; give another name for the extract.")
    try:
        wanted = read_seeds(seeds)
    except (OSError, UnicodeDecodeError) as error:
        raise WikidataCacheError(f"{seeds} cannot be read ({error}); expected a TSV file of ids.") from error
    source = open_cache(graph, contact, cache=cache, offline=offline).source
    report = build_extract(source, wanted, out, per_node=per_node or PER_NODE, seed=seed)
    say(f"{out}: {report.statements} statements, {report.labels} labels, {report.bytes} bytes, sha256 {report.sha256}")


def load(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="N-Triples, TSV, a Wikidata dump (RDF or JSON), plain or as .gz or .bz2, a folder of these, "
            "or a CoDEx folder.",
        ),
    ],
    store: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the new store.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store.")] = False,
    keep_all: Annotated[
        bool,
        typer.Option("--keep-all", help="Keep every triple of N-Triples files, not only those this package uses."),
    ] = False,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Skip lines that cannot be read instead of stopping.")
    ] = False,
) -> None:
    """Build a store on disk, with a label index, from dumps and graph files.

    The store appears when it is complete. After an interruption, the same command resumes.

    Example: `wikidata-cache load wikidata.nt.gz labels.nt.gz --store wd/`
    """
    from wikidata_cache.stores import load as loading  # numpy takes a tenth of a second to import

    options = loading.LoadOptions(keep_all=keep_all, skip_bad_lines=skip_bad_lines)
    report = loading.load(sources, store, force=force, options=options)
    _print_report(store, report)


def _print_report(store: Path, report: LoadReport) -> None:
    counts, seconds = report.manifest.counts, report.seconds
    speed = f"; {counts['triples'] / seconds:,.0f} triples a second" if seconds else ""
    say(
        f"{store}: {counts['triples']:,} triples, {counts['statements']:,} statements about {counts['items']:,} items "
        f"with {counts['properties']:,} properties, {counts['named']:,} entities with a name\n"
        f"{seconds:.1f} s for the triples and {report.label_seconds:.1f} s for the label index{speed}\n"
        f"content hash {report.manifest.content_hash}"
    )
    if report.skipped:
        say(f"{report.skipped:,} lines could not be read and were left out")


def labels(
    ids: Ids, graph: Graph = None, contact: Contact = None, cache: Cache = None, offline: Offline = False
) -> None:
    """Print the English labels of items and properties; an id without a label gets an empty cell.

    Examples: `wikidata-cache labels Q1345 P19` · `wikidata-cache labels Q42 -g graph.nt.gz`
    """
    found = open_cache(graph, contact, cache=cache, offline=offline).labels(ids)
    for entity in ids:
        say_row(entity, found.get(entity, ""))


def find(
    label: Annotated[str, typer.Argument(help="The exact label.")],
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
) -> None:
    """Print the ids of all entities with exactly this label; exit code 1 if there are none.

    Examples: `wikidata-cache find Philadelphia` · `wikidata-cache find "place of birth"`
    """
    found = open_cache(graph, contact, cache=cache, offline=offline).find(label)
    for entity in found:
        say(entity)
    if not found:
        raise typer.Exit(1)


def serve(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store made by `load`, or an Oxigraph folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 picks a free one.")] = 7878,
    timeout: Annotated[int, typer.Option(min=1, help="Time limit of a query in seconds.")] = 60,
) -> None:
    """Serve a store as a SPARQL endpoint (/query) to this machine only, until Ctrl-C.

    Example: `wikidata-cache serve wd/ --port 7878`
    """
    from wikidata_cache.serving.server import served

    stopped = threading.Event()
    with served(store, port=port, timeout_s=timeout) as url:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_: stopped.set())
        say(f"{url} is up; stop it with Ctrl-C. For example:")
        say(f"  curl {url} -H 'Accept: text/csv' --data-urlencode 'query=SELECT * {{ ?s ?p ?o }} LIMIT 5'")
        say(f"  wikidata-cache show Q1345 --graph {url}")
        stopped.wait()
    say("stopped")


def export(
    out: Annotated[Path, typer.Argument(metavar="FILE.jsonl.gz", help="The file to write.")],
    cache: Cache = None,
    latest: Annotated[bool, typer.Option("--latest", help="Only the newest version of every answer.")] = False,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only the versions valid at this time (ISO 8601, UTC).")
    ] = None,
    graph_name: Annotated[str | None, typer.Option(help="Only the graph with this name in the cache.")] = None,
) -> None:
    """Export the cache to one file of sorted JSON lines with a hash. The same cache gives the same bytes.

    Examples: `wikidata-cache export snapshot.jsonl.gz` ·
    `wikidata-cache export paper.jsonl.gz --cache paper.sqlite --latest`
    """
    with AnswerStore(cache_file(cache), read_only=True) as store:
        moment = None if as_of is None else utc(as_of)
        summary = export_snapshot(
            store, out, newest_only=latest or as_of is not None, as_of=moment, graph_name=graph_name
        )
    say(f"{out}: {summary.facts} facts, {summary.queries} requests, sha256 of the rows {summary.sha256}")


def import_(
    snapshot: Annotated[Path, typer.Argument(metavar="FILE.jsonl.gz", help="File written by `export`.")],
    cache: Cache = None,
    on_conflict: Annotated[
        OnConflict,
        typer.Option(help="If the cache has an answer too: keep it, use the newer one, or stop."),
    ] = "keep",
) -> None:
    """Import a snapshot into the cache after checking its hash and every row; all of it or nothing.

    Examples: `wikidata-cache import snapshot.jsonl.gz` ·
    `wikidata-cache import paper.jsonl.gz --cache paper.sqlite --on-conflict error`
    """
    with AnswerStore(cache_file(cache)) as store:
        done = import_snapshot(store, snapshot, on_conflict=on_conflict)
        say(f"{store.path}: {done.new} of {done.facts} facts are new; {done.queries} requests in its log")


_HELP = "Fetch, cache, link and show subgraphs of Wikidata."

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
for command in (show.show, labels, find, link.link, extract, fetch.fetch, export):
    app.command()(command)
app.command()(load)
app.command()(serve)
app.command()(doctor)
app.command("import")(import_)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"wikidata-cache {release()}")
        raise typer.Exit


@app.callback(help=_HELP)
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def _run() -> None:
    """Run the command that is typed; Ctrl-C ends it with one line and exit code 130."""
    try:
        app()
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        command = next((word for word in sys.argv[1:] if word in _AFTER_INTERRUPT), "")
        say(f"stopped{_AFTER_INTERRUPT.get(command, '')}", err=True)
        raise SystemExit(_INTERRUPTED) from None


def main() -> None:
    """The entry point: errors of this package and of files end with one line and exit code 2, faults with 70."""
    set_up_console()
    try:
        _run()
    except (WikidataCacheError, OSError) as error:
        say(f"wikidata-cache: {one_line(str(error))}", err=True)
        raise SystemExit(2) from None
    except Exception:  # exit code 1 means something else to whoever calls `link`, `find` and `doctor`
        logging.exception("internal error; please report it with the traceback below")
        raise SystemExit(_FAULT) from None
