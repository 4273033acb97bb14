"""`kg-edit models` and `kg-edit doctor`: which models can be edited, and what is found in one."""

from __future__ import annotations

from kg_edit.cli.console import load, plain, stdout
from kg_edit.cli.options import Device, Dtype, Layer, ModelArgument


def models() -> None:
    """List the named models and the families that can be edited.

    Example: `kg-edit models`
    """
    from kg_edit.models.architectures import known_architectures
    from kg_edit.models.loading import NAMED_MODELS

    for name, named in NAMED_MODELS.items():
        stdout().print(f"[bold]{name}[/bold]  {named.about}\n  install: {named.install}")
    stdout().print(f"families: {', '.join(sorted(known_architectures()))}")


def doctor(model: ModelArgument, layer: Layer = None, dtype: Dtype = "auto", device: Device = "auto") -> None:
    """Say what was found in a model, and try one edit on it.

    Example: `kg-edit doctor smollm2-135m`
    """
    from kg_edit.jobs.doctor import examine

    for name, value in examine(load(model, dtype, device), layer=layer):
        stdout().print(f"[bold]{name}[/bold]: {plain(value)}", soft_wrap=True)
