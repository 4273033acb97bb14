"""`wikidata-cache link`: from labels to ids, with candidates, scores and reasons; for one text or a file of edits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wikidata_cache.cli.console import cell, say, say_json
from wikidata_cache.cli.options import Cache, Contact, Graph, Offline, open_cache
from wikidata_cache.edits import is_edit_file, read_edits
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import WIKIDATA_API, is_property

if TYPE_CHECKING:
    from rich.table import Table

    from wikidata_cache.linking.candidates import LinkResult, Status
    from wikidata_cache.linking.linker import Linker

_EXIT_CODES: dict[Status, int] = {"exact": 0, "none": 1, "ambiguous": 3}


def link(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Label, id, or file of edits.")],
    relation: Annotated[
        str | None, typer.Option(help="Property of the fact that TEXT belongs to: P551, or its name.")
    ] = None,
    role: Annotated[Literal["object", "subject"], typer.Option(help="Role of TEXT in the fact.")] = "object",
    kind: Annotated[Literal["item", "property"], typer.Option(help="What TEXT names.")] = "item",
    label: Annotated[str | None, typer.Option(help="Expected label of the id given as TEXT.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of candidates.")] = 10,
    graph: Graph = None,
    contact: Contact = None,
    cache: Cache = None,
    offline: Offline = False,
    online: Annotated[bool, typer.Option("--online", help="Ask Wikidata itself for candidates.")] = False,
    api: Annotated[str, typer.Option(metavar="URL", help="Action API that --online uses.")] = WIKIDATA_API,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="File to write the linked edits to.")] = None,
) -> None:
    """List the candidates for a label, with scores and reasons; or add the ids to a file of edits.

    The exit code is 0 if one candidate clearly leads, 3 if a person has to choose, and 1 if there is no candidate. For
    a file of edits it is 0 if every part of every edit is settled, else 3.

    Examples: `wikidata-cache link "Los Angeles" --relation P551` · `wikidata-cache link Q65 --label "Los Angeles"` ·
    `wikidata-cache link "place of birth" --kind property` · `wikidata-cache link edits.jsonl --out linked.jsonl`
    """
    from wikidata_cache.linking.linker import open_linker
    from wikidata_cache.linking.online import ActionApi

    if online and offline:
        raise BadOptionError("--online and --offline disagree; give one of them.")
    is_file = out is not None or is_edit_file(text)
    if is_file:
        _check_files(text, out)  # before a graph is opened, which may take its time
        ignored = {"--relation": relation, "--label": label, "--json": as_json}
        _check_for_texts_only(ignored | {"--role": role != "object", "--kind": kind != "item"})
    facts = open_cache(graph, contact, cache=cache, offline=offline).facts
    linker = open_linker(facts, api=ActionApi(api, contact=contact) if online else None)
    if is_file and out is not None:
        raise typer.Exit(_link_file(linker, text, out, limit))
    wanted = _property(linker, relation) if relation else None
    linked = linker.link(text, relation=wanted, role=role, kind=kind, expected_label=label, limit=limit)
    if as_json:
        say_json(linked.to_json())
    else:
        _show(linked)
    raise typer.Exit(_EXIT_CODES[linked.status])


def _property(linker: Linker, relation: str) -> str:
    if is_property(relation):
        if not linker.knows_property(relation):
            say(f"warning: {linker.knowledge.name} has no property {relation}; check the id.", err=True)
        return relation
    linked = linker.link(relation, kind="property")
    if linked.status == "exact":
        return linked.candidates[0].id
    meant = [f"{candidate.id} ({candidate.label or 'without a label'})" for candidate in linked.candidates[:5]]
    if meant:
        raise BadOptionError(f"--relation {relation!r} may mean {', '.join(meant)}; give the id of the one you mean.")
    near = [f"{match.text!r} ({match.id})" for match in linker.knowledge.similar_properties(relation)]
    nearest = f" The nearest names: {', '.join(near)}." if near else ""
    found = f"--relation {relation!r}: no property of {linked.source} has this name."
    raise BadOptionError(f"{found}{nearest} Give the id, such as P551.")


def _check_files(edits: str, out: Path | None) -> None:
    """Raise BadOptionError or EditRowError for what cannot be read or written."""
    from wikidata_cache.linking.edit_file import check_out

    if out is None:
        raise BadOptionError(f"{edits} is a file of edits; name the file for the linked edits: --out linked.jsonl")
    check_out(edits, out)
    read_edits(edits)


def _check_for_texts_only(given: Mapping[str, object]) -> None:
    """Raise BadOptionError for an option that has no effect on a file of edits."""
    for option, value in given.items():
        if value:
            raise BadOptionError(
                f"{option} is for a single text; leave it out. In a file, each row has its own fields."
            )


def _link_file(linker: Linker, edits: str, out: Path, limit: int) -> int:
    from wikidata_cache.linking.edit_file import link_edits

    report = link_edits(linker, edits, out, limit=limit)
    for row, field, linked in report.open:
        best = "; ".join(str(candidate) for candidate in linked.candidates[:3]) or "no candidate"
        say(f"row {row}, {field}, {linked.text!r}: {best}")
    say(f"{out}: {report.complete} of {report.edits} edits settled")
    return 0 if report.complete == report.edits else 3


def _show(linked: LinkResult) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    console = console if console.is_terminal else Console(width=160)
    if linked.candidates:
        console.print(_table(linked))
    verdict = {
        "exact": "One candidate clearly leads.",
        "ambiguous": "No candidate clearly leads: choose one, and write its id.",
        "none": f"Nothing is called {linked.text!r} in {linked.source}.",
    }
    for line in (*linked.notes, verdict[linked.status]):
        console.print(cell(line))


def _table(linked: LinkResult) -> Table:
    from rich.table import Table

    table = Table(title=cell(f"{linked.text!r} in {linked.source}"), title_justify="left")
    for column in ("score", "id", "label", "description", "types", "reasons"):
        table.add_column(column, no_wrap=column in ("score", "id"))
    for candidate in linked.candidates:
        reasons = "\n".join(cell(str(reason)) for reason in candidate.reasons)
        words = (candidate.label or "", candidate.description or "", ", ".join(candidate.types))
        table.add_row(f"{candidate.score:.1f}", cell(candidate.id), *map(cell, words), reasons)
    return table
