"""The options that several commands of `kg-edit` share, as annotated types: typer reads their flags and their help.

For all other code such an option is its plain type: ``Memory`` is ``float | None``. `refuse_unused` refuses options
that would have no effect, before any work is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from kg_edit.errors import ConfigError
from kg_edit.methods.registry import method_names
from kg_edit.models.loading import NAMED_MODELS
from kg_edit.storage.packaged import packaged_graphs


def completion(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a shell completion: a function from the typed start of a name to those of ``names`` that begin with it.

    ``names`` is called when the completion is, and not before, because it reads files.
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


complete_method = completion(method_names)
complete_graph = completion(packaged_graphs)

# Panels of the help, which come in this order after a command's own ones (`help_page`)
CHAT = "Chat form, start of a text"
COVARIANCE = "Covariance"
CHECKS = "Checks"
LOGGING = "Logging"
MACHINE = "Machine and network"

_MODEL = "Named model, hub id, folder or `.gguf` file."

EditsFile = Annotated[
    Path, typer.Argument(metavar="EDITS", help="File of edits: `.jsonl`, `.json`, `.csv` or `.tsv`; triplets too.")
]
BenchmarkFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="File of a benchmark or of your edits, a packaged one's name, or `hf:NAME`."),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", show_default="detected from the file", help="Name of the benchmark.")
]
Split = Annotated[str | None, typer.Option("--split", help="Use only this split, `dev` or `test`.")]
ModelName = Annotated[str, typer.Option("--model", help=_MODEL, autocompletion=completion(lambda: NAMED_MODELS))]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)]
MethodName = Annotated[
    str, typer.Option("--method", help="Editing method; see `kg-edit methods`.", autocompletion=complete_method)
]
ChosenMethod = Annotated[
    str | None,
    typer.Option(
        "--method",
        show_default="glame with --graph, else rome",
        help="Editing method; see `kg-edit methods`.",
        autocompletion=complete_method,
    ),
]
RequireGraph = Annotated[
    bool, typer.Option("--require-graph", help="Refuse edits whose new object o* the graph states nothing about.")
]
_GRAPH = (
    "Your facts: `.csv`, `.tsv` (head, relation, tail) or `.graphml`; or Wikidata's: `extract` (packaged), "
    "`.nt`, `.tsv`, folder, store, SPARQL URL. Repeatable."
)
Graph = Annotated[
    list[str] | None,
    typer.Option(
        "--graph",
        show_default="extract, if a method needs a graph",
        help=_GRAPH,
        autocompletion=complete_graph,
    ),
]
GivenGraph = Annotated[  # of commands without a method
    list[str] | None, typer.Option("--graph", show_default=False, help=_GRAPH, autocompletion=complete_graph)
]
Out = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Folder to write. The same command again resumes the run.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace another run in the output folder; the same run is resumed.")
]
PATCHES = typer.Option(
    "--patch",
    metavar="PATH",
    help="Patch file, ledger, or output folder of `kg-edit edit`. Repeatable: patches are added.",
)
Layer = Annotated[int | None, typer.Option("--layer", min=0, help="Layer to edit, 0-based.")]
LayerChoice = Annotated[
    str | None,
    typer.Option("--layer", help="Layer to edit, 0-based; `auto` chooses it by a short sweep on a few of your edits."),
]
_PRESET = "Named settings: `default`, a method's own (`fast`, `long`, `paper`), or a model's, such as `gpt2-xl`."
Preset = Annotated[str, typer.Option("--preset", help=_PRESET)]
EditPreset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"{_PRESET} Without it: `fast` for `rome`, `memit` and `alphaedit` on a processor that computes in "
        "bfloat16, else `default`.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Setting, such as `steps=30` or `covariance.corpus=FILE`. Repeatable."
    ),
]
CorpusName = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        show_default="packaged",
        help="Text for the covariance: `packaged`, `self` (by the model), a text file, `hf:NAME` or `imported:NAME`.",
        rich_help_panel=COVARIANCE,
    ),
]
Templates = Annotated[
    Path | None, typer.Option(metavar="FILE.tsv", help="Your relation templates; they override the packaged ones.")
]
EditLanguage = Annotated[
    str,
    typer.Option(
        "--language",
        metavar="CODE",
        help="Language of edits that name none: `en`, `de`, `es`, `ja`, `ko` and `zh` have packaged prompts, others "
        "need a prompt in each row.",
    ),
]
Relations = Annotated[
    str | None, typer.Option(show_default="all packaged ones", help="Relations r of the edits, such as `P17,P19`.")
]
EditCount = Annotated[int, typer.Option("--n", min=1, metavar="N", help="Number of edits drawn from the graph.")]
Exclude = Annotated[
    list[Path] | None,
    typer.Option(
        "--exclude", metavar="FILE", help="Benchmark (packaged name or file) whose s and o* are not used. Repeatable."
    ),
]
KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going", help="Skip bad rows, and edits that can't be made, and list them.", rich_help_panel=CHECKS
    ),
]
AsChat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--plain",
        show_default="the row's field chat",
        help="Make and test edits in the model's chat template, or in plain text.",
        rich_help_panel=CHAT,
    ),
]
BothForms = Annotated[
    bool,
    typer.Option("--both-forms", help="Make each edit in plain text and in chat form; slower.", rich_help_panel=CHAT),
]
Start = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        "--start",
        help="Put a line break before a plain text: where it begins with an edited subject that the model would not "
        "read there (`auto`), `always` or `never`.",
        rich_help_panel=CHAT,
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "nf4", "int8"],
    typer.Option(
        help="Precision of the weights; `auto`: float32 on a CPU, else bfloat16. `nf4` (4 bit) and `int8` are made by "
        "bitsandbytes.",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`, ….", rich_help_panel=MACHINE)]
Memory = Annotated[
    float | None,
    typer.Option(
        min=1,
        metavar="MB",
        show_default="1000, on an accelerator half of what is free",
        help="Memory of a forward pass while edits are made, without the model. Same results.",
        rich_help_panel=MACHINE,
    ),
]
Contact = Annotated[
    str | None,
    typer.Option(help="Your e-mail address or URL, which the endpoints of Wikimedia require.", rich_help_panel=MACHINE),
]


def refuse_unused(context: typer.Context, names: Sequence[str], where: str, *, way: str | None = None) -> None:
    """Refuse those of the parameters ``names`` that were typed, because they have no effect.

    Args:
        context: the command as it was typed.
        names: names of parameters of the command's function.
        where: in which case they have no effect, such as "without --push".
        way: what to do instead of leaving them out, such as "give --push OWNER/NAME".
    """
    typed = typed_options(context, names)
    if typed:
        names_typed = ", ".join(typed)
        message = f"{names_typed} have no effect {where}; leave them out"
        if len(typed) == 1:
            message = f"{names_typed} has no effect {where}; leave it out"
        if way:
            message += f", or {way}"
        raise ConfigError(message)


def typed_options(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Return those of the parameters ``names`` that were typed, as they were typed."""
    typed = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            name = parameter.opts[0]
            is_option = name.startswith("-")
            if not is_option:
                name = parameter.metavar or name.upper()  # as the help shows an argument, which is typed alone
            typed.append(name)
    return typed
