"""The options that several commands of `kg-edit` share, as annotated types; typer reads the flag and the help from
them.

In other code they equal the annotated type: ``Memory`` is ``float | None``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kg_edit.methods.registry import method_names
from kg_edit.models.loading import NAMED_MODELS
from kg_edit.storage.packaged import packaged_graphs


def complete_method(incomplete: str) -> list[str]:
    """The methods whose names begin with ``incomplete``, for shell completion."""
    return [name for name in method_names() if name.startswith(incomplete)]


def _complete_model(incomplete: str) -> list[str]:
    return [name for name in NAMED_MODELS if name.startswith(incomplete)]


def _complete_graph(incomplete: str) -> list[str]:
    return [name for name in packaged_graphs() if name.startswith(incomplete)]


EditsFile = Annotated[Path, typer.Argument(help="file of edits: .jsonl, .json, .csv or .tsv; triplet files too")]
ModelName = Annotated[
    str,
    typer.Option("--model", help="named model, hub id, folder or .gguf file", autocompletion=_complete_model),
]
ModelArgument = Annotated[str, typer.Argument(help="named model, hub id, folder or .gguf file")]
MethodName = Annotated[
    str, typer.Option("--method", help="editing method; see `kg-edit methods`", autocompletion=complete_method)
]
Graph = Annotated[
    list[str] | None,
    typer.Option(
        "--graph",
        help="extract (packaged; the default if a method needs one), graph file (.nt, .tsv; .gz too), folder, store "
        "or SPARQL URL; repeatable",
        autocompletion=_complete_graph,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="output folder; the same command again resumes the run")]
Layer = Annotated[int | None, typer.Option("--layer", help="edited layer, 0-based")]
LayerChoice = Annotated[
    str | None,
    typer.Option("--layer", help="edited layer, 0-based; auto: chosen by a short sweep on a few of your edits"),
]
Preset = Annotated[str, typer.Option("--preset", help="named settings: default, paper, or a model's, such as gpt2-xl")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="a setting, such as steps=30 or covariance.corpus=FILE; repeatable"
    ),
]
CorpusName = Annotated[
    str | None,
    typer.Option("--corpus", help="text for the covariance: self (the model's own), a text file or hf:NAME"),
]
TrainingPreset = Annotated[
    str, typer.Option("--preset", help="named settings of the training; an unknown name lists those of the method")
]
TrainingSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="a setting of the training, such as batch=8; repeatable"),
]
Templates = Annotated[Path | None, typer.Option(help="your relation templates (TSV); they override the packaged ones")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="skip bad rows and list them at the end")]
AsChat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--plain",
        help="make and test edits in the model's chat template, or in plain text; default: the row's field chat",
    ),
]
BothForms = Annotated[bool, typer.Option("--both-forms", help="make each edit in plain text and in chat form; slower")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Memory = Annotated[
    float | None,
    typer.Option(min=1, help="MB for a forward pass, without the model (default 1000); same results"),
]
Contact = Annotated[str | None, typer.Option(help="your e-mail address or URL; Wikimedia endpoints require it")]
