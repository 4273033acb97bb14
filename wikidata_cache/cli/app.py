"""`wikidata-cache`: the command-line application. The work is in the library.

The short commands are here: doctor, extract, load, labels, find, export, import. `show`, `fetch`, `diff`,
`rules` and `link` have files of their own. `main` is the console entry point.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from kg_common.atomic import check_out
from kg_common.commands import Commands
from kg_common.terminal import one_line
from wikidata_cache.answers.modes import cache_file, utc
from wikidata_cache.answers.snapshot import OnConflict, export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.cli import diff, fetch, link, rules, show
from wikidata_cache.cli.console import echo, echo_row, set_up_console
from wikidata_cache.cli.options import (
    Cache,
    Contact,
    Graph,
    Ids,
    Language,
    Offline,
    Seed,
    open_cache,
    read_languages,
)
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.extract import PER_NODE, add_labels, build_extract, names_extract, packaged_extract, read_seeds
from wikidata_cache.languages import ALL_LANGUAGES, DEFAULT_LANGUAGES, Languages, list_families
from wikidata_cache.stores.inputs import LoadOptions
from wikidata_cache.version import release

_INTERRUPTED = 130  # what typer makes of Ctrl-C
_AFTER_INTERRUPT = {
    "fetch": "; fetched answers are in the cache; run the same command again to continue",
    "load": "; run the same command again to continue",
    "import": "; the cache is unchanged",
    "export": "; nothing was written",
    "extract": "; nothing was written",
}
_FAULT = 70  # the exit code of a fault of this program, as sysexits.h has it


def doctor(graph: Graph = None, cache: Cache = None) -> None:
    """Check versions, the packaged extract, the cache file and optional parts.

    For a store made by `load`, every file is read and compared with what was loaded. The network is used only if
    `--graph` names an endpoint, which then gets a few small queries. The exit code is 1 if something is broken.

    Examples:

    - `wikidata-cache doctor`
    - `wikidata-cache doctor --cache paper.sqlite`
    - `wikidata-cache doctor -g wd/`
    """
    from wikidata_cache.doctor import examine

    is_sound = True
    for finding in examine(graph, cache=cache):
        mark = typer.style("ok    ", fg="green")
        if not finding.ok:
            mark = typer.style("BROKEN", fg="red", bold=True)
        report = one_line(f"{finding.what}: {finding.result}")
        typer.echo(f"{mark} {report}")
        is_sound = is_sound and finding.ok
    if not is_sound:
        raise typer.Exit(1)


def extract(
    context: typer.Context,
    seeds: Annotated[Path, typer.Argument(metavar="SEEDS.tsv", help="TSV file with ids in the first column.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.nt.gz", help="File to write.")],
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
    per_node: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            metavar="N",
            show_default=" ".join(map(str, PER_NODE)),
            help="Statements per item, hop by hop. Repeatable.",
        ),
    ] = None,
    seed: Seed = 0,
    language: Language = None,
) -> None:
    """Extract the labelled neighbourhoods of some items from a large graph.

    Examples:

    - `wikidata-cache extract seeds.tsv small.nt.gz -g wikidata.nt.gz --per-node 80 --per-node 20`
    """
    inputs = []
    if graph:
        inputs = [Path(part) for part in graph.split(",")]  # several files, such as "wikidata.nt.gz,labels.nt.gz"
    check_out(out, ".nt.gz", inputs=inputs)
    try:
        ids = read_seeds(seeds)
    except (OSError, UnicodeDecodeError) as error:
        raise WikidataCacheError(f"{seeds} cannot be read ({error}); expected a TSV file of ids.") from error
    opened = open_cache(graph, context=context, offline=offline, language=language, contact=contact, cache=cache)
    languages = opened.facts.languages
    report = build_extract(
        opened.source, ids, out, per_node=per_node or PER_NODE, sampling_seed=seed, languages=languages
    )
    echo(f"{out}: {report.statements} statements, {report.labels} labels, {report.bytes} bytes, sha256 {report.sha256}")


def load(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="N-Triples, TSV, Wikidata dump (RDF or JSON), each also .gz or .bz2; folder of these; CoDEx folder; "
            "`extract` (packaged).",
        ),
    ],
    store: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the new store.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing store.")] = False,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Load every triple of N-Triples files, not only those that are used.")
    ] = False,
    values: Annotated[
        bool, typer.Option("--values", help="Load dates and quantities of Wikidata dumps and N-Triples files too.")
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODES",
            show_default="English",
            help="Languages of labels, aliases and descriptions to load in addition to English, such as `zh,ko`, or "
            "`all`.",
        ),
    ] = None,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Skip lines that cannot be read instead of stopping.")
    ] = False,
) -> None:
    """Build a store on disk, with a label index, from dumps and graph files.

    The store appears when it is complete. After an interruption, the same command resumes.

    Examples:

    - `wikidata-cache load wikidata.nt.gz labels.nt.gz --store wd/`
    - `wikidata-cache load latest-all.json.gz --store wd/ --values`
    - `wikidata-cache load latest-all.json.gz --store wd/ --language zh,ko`
    """
    from wikidata_cache.stores import load as loading  # numpy takes a tenth of a second to import

    languages: Languages | None = None  # all languages
    if language != ALL_LANGUAGES:
        languages = read_languages(language)
    options = LoadOptions(keep_all=keep_all, values=values, languages=languages, skip_bad_lines=skip_bad_lines)
    files = []
    for source in sources:
        if names_extract(source):
            source = packaged_extract()
        files.append(source)
    if languages != DEFAULT_LANGUAGES:
        files = add_labels(files, languages)
    report = loading.load(files, store, force=force, options=options)
    counts = report.manifest.counts
    seconds = report.seconds
    speed = ""
    if seconds:
        speed = f"; {counts['triples'] / seconds:,.0f} triples a second"
    echo(
        f"{store}: {counts['triples']:,} triples, {counts['statements']:,} statements about {counts['items']:,} items "
        f"with {counts['properties']:,} properties, {counts['named']:,} entities with a name\n"
        f"{seconds:.1f} s for the triples and {report.label_seconds:.1f} s for the label index{speed}\n"
        f"content hash {report.manifest.content_hash}"
    )
    if report.skipped:
        echo(f"{report.skipped:,} lines could not be read and were left out")


def labels(
    context: typer.Context,
    ids: Ids,
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
    language: Language = None,
) -> None:
    """Print the labels of items and properties, in English or in the languages of `--language`.

    Each line has an id, a tab and the label; the label of an id without one is empty. With `--language`, a last line on
    stderr names the ids that have a label in none of the languages.

    Examples:

    - `wikidata-cache labels Q1345 P19`
    - `wikidata-cache labels Q42 -g graph.nt.gz`
    - `wikidata-cache labels Q84 --language ja,ko`
    """
    opened = open_cache(graph, context=context, offline=offline, language=language, contact=contact, cache=cache)
    texts = opened.labels(ids)
    for entity in ids:
        echo_row(entity, texts.get(entity, ""))
    nameless = [entity for entity in ids if entity not in texts]
    if nameless and language:
        echo(f"without a label in {language} and in English: {', '.join(nameless)}", err=True)


def find(
    context: typer.Context,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="Exact label.")],
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
    language: Language = None,
) -> None:
    """Print the ids of all items and properties with exactly this label, in English or a language of `--language`.

    The exit code is 1 if there are none.

    Examples:

    - `wikidata-cache find Philadelphia`
    - `wikidata-cache find "place of birth"`
    - `wikidata-cache find ロンドン --language ja`
    """
    opened = open_cache(graph, context=context, offline=offline, language=language, contact=contact, cache=cache)
    ids = opened.find(label)
    for entity in ids:
        echo(entity)
    if not ids:
        spoken = ""
        if language is not None:
            spoken = f" in {', '.join(list_families(opened.facts.languages))} or English"
        advice = "`wikidata-cache link` also looks for parts of names"
        echo(f"nothing has exactly the label {label!r}{spoken}; {advice}", err=True)
        raise typer.Exit(1)


def export(
    out: Annotated[Path, typer.Argument(metavar="FILE.jsonl.gz", help="File to write.")],
    cache: Cache = None,
    latest: Annotated[bool, typer.Option("--latest", help="Export only the newest version of every answer.")] = False,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="Export only the versions valid at this time (ISO 8601, UTC).")
    ] = None,
    graph_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Export only the graph with this name in the cache.")
    ] = None,
) -> None:
    """Export the cache to one file of sorted JSON lines with a hash.

    The same cache gives the same bytes.

    Examples:

    - `wikidata-cache export snapshot.jsonl.gz`
    - `wikidata-cache export paper.jsonl.gz --cache paper.sqlite --latest`
    """
    if as_of is not None:
        as_of = utc(as_of)
        latest = True  # the versions that were valid then
    with AnswerStore(cache_file(cache), read_only=True) as store:
        summary = export_snapshot(store, out, newest_only=latest, as_of=as_of, graph_name=graph_name)
    echo(f"{out}: {summary.facts} facts, {summary.queries} requests, sha256 of the rows {summary.sha256}")


def import_(
    snapshot: Annotated[Path, typer.Argument(metavar="FILE.jsonl.gz", help="File written by `export`, or `sample`.")],
    cache: Cache = None,
    on_conflict: Annotated[
        OnConflict,
        typer.Option(help="If the cache has an answer too: `keep` it, use the `newer` one, or stop with an `error`."),
    ] = "keep",
) -> None:
    """Import a snapshot into the cache after checking its hash and every row.

    An error leaves the cache unchanged. `sample` is the packaged one, for a first `wikidata-cache diff`.

    Examples:

    - `wikidata-cache import snapshot.jsonl.gz`
    - `wikidata-cache import sample --cache sample.sqlite`
    - `wikidata-cache import paper.jsonl.gz --cache paper.sqlite --on-conflict error`
    """
    with AnswerStore(cache_file(cache)) as store:
        report = import_snapshot(store, snapshot, on_conflict=on_conflict)
        echo(f"{store.path}: {report.new} of {report.facts} facts are new; {report.queries} requests in its log")


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")
# In the order of the help: commands that look something up, that make a file of a graph, and that care for files.
_LOOK = (show.show, labels, find, link.link)
_MAKE = (extract, fetch.fetch, diff.diff, rules.rules)
_STORE = (export, import_, load, doctor)
for _command in _LOOK + _MAKE + _STORE:
    app.command(_command.__name__.rstrip("_"))(_command)  # `import_` is the command "import"


def _print_version(requested: bool) -> None:
    if requested:
        echo(f"wikidata-cache {release()}")
        raise typer.Exit


_EXAMPLES = """Examples:

