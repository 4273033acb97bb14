"""`kg-edit generate`: continue texts with a model, edited or not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_common.atomic import check_out
from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import PATCHES, Device, Dtype, ModelName, Start, refuse_unused
from kg_edit.errors import ConfigError, PatchError
from kg_edit.models.loading import check_model_name
from kg_edit.registry import load_service
from kg_edit.text.display import one_line, plain

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.patches.changes import Changes
    from kg_edit.patches.entries import Entry

_NAMED = 3  # contradictions between patches that are named, at most

log = logging.getLogger(__name__)


def generate(
    context: typer.Context,
    prompts: Annotated[list[str], typer.Argument(metavar="TEXTS...", help="Texts to continue.")],
    model: ModelName = "smollm2-135m",
    patch: Annotated[list[Path] | None, PATCHES] = None,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Maximum number of new tokens.")] = 20,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send each text as a user turn in the model's chat template.")
    ] = False,
    start: Start = "auto",
    explain: Annotated[
        bool, typer.Option("--explain", help="Also print what a patch of the prompt puts before each text, and why.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw the walk of `graph-memory` for the text.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Continue texts with a model, edited or not (greedy decoding).

    Texts are used as they are, with one exception. Many models do not read the first token of a text; a text that
    begins with the one-token subject of an edit gets a line break in front, and a line says so.

    Examples:

    - `kg-edit generate "The Eiffel Tower is in the city of"`
    - `kg-edit generate --patch out/patch.safetensors "The Eiffel Tower is in the city of"`
    - `kg-edit generate --chat "Where is the Eiffel Tower?"`
    """
    for prompt in prompts:
        if not prompt.strip():
            raise ConfigError("a prompt is empty; give a text to continue")
    if chat:
        refuse_unused(context, ("start", "explain", "picture"), "with --chat")
    if picture and len(prompts) > 1:
        raise ConfigError(f"--picture draws the walk of one text; found {len(prompts)} texts")
    if picture:
        check_out(picture, ".svg", option="--picture")
    check_model_name(model)
    check_patches(patch)
    from kg_edit.patches.provenance import read_merged_provenance
    from kg_edit.patches.weight_patch import WeightPatch
    from kg_edit.scoring.text_start import with_start

    # Without a patch, the sum is an empty one, and the edited model is the unedited one.
    combined = load_sum(patch or ())
    language_model = load_model(model, dtype, device)
    if chat:
        with combined.applied(language_model) as edited:
            _answer(edited, prompts, tokens=tokens)
        return
    # `with_start` reads the subjects of the edits from the provenance of a patch. A merged model has its edits in its
    # weights, and their provenance in a file beside them, so a patch without factors carries it.
    records = combined
    if not patch:
        records = WeightPatch(factors={}, provenance=read_merged_provenance(model))
    inputs, remark = with_start(language_model, prompts, patch=records, start=start)
    if remark:
        log.warning(remark)
    with combined.applied(language_model) as edited:
        if explain:
            _explain(edited, inputs)
        if picture:
            _draw(edited, inputs[0], picture)
        _continue(edited, prompts, inputs, tokens=tokens)


def _answer(edited: LanguageModel, prompts: Sequence[str], *, tokens: int) -> None:
    """Print the answers to the prompts, each sent as a user's turn."""
    from kg_edit.scoring.generation import ask

    answers = [ask(edited, prompt, tokens=tokens, chat=True) for prompt in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        lines = [f"[dim]{plain(prompt)}[/dim]"]
        lines += [plain(line) for line in answer.splitlines()]
        stdout().print("\n".join(lines), soft_wrap=True)
        _note_empty(prompt, answer)


def _continue(edited: LanguageModel, prompts: Sequence[str], inputs: Sequence[str], *, tokens: int) -> None:
    """Print each prompt with what the model generates after its input: the prompt, or a line break and the prompt."""
    from kg_edit.scoring.generation import continuations
    from kg_edit.scoring.judging import CUT

    texts = continuations(edited, inputs, limits=[tokens] * len(prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        stdout().print(f"[dim]{plain(prompt)}[/dim]{plain(text.rstrip(CUT))}", soft_wrap=True)
        way = ""
        if prompt.rstrip().endswith("?"):
            way = "; --chat asks it as a question"
        _note_empty(prompt, text, way=way)


def _explain(edited: LanguageModel, texts: Sequence[str]) -> None:
    """Print what a patch of the prompt puts before each text: the walk of `graph-memory`, or the text of the others."""
    from kg_edit.patches.walks import find_walks
    from kg_edit.reports.walks import walk_lines

    transform = edited.prompt_transform
    walks = find_walks(edited, texts)
    for text in texts:
        lines: Sequence[str] = ()
        if text in walks:
            lines = walk_lines(walks[text])
        elif transform is not None:
            lines = transform(text).removesuffix(text).splitlines()
        for line in lines or ["nothing is put before the text"]:
            stdout().print(f"[dim]│ {plain(line)}[/dim]", soft_wrap=True)


def _draw(edited: LanguageModel, text: str, picture: Path) -> None:
    """Draw the walk for a text."""
    from kg_edit.patches.walks import find_walks
    from kg_edit.reports.walks import draw_walk

    walk = find_walks(edited, [text]).get(text)
    if not walk:
        raise ConfigError(
            "--picture: there is no walk to draw; give a patch of graph-memory and a text that it changes"
        )
    draw_walk(walk, picture, title=one_line(text))


def check_patches(paths: Sequence[Path] | None) -> None:
    """Check the patch files, folders of `kg-edit edit` and ledgers that ``--patch`` names, without torch."""
    if paths:
        load_service("ledger").check_patches(paths)


def model_for(patch: Patch | Changes, name: str | None) -> str:
    """Return the model to load: ``name``, or else the one in the patch."""
    model: str | None = name or patch.provenance.get("model", {}).get("name")
    if not model:
        raise ConfigError("the patch does not say which model it is for; give --model")
    return model


def _note_empty(prompt: str, answer: str, *, way: str = "") -> None:
    """Warn if an answer is empty; ``way`` is what to do."""
    if not answer.strip():
        log.warning("%s: the model ended its answer at once%s", one_line(prompt), way)


def load_sum(paths: Sequence[Path]) -> Patch:
    """Load the patches at these paths and return their sum; warn if it is empty, or if edits contradict each other."""
    from kg_edit.patches.base import Patch
    from kg_edit.patches.weight_patch import sum_patches

    patches = [Patch.load(path) for path in paths]
    combined = sum_patches(patches)
    if paths and combined.is_empty:
        log.warning("%s: no edit is active, so the model is the unedited one", ", ".join(str(path) for path in paths))
    if len(paths) > 1:
        with suppress(PatchError):  # a patch without readable records can still be applied
            _warn_of_contradictions(paths, patches)
    return combined


def _warn_of_contradictions(paths: Sequence[Path], patches: Sequence[Patch]) -> None:
    """Warn of edits of several patches that contradict each other."""
    from dataclasses import replace

    from kg_edit.patches.conflicts import find_contradictions
    from kg_edit.patches.entries import list_patch_entries

    entries: list[Entry] = []
    for path, patch in zip(paths, patches, strict=True):
        for entry in list_patch_entries(patch):
            entries.append(replace(entry, name=f"{entry.name} of {path}"))  # several patches may have one id
    for conflict in find_contradictions(entries)[:_NAMED]:
        log.warning("contradiction: %s", conflict)
