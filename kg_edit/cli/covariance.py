"""`kg-edit covariance`: measure C = E[k k^T] for some layers; `import` reads published files, `list` what is stored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from kg_common.terminal import number_of
from kg_edit.cli.console import say
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import CorpusName, Device, Dtype, ModelName, refuse_unused
from kg_edit.errors import ConfigError, faults_of
from kg_edit.models.loading import check_model_name

if TYPE_CHECKING:
    from kg_edit.covariance.files import Manifest

_DIGITS = 6  # of a layer's number, at most

Folder = Annotated[
    Path | None,
    typer.Option(show_default="in the user's cache folder, which edits read", help="Folder of the covariances."),
]
app = typer.Typer(invoke_without_command=True, rich_markup_mode="markdown")


@app.callback()
def covariance(
    context: typer.Context,
    model: ModelName = "smollm2-135m",
    layers: Annotated[str | None, typer.Option(help="Layers, 0-based: `4-8`, `4,6,8` or `all`.")] = None,
    corpus: CorpusName = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="10 x d_ff, of the packaged text at most 120,000",
            help="Minimum number of tokens.",
        ),
    ] = None,
    ridge: Annotated[
        float, typer.Option(min=0, help="Relative ridge for estimating the error of a new measurement.")
    ] = 1e-4,
    seed: Annotated[int, typer.Option(help="Random seed of the text that the model generates (`--corpus self`).")] = 0,
    folder: Folder = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Measure the covariance of the keys, which edits need, for several layers in one pass.

    The same command again resumes the run. The output shows the angle by which the solved direction turned each time
    the number of tokens doubled; the last angle is about the error that remains. Twice as many tokens reduce it to 0.7
    to 0.8 of its value.

    Examples:

    - `kg-edit covariance --model smollm2-135m --layers 4-8 --corpus text.txt --tokens 1000000`
    - `kg-edit covariance list`
    """
    command = context.invoked_subcommand
    if command is not None:  # options of `covariance` itself have no effect before `import` or `list`
        names = [parameter.name for parameter in context.command.params if parameter.name]
        refuse_unused(context, names, f"before {command}", way=f"give options of {command} after it")
        return
    corpus = corpus or "packaged"
    if corpus != "self":
        refuse_unused(context, ("seed",), f"with --corpus {corpus}, which is the same for every seed")
    parse_layers(layers, None)  # a typing error is an error before the model is loaded
    check_model_name(model)
    from kg_edit.covariance.corpora import open_corpus
    from kg_edit.covariance.store import CovarianceConfig, measure_covariances

    try:
        config = CovarianceConfig(corpus=corpus, tokens=tokens, seed=seed, ridge=ridge)
    except ValidationError as error:
        faults = [f"--{fault.field}: {fault.message}" for fault in faults_of(error, CovarianceConfig)]
        raise ConfigError("; ".join(faults)) from None
    open_corpus(config.corpus)  # a text that can't be read is an error before the model is loaded too
    language_model = load_model(model, dtype, device)
    chosen = parse_layers(layers, len(language_model.blocks))
    manifests = measure_covariances(language_model, chosen, config, folder=folder)
    _show(manifests.values(), folder)


def parse_layers(text: str | None, count: int | None) -> list[int]:
    """Return the layers that ``text`` names, such as 4-8 or 4,6,8, in a model of ``count`` layers.

    If ``count`` is None, because the model is not loaded yet, only the form of ``text`` is checked.
    """
    if text is None:
        raise ConfigError("no layers given; use --layers 4-8 (or 4,6,8, or all); see `kg-edit covariance --help`")
    if text.strip() == "all":
        return list(range(count or 0))
    layers: set[int] = set()
    for piece in text.split(","):
        piece_layers = _parse_piece(piece)
        if not piece_layers:
            raise ConfigError(f"--layers {text}: expected layers such as 4-8, 4,6,8 or all; found {piece!r}")
        layers.update(piece_layers)
    if count is not None and max(layers) >= count:
        raise ConfigError(f"--layers {text}: the model has layers 0 to {count - 1}")
    return sorted(layers)


