"""`kg-edit evaluate`: a method's scores on a benchmark.

`kg-edit judge`: a language model's verdicts on a run's answers.

What `kg-edit evaluate` does with its options, here or in another process.

`kg-edit compare` and `kg-edit merge`: what is done with runs of `kg-edit evaluate`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.options import (
    Contact,
    CorpusName,
    Device,
    Dtype,
    Graph,
    KeepGoing,
    LayerChoice,
    Memory,
    MethodName,
    ModelName,
    Out,
    Preset,
    Settings,
)
from kg_edit.errors import ConfigError
from kg_edit.jobs.evaluation import Evaluation
from kg_edit.text.safe_text import plain

if TYPE_CHECKING:
    from kg_edit.evaluate import Summary


KEY = "KG_EDIT_JUDGE_KEY"
_URL = "an OpenAI-compatible address, such as http://localhost:8000/v1"
Url = Annotated[str | None, typer.Option("--judge", metavar="URL", help=f"let a model judge the answers: {_URL}")]
ModelAtUrl = Annotated[str, typer.Option(help="the judge's name at its address")]


def judge(
    run: Annotated[Path, typer.Argument(help="the folder of a run of `kg-edit evaluate`")],
    data: Annotated[Path, typer.Option(help="the data set's JSON file that the run was on")],
    url: Annotated[str, typer.Option("--judge", metavar="URL", help=_URL)],
    model: Annotated[str, typer.Option("--judge-model", help="the judge's name at its address")] = "default",
    dataset: Annotated[str, typer.Option(help="see `kg-edit metrics --markdown`")] = "counterfact-plus",
) -> None:
    """Let a language model judge the greedy answers of a run; verdicts are kept in judge.jsonl.

    A key, where the address wants one, is taken from the environment variable KG_EDIT_JUDGE_KEY.

    Example: `kg-edit judge runs/rome --data dev.json --judge http://localhost:8000/v1 --judge-model qwen3`
    """
    from kg_edit.datasets import find_dataset
    from kg_edit.evaluate.judge import Judge, judge_run

    asked = Judge(url=url, model=model, key=os.environ.get(KEY))
    for section, shares in judge_run(run, find_dataset(dataset).read(data).records, asked).items():
        for name, share in shares.items():
            stdout().print(f"{plain(section)}  {name}  {'' if share is None else f'{share:.3f}'}", soft_wrap=True)
    stdout().print(f"{plain(str(run))}: judge.jsonl", soft_wrap=True)


def refuse_to_resume(out: Path) -> None:
    """Check that the folder holds no run yet.

    Raises:
        ConfigError: it does.
    """
    if (out / "run.json").exists():
        raise ConfigError(f"{out} holds a run already; give another --out, or go on with it: --resume")


def run_on_ray(evaluation: Evaluation, out: Path, *, shard: str | None) -> Summary:
    """The whole run on a Ray cluster.

    Raises:
        ConfigError: a shard is asked for too; Ray deals out its own. Or Ray is not installed.
    """
    if shard is not None:
        raise ConfigError("--ray deals out shards itself; leave --shard out")
    from kg_edit.jobs.ray_run import evaluate_on_ray

    return evaluate_on_ray(evaluation, out)


def show(summary: Summary, out: Path) -> None:
    """The run's table, and where its files are."""
    from kg_edit.evaluate.reports import rich_table

    stdout().print(rich_table(summary))
    skipped = (summary.provenance.get("data") or {}).get("skipped")
    if skipped:
        typer.echo(f"skipped, as they could not be read: {', '.join(skipped)}", err=True)
    files = ["summary.json", "records.jsonl", "run.json", *(["curve.svg"] if (out / "curve.svg").exists() else [])]
    stdout().print(f"{plain(str(out))}: {', '.join(files)}", soft_wrap=True)


ScheduleText = Annotated[
    str, typer.Option("--schedule", help="single, batch:N, sequential:N or batch:B,sequential:N (N records in all)")
]
Every = Annotated[
    int | None,
    typer.Option("--evaluate-every", min=1, help="a point of the curve every so many edits; default: ten in all"),
]
General = Annotated[Path | None, typer.Option(help="text file; general ability is the perplexity on its beginning")]
ShardText = Annotated[str | None, typer.Option("--shard", help="i/n: this part of the run alone; then `kg-edit merge`")]
OnRay = Annotated[
    bool, typer.Option("--ray", help="on a Ray cluster (RAY_ADDRESS, or this machine): one worker a device")
]
Extras = Annotated[list[str] | None, typer.Option("--extra", help="also score a costly metric; repeatable")]
References = Annotated[
    Path | None, typer.Option(help="attribute_snippets.json: the texts that consistency.tfidf compares with")
]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="go on with the run in the folder, or refuse to")]


