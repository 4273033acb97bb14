"""`kg-edit generate`: what a model, patched or not, goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import load
from kg_edit.cli.options import Device, Dtype, ModelName
from kg_edit.errors import ConfigError
from kg_edit.models.loading import check_model_name
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.patches.base import Patch


def generate(
    prompts: Annotated[list[str], typer.Argument(help="texts to continue")],
    model: ModelName = "smollm2-135m",
    patch: Annotated[
        list[Path] | None,
        typer.Option("--patch", help="patch file, or output folder of kg-edit edit; repeatable: patches are added"),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="maximum number of new tokens")] = 20,
    chat: Annotated[
        bool, typer.Option("--chat", help="send each text as a user turn in the model's chat template")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Continue texts with a model, patched or not (greedy decoding).

    With `--chat`, each text is a user turn: `--chat "Where is Spike Hughes from?"`. Texts are used as they are. A
    warning appears if a text begins with an edit's subject and the model does not read the first token of a text.

    Example: `kg-edit generate --patch out/patch.safetensors "Spike Hughes originates from"`
    """
    if not all(map(str.strip, prompts)):
        raise ConfigError("a prompt is empty; give a text to continue")
    from kg_edit.ledger.listing import check_patches

    check_model_name(model)
    check_patches(patch or (), ledgers=False)
    from kg_edit.cli.unread_prompts import warn_of_unread_prompts
    from kg_edit.scoring.generation import ask, continuations

    whole, language_model = _sum_of(patch or ()), load(model, dtype, device)
    with whole.applied(language_model) as edited:
        if chat:
            _show_turns(prompts, [ask(edited, prompt, tokens=tokens, chat=True) for prompt in prompts])
            return
        warn_of_unread_prompts(language_model, whole, prompts)
        texts = continuations(edited, prompts, limits=[tokens] * len(prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        stdout().print(f"[dim]{plain(prompt)}[/dim]{plain(text)}", soft_wrap=True)


def _sum_of(paths: Sequence[Path]) -> Patch:
    """The sum of the patches at some paths; an empty patch if there are none."""
    from functools import reduce
    from operator import add

    from kg_edit.ledger.listing import patch_file
    from kg_edit.patches.base import Patch
    from kg_edit.patches.weight_patch import WeightPatch

    return reduce(add, [Patch.load(patch_file(path) or path) for path in paths], WeightPatch(factors={}))


def _show_turns(prompts: Sequence[str], answers: Sequence[str]) -> None:
    """Each user's turn, and the answer's lines below it."""
    for prompt, answer in zip(prompts, answers, strict=True):
        lines = [f"[dim]{plain(prompt)}[/dim]", *map(plain, answer.splitlines())]
        stdout().print("\n".join(lines), soft_wrap=True)
