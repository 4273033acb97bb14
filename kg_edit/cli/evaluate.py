"""`kg-edit evaluate`: a method's scores on a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kg_edit.cli import judge as cli_judge
from kg_edit.cli.evaluation import Evaluation, refuse_to_resume, run_on_ray, show
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
    judge: cli_judge.Url = None,
    judge_model: cli_judge.ModelAtUrl = "default",
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
    if judge:
        cli_judge.judge(out, data, judge, judge_model, dataset)
