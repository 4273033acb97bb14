"""What the commands of `kg-edit` share: their options, and reading ``--set``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kg_edit.errors import ConfigError

EditsFile = Annotated[Path, typer.Argument(help="edits: .jsonl, .json, .csv or .tsv; triplet files too")]
ModelName = Annotated[str, typer.Option("--model", help="named model, hub id, folder or .gguf file")]
ModelArgument = Annotated[str, typer.Argument(help="named model, hub id, folder or .gguf file")]
MethodName = Annotated[str, typer.Option("--method", help="see `kg-edit methods`")]
Graph = Annotated[
    list[str] | None,
    typer.Option("--graph", help="N-Triples or TSV file (.gz too), folder, oxigraph:DIR or SPARQL URL; repeatable"),
]
Out = Annotated[Path, typer.Option("--out", help="output folder; the same command again goes on where it stopped")]
Layer = Annotated[int | None, typer.Option("--layer", help="edited layer, 0-based")]
AUTO = "auto"
LayerChoice = Annotated[
    str | None,
    typer.Option("--layer", help="edited layer, 0-based; auto: chosen by a short sweep on a few of your edits"),
]
Preset = Annotated[str, typer.Option("--preset", help="named settings: default, paper, or of a model, such as gpt2-xl")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="one setting, such as steps=30 or covariance.corpus=FILE"),
]
CorpusName = Annotated[
    str | None,
    typer.Option("--corpus", help="text behind the covariance: self (the model's own), a text file, hf:NAME"),
]
Templates = Annotated[Path | None, typer.Option(help="your relation templates (TSV), over the packaged ones")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="skip bad rows, and list them at the end")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Memory = Annotated[
    float | None, typer.Option(min=1, help="MB that a pass may take above the model (default 1000); same results")
]
Contact = Annotated[str | None, typer.Option(help="your e-mail or URL; Wikimedia's endpoints ask for it")]


def parse_layer(text: str | int | None) -> int | None:
    """The number of ``--layer``; None for auto, and where the method's default holds.

    Raises:
        ConfigError: it is neither a number from 0 on nor auto.
    """
    if text is None or text == AUTO:
        return None
    if not str(text).isdecimal():
        raise ConfigError(f"--layer {text}: expected a layer's number from 0 on, or auto")
    return int(text)


def parse_settings(pairs: list[str], layer: int | None = None, corpus: str | None = None) -> dict[str, Any]:
    """NAME=VALUE, a dot going one level down; values are JSON where they can be read as such, else text.

    Raises:
        ConfigError: a pair has no ``=``, or a setting is given twice.
    """
    settings: dict[str, Any] = {}
    options = {"layer": layer, "covariance.corpus": corpus}
    for pair in [*pairs, *(f"{name}={value}" for name, value in options.items() if value is not None)]:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair}: expected NAME=VALUE, such as --set steps=30")
        _put(settings, [part.strip() for part in name.split(".")], _value(text), pair)
    return settings


def _put(settings: dict[str, Any], path: list[str], value: Any, pair: str) -> None:
    *groups, last = path
    for group in groups:
        settings = settings.setdefault(group, {}) if isinstance(settings, dict) else {}
    if not isinstance(settings, dict) or last in settings:
        raise ConfigError(f"{'.'.join(path)} is set twice, the second time by {pair!r}; keep one")
    settings[last] = value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
