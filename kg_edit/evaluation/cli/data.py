"""`kg-edit data`: check a benchmark file, and make benchmarks and edits from a graph."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg_common.atomic import check_out
from kg_common.terminal import harmless, number_of
from kg_edit.cli.console import say, stdout
from kg_edit.cli.method_plan import doing, load_model, open_graph, open_wikidata, parse_relations
from kg_edit.cli.options import (
    BenchmarkFile,
    Contact,
    DatasetName,
    Device,
    Dtype,
    EditCount,
    Exclude,
    GivenGraph,
    ModelName,
    Relations,
    Seed,
    Templates,
    refuse_unused,
)
from kg_edit.errors import ConfigError
from kg_edit.text.display import plain, terminal_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from kg_edit.edits.edit import Edit
    from kg_edit.edits.record import BenchmarkRecord
    from kg_edit.evaluation.datasets.lint import Finding
    from kg_edit.evaluation.ripples.facts import FactTable

_SHOWN = 3  # faults of a kind

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Check and create benchmark files.",
    epilog="""Examples:

- `kg-edit data check MQuAKE-CF-3k.json`
- `kg-edit data ripples --graph extract --edits mine.jsonl --out mine.json`
""",
)


@app.command()
def check(
    context: typer.Context,
    file: BenchmarkFile,
    dataset: DatasetName = None,
    graph: GivenGraph = None,
    every: Annotated[bool, typer.Option("--all", help="List all faults, not only three of each kind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all faults as JSON.")] = False,
    contact: Contact = None,
) -> None:
    """Report the faults of a benchmark file.

    The exit code is 1 if there are any.

    Examples:

    - `kg-edit data check MQuAKE-CF-3k.json --dataset mquake --graph wikidata.nt.gz`
    """
    from kg_edit.evaluation.datasets import better_dataset, find_dataset, guess_dataset
    from kg_edit.evaluation.datasets.lint import lint

    if as_json:
        refuse_unused(context, ("every",), "with --json, which prints all faults")
    chosen = find_dataset(dataset) if dataset else guess_dataset(file)
    content = chosen.read(file)
    other = better_dataset(chosen.name, file) if dataset else None
    findings = lint(content, labels=open_graph(graph, contact))
    count = len(content.records)
    if as_json:
        report = {
            "dataset": chosen.name,
            "looks_like": other or chosen.name,
            "records": count,
            "findings": [asdict(finding) for finding in findings],
        }
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        if findings:
            shown = len(findings) if every else _SHOWN
            _show_findings(findings, shown)
        faults = "no faults"
        if findings:
            faults = number_of(len(findings), "fault")
        stdout().print(f"{plain(str(file))}: {number_of(count, 'record')} of {chosen.name}, {faults}")
        if other:
            say(f"{file} looks like {other}: kg-edit data check --dataset {other}")
    if findings:
        raise typer.Exit(1)


def _show_findings(findings: tuple[Finding, ...], shown: int) -> None:
    """Print the first faults of each kind, and how many more there are."""
    rows = list[tuple[str, str, str]]()
    seen = Counter[str]()
    totals = Counter(finding.kind for finding in findings)
    for finding in findings:
        seen[finding.kind] += 1
        if seen[finding.kind] <= shown:
            rows.append((finding.kind, plain(finding.id), plain(finding.message)))
        elif seen[finding.kind] == totals[finding.kind]:
            rows.append((finding.kind, "", f"and {totals[finding.kind] - shown} more (--all lists them)"))
    stdout().print(terminal_table(("fault", "record", "what"), rows))


@app.command()
def ripples(
    context: typer.Context,
    graph: GivenGraph = None,
    model: ModelName = "smollm2-135m",
    edits: Annotated[
        Path | None, typer.Option(metavar="EDITS", help="File of your own edits, with the ids of r and o*.")
    ] = None,
    relations: Relations = None,
    n: EditCount = 300,
    seed: Seed = 0,
    words: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Your words and relations; they override the packaged ones."),
    ] = None,
    templates: Templates = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="File to write.")],
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Create a ripple benchmark from a graph: portability and locality questions of edits.

    The edits (s, r, o → o*) are drawn from the graph or read from your file. Questions have two or three hops, name s
    by an alias, or are about facts that must not change; those with a hop that the model does not know are left out,
    except for a separate group. The same command again resumes the run. Exits with code 1 if no question can be made.

    Examples:

    - `kg-edit data ripples --graph wikidata.nt.gz --relations P17,P19 --n 50 --out ripples.json`
    - `kg-edit data ripples --graph extract --edits mine.jsonl --out mine-ripples.json`
    - `kg-edit evaluate --dataset ripples --data ripples.json --out runs/ripples/`
    """
    if edits is None:
        refuse_unused(context, ("templates",), "without --edits", way="also give --edits FILE")
    else:
        refuse_unused(context, ("n",), "with --edits, which reads your own", way="leave out --edits")
    if out.exists():
        check_out(out, "", option="--out", inputs=filter(None, (edits, words, templates)))
    from kg_edit.edits.files import read_edits
    from kg_edit.edits.templates import RelationTemplates
    from kg_edit.evaluation.ripples.build import Builder, write_ripples
    from kg_edit.evaluation.ripples.facts import FactTable
    from kg_edit.evaluation.ripples.words import RippleWords
    from kg_edit.models.loading import cache_folder

    vocabulary = RippleWords.load(words)
    ids = parse_relations(relations)
    opened = open_wikidata(graph, contact, needed="questions are made from a graph")
    if edits and ids:
        raise ConfigError("--relations draws edits from the graph, --edits reads your own; give only one of them")
    own_edits: Sequence[Edit] = ()
    if edits:
        own_edits = read_edits(edits, labels=opened, templates=RelationTemplates.load(templates)).edits
    table = FactTable(opened, vocabulary)
    answers = cache_folder() / "knowledge"  # the model's answers, by which a run is resumed
    builder = Builder(model=load_model(model, dtype, device), table=table, folder=answers, seed=seed)
    if edits:
        benchmark = builder.build_for(own_edits)
    else:
        benchmark = builder.build(ids or tuple(vocabulary.edited), n=n)
    write_ripples(out, benchmark)
    _show_benchmark(benchmark, table, out)


