"""`kg-edit`: the command line. Thin: each command reads its options and calls the library."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from kg_edit.errors import ConfigError, KgEditError
from wikidata_cache.errors import WikidataCacheError

if TYPE_CHECKING:
    from kg_edit.edits import Edit
    from kg_edit.language_model import LanguageModel
    from kg_edit.methods import EditingMethod
    from wikidata_cache import WikidataCache

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Change facts in a trained language model, together with what follows from them, and nothing else.",
)
console = Console()

EditsFile = Annotated[Path, typer.Argument(help="edits: .jsonl, .json, .csv or .tsv; triplet files too")]
ModelName = Annotated[str, typer.Option("--model", help="named model, hub id, folder or .gguf file")]
MethodName = Annotated[str, typer.Option("--method", help="see `kg-edit methods`")]
Graph = Annotated[
    list[str] | None,
    typer.Option("--graph", help="N-Triples or TSV file (.gz too), folder, oxigraph:DIR or SPARQL URL; repeatable"),
]
Out = Annotated[Path, typer.Option("--out", help="output folder; the same command again goes on where it stopped")]
Layer = Annotated[int | None, typer.Option("--layer", help="edited layer, 0-based")]
Preset = Annotated[str, typer.Option("--preset", help="named settings of the method: default, paper")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="one setting, NAME=VALUE, such as steps=30 or covariance.corpus=FILE")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Contact = Annotated[str | None, typer.Option(help="your e-mail or URL; Wikimedia's endpoints ask for it")]


@app.command()
def edit(
    edits: EditsFile,
    out: Out,
    method: MethodName = "glame",
    model: ModelName = "smollm2-135m",
    graph: Graph = None,
    layer: Layer = None,
    preset: Preset = "default",
    settings: Settings = None,
    templates: Annotated[
        Path | None, typer.Option(help="your relation templates (TSV), over the packaged ones")
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="skip bad rows, and list them at the end")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Make the edits of a file; writes the patch, and what it changed, to a folder.

    Example: `kg-edit edit edits.jsonl --method glame --model smollm2-135m --graph wikidata.nt.gz --out out/`
    """
    from kg_edit.edit_files import read_edits
    from kg_edit.methods import find_method
    from kg_edit.relation_templates import RelationTemplates

    find_method(method)
    source = _open_graph(graph, contact)
    file = read_edits(edits, labels=source, templates=RelationTemplates.load(templates), keep_going=keep_going)
    language_model = _load(model, dtype, device)
    chosen = _method(method, language_model, source, preset=preset, layer=layer, settings=settings)
    _run(chosen, language_model, file.edits, out)
    for problem in file.problems:
        typer.echo(f"skipped: {problem}", err=True)


