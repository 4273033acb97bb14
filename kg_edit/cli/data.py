"""`kg-edit data`: what is wrong with a benchmark file, and benchmarks made from a graph for a model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.drawn_edits import DrawnEdits, Exclude, Number, Relations
from kg_edit.cli.method_plan import open_graph
from kg_edit.cli.options import Contact, Device, Dtype, Graph, KeepGoing, ModelName, Templates
from kg_edit.cli.unused import refuse_unused
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.datasets.lint import Finding

_SHOWN = 3  # examples a kind

app = typer.Typer(no_args_is_help=True, help="Check and create benchmark files.", rich_markup_mode="markdown")


@app.command()
def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="the benchmark's JSON file, a packaged one's name, or hf:NAME")],
    dataset: Annotated[str | None, typer.Option(help="name of the benchmark; default: detected from the file")] = None,
    graph: Graph = None,
    every: Annotated[bool, typer.Option("--all", help="list all faults; default: three of each kind")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print all faults as JSON")] = False,
    contact: Contact = None,
) -> None:
    """Report the faults of a benchmark file; exit code 1 if there are any.

    Example: `kg-edit data check MQuAKE-CF-3k.json --dataset mquake --graph wikidata.nt.gz`
    """
    from kg_edit.datasets import find_dataset, guess_dataset
    from kg_edit.datasets.lint import lint

    if as_json:
        refuse_unused(context, ("every",), "with --json, which prints all faults")
    chosen = find_dataset(dataset) if dataset else guess_dataset(file)
    reading = chosen.read(file)
    findings = lint(reading, labels=open_graph(graph, contact))
    if as_json:
        records = len(reading.records)
        whole = {"dataset": chosen.name, "records": records, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(whole, ensure_ascii=False, indent=2))
    else:
        _show(findings, len(findings) if every else _SHOWN)
        found = f"{len(reading.records)} record{'s' * (len(reading.records) != 1)}"
        faults = f"{len(findings) or 'no'} fault{'s' * (len(findings) != 1)}"
        stdout().print(f"{plain(str(file))}: {found} of {chosen.name}, {faults}")
    if findings:
        raise typer.Exit(1)


@app.command()
def ripples(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="file to write, such as ripples.json")],
    graph: Graph = None,
    model: ModelName = "smollm2-135m",
    edits: Annotated[Path | None, typer.Option(help="file of your own edits, with the ids of r and o*")] = None,
    relations: Annotated[
        str | None, typer.Option(help="relations r to edit, such as P17,P19; default: all packaged ones")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="number of edits drawn from the graph")] = 300,
    seed: Annotated[int, typer.Option(help="random seed")] = 0,
    words: Annotated[
        Path | None, typer.Option(help="your words and relations (TOML); they override the packaged ones")
    ] = None,
    templates: Templates = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Create questions about consequences of edits, and keep those whose hops the model knows; resumable.

    The edits (s, r, o → o*) are drawn from the graph or read from your file. Their questions have two and three hops,
    name s by an alias, or ask for facts that must not change. The model is first asked for every single hop. Questions
    with a hop that it does not know are left out, except for a separate group of them. Score the file with
    `kg-edit evaluate --dataset ripples --data FILE`.

    Example: `kg-edit data ripples --graph wikidata.nt.gz --relations P17,P19 --n 50 --out ripples.json`

    Example: `kg-edit data ripples --graph extract --edits mine.jsonl --out mine-ripples.json`
    """
    from kg_edit.cli.ripples_run import RipplesRun

    if edits is None:
        refuse_unused(context, ("templates",), "without --edits", way="also give --edits FILE")
    else:
        refuse_unused(context, ("n",), "with --edits, which reads your own", way="leave out --edits")
    run = RipplesRun(
        model=model,
        graph=graph or [],
        out=out,
        edits=edits,
        relations=relations,
        n=n,
        seed=seed,
        words=words,
        templates=templates,
        dtype=dtype,
        device=device,
        contact=contact,
    )
    made = run.run()
    _show_counts("questions", made["provenance"]["questions"])
    _show_counts("left out", made["provenance"]["dropped"])
    stdout().print(f"{plain(str(out))}: {len(made['records'])} edits", soft_wrap=True)


