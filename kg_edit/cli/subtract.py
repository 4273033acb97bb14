"""`kg-edit patch subtract`: an expert less what is an anti-expert's own (Ext-Sub), from patches or PEFT adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import load
from kg_edit.cli.options import Device, Dtype
from kg_edit.cli.unused import refuse_unused
from kg_edit.errors import ConfigError, OutputError
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch

_FORM = "a patch file of weights, or the folder of a PEFT LoRA adapter"
Expert = Annotated[Path, typer.Argument(help=f"change to keep: {_FORM}")]
Anti = Annotated[Path, typer.Argument(help=f"change to subtract: {_FORM}")]
Out = Annotated[Path, typer.Option(help="patch file to write")]
Strength = Annotated[float, typer.Option(min=0, help="factor of the subtracted part")]
Whole = Annotated[bool, typer.Option("--whole", help="subtract the whole anti-expert, also what both have in common")]
Model = Annotated[str | None, typer.Option(help="the model of the adapters; patch files need none")]


def subtract(
    context: typer.Context,
    expert: Expert,
    anti: Anti,
    out: Out,
    strength: Strength = 1.0,
    whole: Whole = False,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Subtract from an expert's change what only an anti-expert's change has (Ext-Sub).

    Example: `kg-edit patch subtract expert/ toxic/ --model smollm2-135m --out clean.safetensors`
    """
    if out.exists():
        raise OutputError(f"{out} already exists; give another --out")
    for path in (expert, anti):
        _check_change(path)
    from kg_edit.export.peft_reading import is_adapter
    from kg_edit.methods.ext_sub.extraction import subtracted

    adapters = [path for path in (expert, anti) if is_adapter(path)]
    if adapters and model is None:
        raise ConfigError(f"{adapters[0]} is a PEFT adapter, which does not say which model it is for; give --model")
    if not adapters:
        refuse_unused(context, ("model", "dtype", "device"), "where neither change is a PEFT adapter")
    loaded = load(model, dtype, device) if adapters and model else None
    minuend, subtrahend = (_read(path, loaded if path in adapters else None) for path in (expert, anti))
    made = subtracted(minuend, subtrahend, strength=strength, extract=not whole)
    made.check_finite()
    stdout().print(plain(f"{made.save(out)}: {len(made.factors)} weights changed"), soft_wrap=True)


def _check_change(path: Path) -> None:
    """Check that a path is a file, or a folder with a PEFT adapter.

    Raises:
        ConfigError: it is neither.
    """
    from kg_edit.export.peft_reading import is_adapter

    if not path.exists():
        raise ConfigError(f"{path} does not exist; give {_FORM}")
    if path.is_dir() and not is_adapter(path):
        raise ConfigError(f"the folder {path} has no PEFT adapter (adapter_config.json); give {_FORM}")


def _read(path: Path, model: LanguageModel | None) -> Patch:
    """The patch in a file; or with ``model``, the adapter in a folder as a patch for that model."""
    from kg_edit.export.peft_reading import read_peft
    from kg_edit.patches.base import Patch

    return read_peft(path, model) if model else Patch.load(path)