@app.command()
def demo(out: Out = Path("out"), method: MethodName = "glame") -> None:
    """Edit three facts in SmolLM2-135M, offline, with the packaged piece of Wikidata.

    Example: `kg-edit demo --out out/`
    """
    from importlib.resources import as_file, files

    from kg_edit.edit_files import read_edits
    from wikidata_cache import packaged_extract

    with as_file(files("kg_edit") / "data" / "demo.jsonl") as path:
        edits = read_edits(path).edits
    source = _open_graph([str(packaged_extract())], None)
    model = _load("smollm2-135m", "auto", "auto")
    _run(_method(method, model, source, preset="default", layer=None, settings=None), model, edits, out)


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
    from functools import reduce
    from operator import add

    from kg_edit.evaluate.generation import continuations
    from kg_edit.patch import Patch

    patches = [Patch.load(path) for path in patch or ()]
    language_model = _load(model, dtype, device)
    whole = reduce(add, patches, Patch(factors={}))
    with whole.applied(language_model):
        texts = continuations(language_model, prompts, limits=[tokens] * len(prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        console.print(f"[dim]{_plain(prompt)}[/dim]{_plain(text)}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(help="the data set's JSON file")],
    out: Out,
    dataset: Annotated[str, typer.Option(help="counterfact or counterfact-plus")] = "counterfact-plus",
    method: MethodName = "glame",
    model: ModelName = "smollm2-135m",
    graph: Graph = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first so many records")] = None,
    ceilings: Annotated[bool, typer.Option("--ceilings", help="also score with the facts in the prompt")] = False,
    layer: Layer = None,
    preset: Preset = "default",
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="of choices and intervals")] = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Score a method on a benchmark, one edit at a time; resumable.

    Example: `kg-edit evaluate --dataset counterfact-plus --data dev.json --method rome --limit 24 --out runs/rome/`
    """
    from kg_edit.datasets import find_dataset
    from kg_edit.evaluate.report import rich_table
    from kg_edit.evaluate.run import evaluate as run
    from kg_edit.methods import find_method

    find_method(method)
    records = find_dataset(dataset)(data)
    source = _open_graph(graph, contact)
    language_model = _load(model, dtype, device)
    chosen = _method(method, language_model, source, preset=preset, layer=layer, settings=settings)
    summary = run(chosen, language_model, records[:limit], pool=records, out=out, ceilings=ceilings, seed=seed)
    console.print(rich_table(summary))
    console.print(f"{out}: summary.json, records.jsonl, run.json")


@app.command()
def methods() -> None:
    """List the editing methods and their settings."""
    from rich.table import Table

    from kg_edit.methods import find_method, method_names

    for name in method_names():
        found = find_method(name)
        table = Table("setting", "default", "meaning", title=f"{name}: {found.about}", title_justify="left")
        for field, info in found.config_class.model_fields.items():
            table.add_row(field, str(info.get_default(call_default_factory=True)), info.description or "")
        console.print(table, f"presets: {', '.join(found.config_class.presets)}\n")


@app.command()
def models() -> None:
    """List the named models and the families that can be edited."""
    from kg_edit.architectures import known_architectures
    from kg_edit.model_files import NAMED_MODELS

    for name, named in NAMED_MODELS.items():
        console.print(f"[bold]{name}[/bold]  {named.about}\n  install: {named.install}", highlight=False)
    console.print(f"families: {', '.join(sorted(known_architectures()))}", highlight=False)


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="named model, hub id, folder or .gguf file")],
    layer: Layer = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Say what was found in a model, and try one edit on it.

    Example: `kg-edit doctor smollm2-135m`
    """
    from kg_edit.doctor import examine

    for name, value in examine(_load(model, dtype, device), layer=layer):
        console.print(f"[bold]{name}[/bold]: {_plain(value)}", highlight=False)


def _run(method: EditingMethod, model: LanguageModel, edits: tuple[Edit, ...], out: Path) -> None:
    from kg_edit.edit_run import draw_subgraph, run_edits
    from kg_edit.report import terminal_table

    rows = run_edits(method, model, edits, out)
    picture = draw_subgraph(method, edits[0], out)
    console.print(terminal_table(rows))
    files = ["patch.safetensors", "records.jsonl", "report.md", *([picture.name] if picture else [])]
    console.print(f"{out}: {', '.join(files)}", highlight=False)


def _open_graph(graph: list[str] | None, contact: str | None) -> WikidataCache | None:
    if not graph:
        return None
    from wikidata_cache import WikidataCache

    return WikidataCache(graph[0] if len(graph) == 1 else graph, contact=contact)


def _load(model: str, dtype: str, device: str) -> LanguageModel:
    from transformers.utils import logging as transformers_logging

    from kg_edit.language_model import LanguageModel

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with console.status(f"loading {model}"):
        return LanguageModel.load(model, dtype=dtype, device=device)


def _method(
    name: str,
    model: LanguageModel,
    graph: WikidataCache | None,
    *,
    preset: str,
    layer: int | None,
    settings: list[str] | None,
) -> EditingMethod:
    from kg_edit.methods import find_method

    chosen = find_method(name)
    wanted = _settings(settings or [])
    if layer is not None:
        wanted["layer"] = layer
    return chosen(model, chosen.config_class.preset(preset, wanted), graph=graph)


def _settings(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE, a dot going one level down; values are JSON where they can be read as such, else text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: expected NAME=VALUE, such as --set steps=30")
        *groups, last = name.split(".")
        place = settings
        for group in groups:
            place = place.setdefault(group, {})
        try:
            place[last] = json.loads(text)
        except json.JSONDecodeError:
            place[last] = text
    return settings


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def main() -> None:
    """The console script: errors that a user can mend are one message and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        app()
    except (KgEditError, WikidataCacheError) as error:
        typer.echo(f"kg-edit: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
