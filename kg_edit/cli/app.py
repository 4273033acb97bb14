"""`kg-edit`: the command line. Thin: each command reads its options and calls the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kg_edit import __version__
from kg_edit.cli import compare as cli_compare
from kg_edit.cli import covariance as cli_covariance
from kg_edit.cli import data as cli_data
from kg_edit.cli import judge as cli_judge
from kg_edit.cli import locate as cli_locate
from kg_edit.cli import mend as cli_mend
from kg_edit.cli import methods as cli_methods
from kg_edit.cli import metrics as cli_metrics
from kg_edit.cli import patch as cli_patch
from kg_edit.cli import plan as cli_plan
from kg_edit.cli import serve as cli_serve
from kg_edit.cli import sweep as cli_sweep
from kg_edit.cli.evaluate import (
    Evaluation,
    Every,
    Extras,
    General,
    OnRay,
    References,
    Resume,
    ScheduleText,
    ShardText,
    refuse_to_resume,
    run_on_ray,
    show,
)
from kg_edit.cli.options import (
    Contact,
    CorpusName,
    Device,
    Dtype,
    EditsFile,
    Graph,
    KeepGoing,
    Layer,
    LayerChoice,
    Memory,
    MethodName,
    ModelArgument,
    ModelName,
    Out,
    Preset,
    Settings,
    Templates,
)
from kg_edit.cli.steps import friendly, load, plain, plan, run, stdout
from kg_edit.errors import ConfigError

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # a traceback is for us: whole, and without the values of variables
    help="Change facts in a trained language model, together with what follows from them, and nothing else.",
    epilog="Example: `kg-edit demo --out out/`",
)

app.add_typer(cli_data.app, name="data")
app.add_typer(cli_covariance.app, name="covariance")
app.command()(cli_metrics.metrics)
app.command()(cli_methods.methods)
app.command()(cli_judge.judge)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kg-edit {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="say the version, and end", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


@app.command()
def edit(
    edits: EditsFile,
    out: Out,
    method: MethodName = "glame",
    model: ModelName = "smollm2-135m",
    graph: Graph = None,
    layer: LayerChoice = None,
    preset: Preset = "default",
    settings: Settings = None,
    corpus: CorpusName = None,
    templates: Templates = None,
    keep_going: KeepGoing = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Make the edits of a file; writes the patch, and what it changed, to a folder.

    Example: `kg-edit edit edits.jsonl --method glame --model smollm2-135m --graph wikidata.nt.gz --out out/`
    """
    from kg_edit.edit_io.edit_files import read_edits
    from kg_edit.edit_io.relation_templates import RelationTemplates

    planned = plan(method, preset=preset, layer=layer, settings=settings, corpus=corpus, graph=graph, contact=contact)
    file = read_edits(edits, labels=planned.graph, templates=RelationTemplates.load(templates), keep_going=keep_going)
    usable = planned.check(file.edits, out, keep_going=keep_going)
    language_model = load(model, dtype, device)
    settled = planned.settled(language_model, usable)
    run(settled.on(language_model), language_model, usable, out)
    settled.note_layer(out)
    for problem in file.problems:
        typer.echo(f"skipped: {problem}", err=True)


@app.command()
def demo(out: Out = Path("out"), method: MethodName = "glame") -> None:
    """Edit three facts in SmolLM2-135M, offline, with the packaged piece of Wikidata.

    Example: `kg-edit demo --out out/`
    """
    from importlib.resources import as_file, files

    from kg_edit.edit_io.edit_files import read_edits
    from wikidata_cache import packaged_extract

    with as_file(files("kg_edit") / "data" / "demo.jsonl") as path:
        edits = read_edits(path).edits
    planned = plan(method, graph=[str(packaged_extract())])
    planned.check(edits, out)
    model = load("smollm2-135m")
    run(planned.on(model), model, edits, out)


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(help="texts to go on with")],
    model: ModelName = "smollm2-135m",
    patch: Annotated[list[Path] | None, typer.Option("--patch", help="patch file; several are added")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="at most so many new tokens")] = 20,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Let a model, patched or not, go on with texts (greedily).

    Example: `kg-edit generate --patch out/patch.safetensors "Spike Hughes originates from"`
    """
    if not all(map(str.strip, prompts)):
        raise ConfigError("a prompt is empty; give a text to go on with")
    from functools import reduce
    from operator import add

    from kg_edit.evaluate.generation import continuations
    from kg_edit.patch import Patch
    from kg_edit.patches.weight_patch import WeightPatch

    whole: Patch = reduce(add, [Patch.load(path) for path in patch or ()], WeightPatch(factors={}))
    language_model = load(model, dtype, device)
    with whole.applied(language_model) as edited:
        texts = continuations(edited, prompts, limits=[tokens] * len(prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        stdout().print(f"[dim]{plain(prompt)}[/dim]{plain(text)}", soft_wrap=True)


@app.command()
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


cli_compare.add_to(app)
cli_plan.add_to(app)
cli_serve.add_to(app)
cli_locate.add_to(app)
cli_sweep.add_to(app)
cli_patch.add_to(app)
cli_mend.add_to(app)


@app.command()
def models() -> None:
    """List the named models and the families that can be edited.

    Example: `kg-edit models`
    """
    from kg_edit.architectures import known_architectures
    from kg_edit.model_files import NAMED_MODELS

    for name, named in NAMED_MODELS.items():
        stdout().print(f"[bold]{name}[/bold]  {named.about}\n  install: {named.install}")
    stdout().print(f"families: {', '.join(sorted(known_architectures()))}")


@app.command()
def doctor(model: ModelArgument, layer: Layer = None, dtype: Dtype = "auto", device: Device = "auto") -> None:
    """Say what was found in a model, and try one edit on it.

    Example: `kg-edit doctor smollm2-135m`
    """
    from kg_edit.doctor import examine

    for name, value in examine(load(model, dtype, device), layer=layer):
        stdout().print(f"[bold]{name}[/bold]: {plain(value)}", soft_wrap=True)


def main() -> None:
    """The console script: errors that a user can mend are one message and exit code 2."""
    with friendly():
        try:
            app()
        except SystemExit as end:
            if end.code == _INTERRUPTED:
                typer.echo("kg-edit: stopped; the same command goes on where it was", err=True)
            raise


if __name__ == "__main__":
    main()
