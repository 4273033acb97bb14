"""`kg-edit evaluate` scores a method on a benchmark; `judge`, `compare` and `merge` read its runs.

`judge` lets a language model judge a run's answers, `compare` compares runs record by record, `merge` puts the shards
of a run together. The options of `evaluate` are the fields of `EvaluateOptions` and of `EvalConfig`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import say, stdout
from kg_edit.cli.fields import with_fields_of
from kg_edit.cli.method_plan import open_graph
from kg_edit.cli.options import MACHINE, Contact, GivenGraph, Out, Overwrite
from kg_edit.errors import ConfigError
from kg_edit.evaluation.cli.evaluation import EvaluateOptions
from kg_edit.storage.run_folder import read_settings
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.evaluation.summary import Summary

OnRay = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Run on a Ray cluster (`RAY_ADDRESS`, or this machine), one worker per device.",
        rich_help_panel=MACHINE,
    ),
]


@with_fields_of(EvaluateOptions, after={"data": ("out",), "retention": ("overwrite", "ray")})
def evaluate(
    evaluation: EvaluateOptions,
    *,
    out: Out,
    overwrite: Overwrite = False,
    ray: OnRay = False,
) -> None:
    """Score a method on a benchmark: each edit alone, or in batches and sequences.

    The unedited and the edited model are scored; the same command again resumes the run. Exits with code 1 if no edit
    can be made.

    Examples:

    - `kg-edit evaluate --dataset counterfact-plus --data dev.json --method rome --limit 24 --out runs/rome/`
    """
    if ray and overwrite:
        raise ConfigError("--overwrite has no effect with --ray; give another --out, or delete the folder")
    if ray and evaluation.config.shard:
        raise ConfigError("--ray splits the records into shards itself; remove --shard")
    if ray:
        from kg_edit.evaluation.cli.ray_run import evaluate_on_ray

        summary = evaluate_on_ray(evaluation, out)
    else:
        summary = evaluation.run(out, overwrite=overwrite)
    show(summary, out)
    skipped = summary.provenance["data"]["skipped"]
    if evaluation.keep_going and skipped:  # without it, rows that can't be read are none of those that are used
        rows = f"{number_of(len(skipped), 'row')} of the whole file that can't be read"
        typer.echo(f"skipped {rows}: {', '.join(skipped)}", err=True)
    if summary.provenance["failed"] == summary.n > 0:  # a shard may have no record
        raise typer.Exit(1)  # no edit could be made


def show(summary: Summary, out: Path) -> None:
    """Print the run's table, and its files."""
    from kg_edit.evaluation.records import RunFolder
    from kg_edit.evaluation.reports import rich_general, rich_table

    stdout().print(rich_table(summary))
    general = rich_general(summary)
    if general is not None:
        stdout().print(general)
    failed = [entry for entry in RunFolder(out).entries() if entry.error is not None]
    if failed and summary.provenance["failed"]:
        typer.echo(f"the first that failed, {plain(failed[0].id)}: {plain(str(failed[0].error))}", err=True)
    files = ["summary.json", "records.jsonl", "run.json"]
    files += [name for name in ("curve.svg", "walks.html") if (out / name).exists()]
    say(f"{out}: {', '.join(files)}")


def judge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of `kg-edit evaluate`.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="File of records that the run used.")],
    url: Annotated[
        str,
        typer.Option("--judge", metavar="URL", help="OpenAI-compatible server, such as `http://localhost:8000/v1`."),
    ],
    model: Annotated[
        str, typer.Option("--judge-model", metavar="NAME", help="Name of the judge model at the server.")
    ] = "default",
    dataset: Annotated[str, typer.Option(help="Benchmark of the run.")] = "counterfact-plus",
    graph: GivenGraph = None,
    contact: Contact = None,
) -> None:
    """Let a language model judge the greedy answers of a run.

    The verdicts are written to `judge.jsonl` in the run's folder. If the server needs an API key, set the environment
    variable `KG_EDIT_JUDGE_KEY`.

    Examples:

    - `kg-edit judge runs/rome --data dev.json --judge http://localhost:8000/v1 --judge-model qwen3`
    """
    if not run.is_dir():
        read_settings(run)
    from kg_edit.evaluation.datasets import read_dataset
    from kg_edit.evaluation.judge import KEY, Judge, judge_run

    at_server = Judge(url=url, model=model, key=os.environ.get(KEY))
    records = read_dataset(dataset, data, labels=open_graph(graph, contact), keep_going=True).records
    for section, shares in judge_run(run, records, at_server).items():
        for name, share in shares.items():
            shown = "" if share is None else f"{share:.3f}"
            say(f"{section}  {name}  {shown}")
    say(f"{run}: judge.jsonl")


Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUNS...", help="Output folders of runs; the others are compared with the first."),
]


def compare(
    runs: Runs,
    against: Annotated[
        str | None, typer.Option(metavar="RUN", help="Compare with this run instead, or with `unedited`.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Compare only this metric, or several with commas. Repeatable.")
    ] = None,
    common: Annotated[bool, typer.Option("--common", help="Use only the records that all runs have.")] = False,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="File to write: `.md`, `.tex`, `.csv`, `.json`, `.png`, `.svg` or `.pdf`. Repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of intervals and permutations.")] = 0,
) -> None:
    """Compare runs record by record, or one run with the unedited model.

    The table has differences, intervals and p-values. In LaTeX it has a row for each run and a column for each metric.
    Runs may have different schedules: a record's score alone is compared with that after all edits of its sequence.
    They may be of different models: records are paired by id, and the table has the unedited model of each.

    Examples:

    - `kg-edit compare runs/rome runs/glame --out comparison.csv --out comparison.png`
    - `kg-edit compare runs/rome runs/glame --metric efficacy.greedy,paraphrase.prob --out table.tex`
    - `kg-edit compare runs/memit runs/memit-sequential`
    """
    for folder in runs:
        read_settings(folder)
    from kg_edit.evaluation.comparison import compare as compare_runs
    from kg_edit.evaluation.comparison_report import check_ending, rich_comparison, write_comparison

    for path in out or ():
        check_ending(path)
    chosen = list[str]()
    for names in metric or ():
        chosen += [name.strip() for name in names.split(",") if name.strip()]
    comparison = compare_runs(runs, against=against, metrics=chosen, common=common, seed=seed)
    for line in comparison.lines:
        stdout().print(plain(line))
    stdout().print(rich_comparison(comparison))
    for path in out or ():
        say(str(write_comparison(comparison, path)))


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the whole run to.")],
    shards: Annotated[list[Path], typer.Argument(metavar="SHARDS...", help="Output folders of all shards.")],
) -> None:
    """Merge the shards of a run (`kg-edit evaluate --shard i/n`).

    The result is the same as from one process.

    Examples:

    - `kg-edit merge runs/rome runs/rome-0 runs/rome-1`
    """
    for folder in shards:
        read_settings(folder)
    from kg_edit.evaluation.finish import merge as merge_shards

    show(merge_shards(out, shards), out)