def evaluate(
    data: Annotated[Path, typer.Option(help="the data set's JSON file, or hf:NAME")],
    out: Out,
    dataset: Annotated[
        str, typer.Option(help="the benchmark: counterfact, mquake, zsre, …; an unknown name lists them")
    ] = "counterfact-plus",
    method: MethodName = "glame",
    model: ModelName = "smollm2-135m",
    graph: Graph = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first so many records")] = None,
    schedule: ScheduleText = "single",
    evaluate_every: Every = None,
    general: General = None,
    shard: ShardText = None,
    resume: Resume = True,
    ray: OnRay = False,
    ceilings: Annotated[bool, typer.Option("--ceilings", help="also score with the facts in the prompt")] = False,
    extra: Extras = None,
    references: References = None,
    keep_going: KeepGoing = False,
    layer: LayerChoice = None,
    preset: Preset = "default",
    settings: Settings = None,
    corpus: CorpusName = None,
    seed: Annotated[int, typer.Option(help="of choices and intervals")] = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
    memory: Memory = None,
    judge_url: Url = None,
    judge_model: ModelAtUrl = "default",
) -> None:
    """Score a method on a benchmark: each edit alone, or in batches and sequences; resumable.

    Example: `kg-edit evaluate --dataset counterfact-plus --data dev.json --method rome --limit 24 --out runs/rome/`
    """
    if not resume:
        refuse_to_resume(out)
    evaluation = Evaluation(
        data=data,
        dataset=dataset,
        method=method,
        model=model,
        graph=graph,
        limit=limit,
        schedule=schedule,
        every=evaluate_every,
        general=general,
        ceilings=ceilings,
        extras=extra,
        references=references,
        keep_going=keep_going,
        layer=layer,
        preset=preset,
        settings=settings,
        corpus=corpus,
        seed=seed,
        dtype=dtype,
        device=device,
        contact=contact,
        memory=memory,
    )
    if ray:
        show(run_on_ray(evaluation, out, shard=shard), out)
    else:
        show(evaluation.run(out, shard=shard), out)
    if judge_url:
        judge(out, data, judge_url, judge_model, dataset)


Runs = Annotated[list[Path], typer.Argument(help="folders of runs; the first is what the others are compared with")]


def compare(
    runs: Runs,
    against: Annotated[str | None, typer.Option(help="compare with this run instead, or with: unedited")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="only this metric; repeatable")] = None,
    common: Annotated[bool, typer.Option("--common", help="only the records that all runs have")] = False,
    out: Annotated[list[Path] | None, typer.Option(help=".md, .tex, .json, .png, .svg or .pdf; repeatable")] = None,
    seed: Annotated[int, typer.Option(help="of intervals and permutations")] = 0,
) -> None:
    """Compare runs record by record: differences, intervals, p-values; one run alone with the unedited model.

    Example: `kg-edit compare runs/rome runs/glame --out comparison.md --out comparison.png`
    """
    from kg_edit.evaluate.comparison import compare as compare_runs
    from kg_edit.evaluate.reports import check_ending, rich_comparison, write_comparison

    for path in out or ():
        check_ending(path)
    found = compare_runs(runs, against=against, metrics=metric or (), common=common, seed=seed)
    stdout().print(rich_comparison(found))
    for path in out or ():
        stdout().print(plain(str(write_comparison(found, path))), soft_wrap=True)


def merge(
    out: Annotated[Path, typer.Argument(help="folder for the whole run")],
    shards: Annotated[list[Path], typer.Argument(help="folders of all its shards")],
) -> None:
    """Put the shards of a run (`kg-edit evaluate --shard i/n`) together; the same run as from one process.

    Example: `kg-edit merge runs/rome runs/rome-0 runs/rome-1`
    """
    from kg_edit.evaluate.finish import merge as merge_shards

    show(merge_shards(out, shards), out)