def _parse_piece(text: str) -> range:
    """Return the layers of a piece of ``--layers``, such as 4 or 4-8; none if it is neither."""
    first, dash, last = [part.strip() for part in text.partition("-")]
    if not dash:
        last = first
    for number in (first, last):
        if not number.isdecimal() or len(number) > _DIGITS:
            return range(0)
    return range(int(first), int(last) + 1)


def _show(manifests: Iterable[Manifest], folder: Path | None) -> None:
    """Print three lines for each covariance, and then the folder; a table would break the names of modules."""
    from kg_edit.covariance.store import store_folder, stored_covariances

    shown = list(manifests)
    for manifest in shown:
        model = manifest.model_name or manifest.model
        say(f"{manifest.module} of {model}: {manifest.id}, {manifest.count:,} tokens")
        say(f"  text: {manifest.corpus}")
        say(f"  {_describe_error(manifest)}")
    total = len(stored_covariances(folder))
    count = number_of(total, "covariance")
    if len(shown) < total:
        count = f"{len(shown)} of {count}"
    say(f"{folder or store_folder()}: {count}")


def _describe_error(manifest: Manifest) -> str:
    """Return what is known of the error of a covariance, in words."""
    if manifest.source:
        return f"source: {manifest.source}; its error is known only of what kg-edit covariance itself measures"
    if not manifest.doublings:
        return "direction turned as tokens doubled: unknown, too few tokens"
    last = manifest.doublings[-1]
    angles = " → ".join(f"{doubling.median_degrees:.1f}°" for doubling in manifest.doublings)
    span = f"{last.tokens_before:,} to {last.tokens:,}; at most {last.max_degrees:.1f}°"
    return f"direction turned as tokens doubled: {angles} ({span})"


@app.command("import")
def import_published(
    files: Annotated[list[Path], typer.Argument(metavar="FILES.npz...", help="Files with `mom2.mom2`, `mom2.count`.")],
    model: ModelName = "smollm2-135m",
    layer: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", show_default="from the file's name", help="Layer of the file, 0-based."),
    ] = None,
    name: Annotated[str, typer.Option(help="Edits use the covariances by `--corpus imported:NAME`.")] = "published",
    folder: Folder = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Import covariances in the form of ROME's and MEMIT's programs.

    Their statistics of GPT-2 XL and GPT-J are at rome.baulab.info and memit.baulab.info, under data/stats. `mom2.mom2`
    is the sum of k k^T over `mom2.count` tokens. The file's name and SHA-256 are recorded.

    Examples:

    - `kg-edit covariance import transformer.h.17.mlp.c_proj_float32_mom2_100000.npz --model gpt2-xl`
    - `kg-edit covariance import stats.npz --model gpt-j --layer 5 --name wikipedia`
    - `kg-edit edit edits.jsonl --model gpt2-xl --method rome --corpus imported:published --out out/`
    """
    if layer is not None and len(files) > 1:
        raise ConfigError(f"--layer {layer} is the layer of one file; give one file, or names that begin with a module")
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file}: there is no such file")
    check_model_name(model)
    from kg_edit.covariance.published import import_covariance

    language_model = load_model(model, dtype, device)
    manifests = []
    for file in files:
        manifests.append(import_covariance(file, language_model, layer=layer, name=name, folder=folder))
    _show(manifests, folder)


@app.command("list")
def list_stored(folder: Folder = None) -> None:
    """List the stored covariances.

    The angles show how far the solved direction turned each time the number of tokens doubled. The last one is about
    the error that remains.

    Examples:

    - `kg-edit covariance list`
    """
    from kg_edit.covariance.store import stored_covariances

    _show(stored_covariances(folder), folder)