@app.command()
def edits(
    out: Annotated[Path, typer.Option(help="file to write, such as edits.jsonl")],
    graph: Graph = None,
    relations: Relations = None,
    n: Number = 3000,
    exclude: Exclude = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="add questions about what follows from each edit by the graph")
    ] = False,
    seed: Annotated[int, typer.Option(help="random seed")] = 0,
    contact: Contact = None,
) -> None:
    """Draw edits (s, r, o*) from a graph into a file, to train an editing network on or to make many edits.

    The new object o* is of the class that the relation asks for. Each edit also has its old object, and prompts about
    other subjects with the same old object (fields `target_true`, `neighborhood`). With `--questions`, each edit has
    questions about the statements of o* in the graph (field `portability`), such as "What is the capital of the
    country of X?". The preset `propmend` of `kg-edit mend train` learns from them.

    Example: `kg-edit data edits --graph wikidata.nt.gz --questions --exclude ripples-smollm2-135m --out train.jsonl`
    """
    from kg_edit.edits.files import check_writable_name, write_edits

    check_writable_name(out)
    drawn = DrawnEdits(
        graph=graph or [],
        relations=relations,
        n=n,
        seed=seed,
        exclude=exclude or [],
        contact=contact,
    )
    found = drawn.draw_whole(questions=questions)
    write_edits(out, found)
    asked = sum(len(edit.portability) for edit in found)
    counts = f"{len(found)} edits" + (f", {asked} questions" if questions else "")
    stdout().print(f"{plain(str(out))}: {counts}", soft_wrap=True)


@app.command()
def tasks(
    file: Annotated[Path, typer.Argument(help="the benchmark's JSON file, a packaged one's name, or hf:NAME")],
    out: Annotated[Path, typer.Option(help="folder for `lm_eval --include_path`; other tasks in it are kept")],
    dataset: Annotated[str | None, typer.Option(help="name of the benchmark; default: detected from the file")] = None,
    split: Annotated[
        str | None, typer.Option(help="use only this split of a benchmark that has splits: dev or test")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the task; default: kg_edit_ and the benchmark's name")
    ] = None,
    keep_going: KeepGoing = False,
) -> None:
    """Write a benchmark as a task of the lm-evaluation-harness, with the metrics of kg-edit.

    The task refers to the data file by its path, so leave the file there. The task makes no edits: give the harness an
    edited model (`kg-edit patch merge`).

    Example: `kg-edit data tasks zsre.json --dataset zsre --out tasks/`

    Example: `lm_eval --model hf --model_args pretrained=merged/ --include_path tasks/ --tasks kg_edit_zsre --limit 20`
    """
    from kg_edit.datasets import guess_dataset
    from kg_edit.evaluate.task_folder import TaskSettings, write_task
    from kg_edit.storage.packaged import HUB, packaged_benchmark

    stays = str(file).startswith(HUB) or packaged_benchmark(file)
    data = str(file) if stays else str(file.resolve())
    chosen = dataset or guess_dataset(file).name
    settings = TaskSettings(dataset=chosen, data=data, split=split, keep_going=keep_going)
    records = settings.records()
    written = write_task(out, settings, name=name)
    stdout().print(f"{plain(str(written))}: {len(records)} records of {chosen}", soft_wrap=True)
    command = f"lm_eval --model hf --model_args pretrained=FOLDER --include_path {out} --tasks {written.stem}"
    stdout().print(plain(command), soft_wrap=True)


def _show_counts(title: str, counts: dict[str, int]) -> None:
    from rich.table import Table

    table = Table("", "number", title=title, title_justify="left")
    for name, number in counts.items():
        table.add_row(plain(name), str(number))
    stdout().print(table)


def _show(findings: tuple[Finding, ...], shown: int) -> None:
    from rich.table import Table

    if not findings:
        return
    table = Table()
    for header in ("fault", "record", "what"):
        table.add_column(header, overflow="fold")
    seen: Counter[str] = Counter()
    totals = Counter(finding.kind for finding in findings)
    for finding in findings:
        seen[finding.kind] += 1
        if seen[finding.kind] <= shown:
            table.add_row(finding.kind, plain(finding.id), plain(finding.message))
        elif seen[finding.kind] == totals[finding.kind]:
            table.add_row(finding.kind, "", f"and {totals[finding.kind] - shown} more (--all lists them)")
    stdout().print(table)