- `wikidata-cache show Q1345`
- `wikidata-cache fetch edits.jsonl --contact me@uni.edu`
"""


@app.callback(epilog=_EXAMPLES)
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fetch, cache, link and show subgraphs of Wikidata."""


def main() -> None:
    """Run the command; the console entry point.

    Errors of this package and of files end with one line and exit code 2, Ctrl-C with one line and 130, faults with a
    traceback and 70.
    """
    set_up_console()
    try:
        app()
    except (SystemExit, KeyboardInterrupt) as end:
        was_interrupted = isinstance(end, KeyboardInterrupt) or end.code == _INTERRUPTED
        if not was_interrupted:
            raise
        echo(f"stopped{_advise_after_interrupt(sys.argv[1:])}", err=True)
        raise SystemExit(_INTERRUPTED) from None
    except (WikidataCacheError, OSError) as error:
        line = f"wikidata-cache: {one_line(str(error))}"
        if isinstance(error, OSError) and not isinstance(error, WikidataCacheError):
            line += "; check the path, its permissions, and the free space"
        echo(line, err=True)
        raise SystemExit(2) from None
    except MemoryError as error:
        echo(f"wikidata-cache: there is not enough memory ({one_line(str(error))}); give smaller files", err=True)
        raise SystemExit(2) from None
    except Exception:  # exit code 1 has another meaning for callers of `link`, `find` and `doctor`
        logging.exception("internal error; please report it with the traceback below")
        raise SystemExit(_FAULT) from None


def _advise_after_interrupt(words: Sequence[str]) -> str:
    """Return what to know after Ctrl-C, by the command that was interrupted: the first word that is not an option."""
    for word in words:
        if not word.startswith("-"):
            return _AFTER_INTERRUPT.get(word, "")
    return ""