def _show_benchmark(benchmark: Mapping[str, Any], table: FactTable, out: Path) -> None:
    """Print how many questions were made and left out; exit with code 1 if none was made."""
    stdout().print(_count_table("questions", benchmark["provenance"]["questions"]))
    stdout().print(_count_table("left out", benchmark["provenance"]["dropped"]))
    with_questions = sum(bool(record["questions"]) for record in benchmark["records"])
    counted = f"{number_of(with_questions, 'edit')} with questions"
    without = len(benchmark["records"]) - with_questions
    if without:
        counted += f", {without} without"
    say(f"{out}: {counted}")
    if not with_questions:
        typer.echo(harmless(f"no question could be made: {_explain_no_question(benchmark, table)}"), err=True)
        raise typer.Exit(1)


def _count_table(title: str, counts: Mapping[str, int]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for header in ("", "number"):
        table.add_column(header, overflow="fold")
    for name, number in counts.items():
        table.add_row(plain(name), str(number))
    return table


def _explain_no_question(benchmark: Mapping[str, Any], table: FactTable) -> str:
    """Return why no question could be made: the graph has no facts about the new objects, or the model knows none."""
    from kg_edit.evaluation.ripples.questions import find_facts

    unknown = []  # the o* without a fact
    for record in benchmark["records"]:
        edit = record["edit"]
        if not any(find_facts(table, edit["target_new_id"])):
            unknown.append(f"{edit['target_new']} ({edit['target_new_id']})")
    if not unknown:
        return "the model does not know the other hops of any (see the table of what was left out)"
    about = ", ".join(unknown[:_SHOWN])
    if len(unknown) > _SHOWN:
        about += f" and {len(unknown) - _SHOWN} more"
    asked = ", ".join(table.words.asked[:_SHOWN])
    return (
        f"the graph has no statement of the relations that are asked ({asked}, …) about {about}; give a larger "
        "--graph, such as `wikidata-cache fetch` makes, or other relations with --words"
    )


@app.command()
def edits(
    graph: GivenGraph = None,
    relations: Relations = None,
    n: EditCount = 3000,
    exclude: Exclude = None,
    seed: Seed = 0,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File of edits to write, such as `edits.jsonl`.")],
    questions: Annotated[bool, typer.Option("--questions", help="Add portability questions by the graph.")] = False,
    contact: Contact = None,
) -> None:
    """Draw edits (s, r, o*) from a graph into a file, for training or for making many edits.

    The new object o* is of the class that the relation asks for. An edit whose subject has one current object in the
    graph also has this old object (field `target_true`), and prompts about other subjects with it, if there are any
    (`neighborhood`). `--questions` adds questions about the statements of o* in the graph, if there are any
    (`portability`), from which the preset `propmend` of `kg-edit mend train` learns.

    Examples:

    - `kg-edit data edits --graph wikidata.nt.gz --questions --exclude ripples-smollm2-135m --out train.jsonl`
    """
    from kg_edit.edits.files import check_writable_name, write_edits

    check_writable_name(out)
    if out.exists():
        check_out(out, "", option="--out", inputs=exclude or ())
    from kg_edit.evaluation.datasets import guess_dataset
    from kg_edit.evaluation.ripples.edit_questions import with_questions
    from kg_edit.evaluation.ripples.facts import FactTable
    from kg_edit.evaluation.ripples.ripple_edits import Excluded, training_edits, with_neighbours
    from kg_edit.evaluation.ripples.words import RippleWords

    words = RippleWords.load()
    ids = parse_relations(relations)
    tested: list[BenchmarkRecord] = []
    for path in exclude or ():
        tested += guess_dataset(path)(path)
    excluded = Excluded.of(tested)
    table = FactTable(open_wikidata(graph, contact, needed="edits are drawn from a graph"), words)
    with doing("drawing edits from the graph"):
        drawn = training_edits(table, ids or tuple(words.edited), n=n, seed=seed, excluded=excluded)
    with doing("reading what is known around the edits"):
        drawn = with_neighbours(table, drawn, seed=seed, excluded=excluded)
        if questions:  # edits whose o* the graph does not know are left out
            drawn = with_questions(table.graph, drawn, seed=seed, excluded=excluded)
    write_edits(out, drawn)
    counts = number_of(len(drawn), "edit")
    if questions:
        total = sum(len(edit.portability) for edit in drawn)
        counts += f", {number_of(total, 'question')}"
    say(f"{out}: {counts}")
