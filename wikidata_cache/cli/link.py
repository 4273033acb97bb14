"""`wikidata-cache link`: from labels to ids, with candidates, scores and reasons; for one text or a file of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kg_common.atomic import check_out
from kg_common.ids import is_entity, is_property
from kg_common.terminal import plain
from wikidata_cache.cli import options as opt
from wikidata_cache.cli.console import echo, echo_json, table_console
from wikidata_cache.edits import is_edit_file, read_edits, strip_row
from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import WIKIDATA_API

if TYPE_CHECKING:
    from wikidata_cache.linking.candidates import LinkResult, Status
    from wikidata_cache.linking.linker import Linker

_TIMEOUT_S = 30.0  # a person waits for the answer of a search
_EXIT_CODES: dict[Status, int] = {"exact": 0, "none": 1, "ambiguous": 3}


def link(
    context: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Label, id, or file of edits.")],
    relation: Annotated[
        str | None, typer.Option(metavar="PROPERTY", help="Property of the fact that TEXT belongs to: id or name.")
    ] = None,
    role: Annotated[Literal["object", "subject"], typer.Option(help="Role of TEXT in the fact.")] = "object",
    kind: Annotated[Literal["item", "property"], typer.Option(help="What TEXT names.")] = "item",
    label: Annotated[str | None, typer.Option(metavar="LABEL", help="Expected label of the id given as TEXT.")] = None,
    choose: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW=ID", help="Candidate to take for a row, or for a name (`Paris=Q90`). Repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Largest number of candidates.")] = 10,
    graph: opt.Graph = None,
    contact: opt.Contact = None,
    cache: opt.Cache = None,
    offline: opt.Offline = False,
    language: opt.Language = None,
    online: Annotated[bool, typer.Option("--online", help="Get candidates from Wikidata's own search.")] = False,
    api: Annotated[str, typer.Option(metavar="URL", help="Action API that `--online` uses.")] = WIKIDATA_API,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="File for the linked edits.")] = None,
) -> None:
    """List the candidates for a label with their scores, or add ids to a file of edits.

    The exit code is 0 if one candidate clearly leads, 3 if a person has to choose, and 1 if there is no candidate. An
    edit of a file is settled if its new object has an id and nothing is left to choose; the exit code is 0 if all are,
    3 if there is something to choose, and else 1.

    Examples:

    - `wikidata-cache link "Los Angeles" --relation P551`
    - `wikidata-cache link Q65 --label "Los Angeles"`
    - `wikidata-cache link "place of birth" --kind property`
    - `wikidata-cache link 런던 --language ko`
    - `wikidata-cache link edits.jsonl --out linked.jsonl`
    - `wikidata-cache link edits.jsonl --choose 3=Q1345 --out linked.jsonl`
    """
    from wikidata_cache.endpoints.action_api import ActionApi
    from wikidata_cache.linking.linker import open_linker

    if online and offline:
        raise BadOptionError("--online and --offline disagree; give one of them.")
    choices = [_parse_choice(choice) for choice in choose or ()]
    names_file = out is not None or is_edit_file(text)
    if names_file:  # checked before a graph is opened, which may take time
        given = {  # the options for a single text, and whether each was given
            "--relation": bool(relation),
            "--label": bool(label),
            "--json": as_json,
            "--role": role != "object",
            "--kind": kind != "item",
        }
        _check_file(text, out, given)
    elif choices:
        raise BadOptionError("--choose is for a file of edits; leave it out, and write the id that you mean.")
    action_api: ActionApi | None = None
    if online:
        action_api = ActionApi(api, contact=contact, timeout=_TIMEOUT_S)
    # With --online alone, the graph only tells what is at the ends of --relation: a missing cache file is no mistake.
    is_online_alone = online and graph is None
    opened = opt.open_cache(
        graph,
        context=context,
        check_cache_options=not is_online_alone,
        offline=offline,
        language=language,
        contact=contact,
        cache=cache,
    )
    linker = open_linker(opened.facts, api=action_api)
    if out is not None:  # `text` is a file of edits, as was checked above
        raise typer.Exit(_link_file(linker, text, out, limit, choices))

    property_id = None
    if relation:
        property_id = _find_property(linker, relation)
    linked = linker.link(text, relation=property_id, role=role, kind=kind, expected_label=label, limit=limit)
    if as_json:
        echo_json(linked.to_json())
    else:
        _print_candidates(linked)
    raise typer.Exit(_EXIT_CODES[linked.status])


def _check_file(edits: str, out: Path | None, given: Mapping[str, bool]) -> None:
    """Refuse a file of edits without --out, one that can't be read, and options for a single text.

    `given` has these options, and whether each was given.
    """
    if out is None:
        raise BadOptionError(f"{edits} is a file of edits; name the file for the linked edits: --out linked.jsonl")
    check_out(out, ".jsonl", option="--out", inputs=[strip_row(edits)])
    read_edits(edits)  # only for its errors: `link_edits` reads the file again, once the graph is open
    for option, is_given in given.items():
        if is_given:
            raise BadOptionError(
                f"{option} is for a single text; leave it out. In a file, each row has its own fields."
            )


def _parse_choice(text: str) -> tuple[str, str]:
    """Parse `ROW=ID` or `NAME=ID`."""
    before, _, after = text.rpartition("=")
    selector = before.strip()
    entity = after.strip()
    if not selector or not is_entity(entity):
        raise BadOptionError(f"--choose {text}: expected a row or a name, and an id, such as 3=Q1345 or Paris=Q90.")
    return selector, entity


def _link_file(linker: Linker, edits: str, out: Path, limit: int, choices: Sequence[tuple[str, str]]) -> int:
    """Write the linked edits, print what is left to choose or to check, and return the exit code."""
    from wikidata_cache.linking.edit_file import link_edits

    report = link_edits(linker, edits, out, limit=limit, choices=choices)
    lines: list[tuple[int, str]] = []  # (row, what is said of one of its parts)
    for row, field, result in report.open:
        words = "; ".join(str(candidate) for candidate in result.candidates[:3])
        lines.append((row, f"row {row}, {field}, {result.text!r}: {words}"))
    for row, field, result in report.absent:
        lines.append((row, f"row {row}, {field}, {result.text!r}: {result.describe_absence()}"))
    for _, line in sorted(lines, key=itemgetter(0)):  # of one row, the open parts come first
        echo(line)
    for row, field, result in report.rivalled:
        best, other = result.candidates[:2]
        echo(f"row {row}, {field}, {result.text!r}: {best}, {best.score} points; not {other}, {other.score}")
    echo(f"{out}: {report.complete} of {report.edits} edits settled")
    if report.open:
        part = report.open[0]
        example = f"{part.row}={part.result.candidates[0].id}"
        echo(f"choose with --choose ROW=ID, such as --choose {example}, and the same command")
        return _EXIT_CODES["ambiguous"]
    if report.complete == report.edits:
        return _EXIT_CODES["exact"]
    return _EXIT_CODES["none"]


def _find_property(linker: Linker, relation: str) -> str:
    """Return the id of a property given by id or name; raise BadOptionError for a name that is not clear."""
    if is_property(relation):
        if not linker.knows_property(relation):
            echo(f"warning: {linker.knowledge.name} has no property {relation}; check the id.", err=True)
        return relation
    linked = linker.link(relation, kind="property")
    if linked.status == "exact":
        return linked.candidates[0].id
    meant = [f"{candidate.id} ({candidate.info.label or 'without a label'})" for candidate in linked.candidates[:5]]
    if meant:
        raise BadOptionError(f"--relation {relation!r} may mean {', '.join(meant)}; give the id of the one you mean.")
    raise BadOptionError(
        f"--relation {relation!r} is {linked.describe_absence()}. Give the id of a property, such as P551."
    )


def _print_candidates(linked: LinkResult) -> None:
    from rich.table import Table

    console = table_console()
    if linked.candidates:
        table = Table(title=plain(f"{linked.text!r} in {linked.source}"), title_justify="left")
        for column in ("score", "id", "label", "description", "types", "reasons"):
            table.add_column(column, overflow="fold", no_wrap=column in ("score", "id"))
        for candidate in linked.candidates:
            reasons = "\n".join(plain(str(reason)) for reason in candidate.reasons)
            words = (candidate.info.label or "", candidate.info.description or "", ", ".join(candidate.type_labels))
            table.add_row(f"{candidate.score:.1f}", plain(candidate.id), *map(plain, words), reasons)
        console.print(table)
    verdict = {
        "exact": "One candidate clearly leads.",
        "ambiguous": "No candidate clearly leads: choose one, and write its id.",
        "none": f"{linked.text!r} is {linked.describe_absence()}.",
    }
    for line in (*linked.notes, verdict[linked.status]):
        console.print(plain(line))
