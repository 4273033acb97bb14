"""`kg-edit generate`: continue texts with a model, edited or not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import reduce
from operator import add
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
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch

log = logging.getLogger(__name__)


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="TEXTS...", help="Texts to continue.")],
    model: ModelName = "smollm2-135m",
    patch: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Patch file, or output folder of `kg-edit edit`. Repeatable: patches are added."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of new tokens.")] = 20,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send each text as a user turn in the model's chat template.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Continue texts with a model, edited or not (greedy decoding).

    Texts are used as they are. A warning appears if a text begins with an edit's subject and the model takes the first
    token of a text for an attention sink.

    Examples:

    - `kg-edit generate "Spike Hughes originates from"`
    - `kg-edit generate --patch out/patch.safetensors "Spike Hughes originates from"`
    - `kg-edit generate --chat "Where is Spike Hughes from?"`
    """
    if not all(map(str.strip, prompts)):
        raise ConfigError("a prompt is empty; give a text to continue")
    from kg_edit.ledger.listing import check_patches, patch_file

    check_model_name(model)
    check_patches(patch or (), ledgers=False)
    from kg_edit.patches.base import Patch
    from kg_edit.patches.weight_patch import WeightPatch
    from kg_edit.scoring.generation import ask, continuations

    # Without a patch, the sum is an empty one, and the edited model is the unedited one
    patches = [Patch.load(patch_file(path) or path) for path in patch or ()]
    total: Patch = reduce(add, patches, WeightPatch(factors={}))
    language_model = load(model, dtype, device)
    if chat:
        with total.applied(language_model) as edited:
            answers = [ask(edited, prompt, tokens=tokens, chat=True) for prompt in prompts]
        for prompt, answer in zip(prompts, answers, strict=True):
            lines = [f"[dim]{plain(prompt)}[/dim]", *map(plain, answer.splitlines())]
            stdout().print("\n".join(lines), soft_wrap=True)
        return
    warn_of_sinks(language_model, total, prompts)
    with total.applied(language_model) as edited:
        texts = continuations(edited, prompts, limits=[tokens] * len(prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        stdout().print(f"[dim]{plain(prompt)}[/dim]{plain(text)}", soft_wrap=True)


def warn_of_sinks(model: LanguageModel, patch: Patch, prompts: Sequence[str]) -> None:
    """Warn of plain-text prompts whose first token, an attention sink, is the subject of an edit.

    Such an edit was made after a line break. The report and `patch check` ask for it after a line break too, while
    `kg-edit generate` continues a text as it is.

    Args:
        model: the model, which may have an attention sink.
        patch: the patch with the records of its edits. In a patch of the prompt, facts need no line break.
        prompts: the texts to continue.
    """
    from kg_edit.models.first_token import lead_before
    from kg_edit.patches.base import PatchStack

    # Only edits in plain text begin a text: in chat form, the template comes first
    parts = patch.patches if isinstance(patch, PatchStack) else (patch,)
    records = [record.get("edit", {}) for part in parts if part.kind != "prompt" for record in part.edits]
    in_text = [edit for edit in records if edit.get("subject") and edit.get("chat", False) is not True]
    subjects = {str(edit.get("id", "")): str(edit["subject"]) for edit in in_text}
    for prompt in prompts:
        for name, subject in subjects.items():
            if lead_before(model, prompt, subject=subject):
                log.warning(
                    "%r begins with the subject of the edit %r, and this model does not read a text's first token; put "
                    "a line break or other text before the subject: $'\\n%s'",
                    prompt,
                    name,
                    prompt.replace("'", r"\'"),
                )
