"""`kg-edit diff`: what an unedited and an edited model generate after the same prompts, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kg_common.atomic import check_out
from kg_edit.cli.console import stdout
from kg_edit.cli.generate import check_patches, load_sum, model_for
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import PATCHES, Device, Dtype
from kg_edit.errors import ConfigError
from kg_edit.languages import ENGLISH, FORM_LANGUAGES, check_language
from kg_edit.text.display import one_line, plain

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.reports.differences import PromptDifference
    from kg_edit.reports.prompts import AskedPrompt


def diff(
    prompts: Annotated[
        Path | None,
        typer.Argument(
            metavar="PROMPTS",
            show_default="packaged prompts",
            help="File with a prompt on each line and answers after tabs, or `.jsonl`, `.json`, `.csv` with the "
            "fields `prompt` and `answer`.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            show_default="the one that the patch names",
            help="The unedited model; without `--patch` a folder of `kg-edit patch merge`, to compare with its base.",
        ),
    ] = None,
    patch: Annotated[list[Path] | None, PATCHES] = None,
    tokens: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Number of tokens to generate and to compare.")
    ] = 5,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send each prompt as a user turn in the model's chat template.")
    ] = False,
    language: Annotated[
        str, typer.Option("--language", metavar="CODE", help="Language of the packaged prompts.")
    ] = ENGLISH,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Page to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the texts and probabilities as JSON.")] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Compare the answers of the unedited and the edited model, prompt by prompt.

    A prompt is unchanged if the edited model's text begins with the answer that the unedited model gives; without such
    an answer, if both texts begin with the same tokens. A prompt after which both models end their text at once has no
    answer, and is not counted as unchanged. The probability of each answer is shown for both models.

    Examples:

    - `kg-edit diff --patch out/`
    - `kg-edit diff --patch out/ prompts.txt --html diff.html`
    - `kg-edit diff --patch ledger/ prompts.jsonl --json`
    - `kg-edit diff --model merged/ prompts.txt`
    """
    from kg_edit.storage.atomic import write_text

    language = _check_language(language, prompts)
    merged = None  # the edited model, if ``--model`` names one with the patch in its weights; None: --patch has it
    if not patch:
        merged = _find_merged(model)
    check_patches(patch)
    if html:
        inputs = [prompts] if prompts else []
        check_out(html, ".html", option="--html", inputs=inputs)
    from kg_edit.reports.differences import count_in_words, difference_page, difference_table
    from kg_edit.reports.prompt_comparison import compare_prompts

    entries = _read_prompts(prompts, language=language, chat=chat)
    edited: LanguageModel | Patch
    if merged is None:
        edited = load_sum(patch or ())
        unedited_name = model_for(edited, model)
        edited_name = edited.summary
    else:
        edited = load_model(merged.name, dtype, device)
        unedited_name = merged.base
        edited_name = merged.name
    unedited = load_model(unedited_name, dtype, device)
    differences = compare_prompts(unedited, edited, entries, tokens=tokens, progress=True)
    if as_json:
        typer.echo(_as_json(differences, model=unedited_name))
    else:
        stdout().print(difference_table(differences))
        stdout().print(count_in_words(differences))
    if html:
        write_text(html, difference_page(differences, title=one_line(f"{unedited_name}, {edited_name}")))
        typer.echo(plain(str(html)), err=True)


def _check_language(language: str, prompts: Path | None) -> str:
    """Return the code of the packaged prompts' language; refuse it beside a file, or if there are no such prompts."""
    code = check_language(language)
    if prompts and code != ENGLISH:
        raise ConfigError("--language has no effect on the prompts of a file; leave it out")
    if code not in FORM_LANGUAGES:
        known = ", ".join(FORM_LANGUAGES)
        raise ConfigError(f"--language {language}: there are no packaged prompts; give a file of prompts, or {known}")
    return code


class _Merged(NamedTuple):
    """A model with a patch in its weights (its folder), and the unedited model from which `patch merge` made it."""

    name: str
    base: str


def _find_merged(model: str | None) -> _Merged:
    """Return the model of ``--model`` as a merged one; refuse the command, which has no patch, if it is not."""
    from kg_edit.patches.provenance import read_merged_provenance

    if model:
        base = read_merged_provenance(model).get("model", {}).get("name")
        if base:
            return _Merged(model, base)
    raise ConfigError(
        "there is nothing to compare; give --patch PATH, or --model with the folder of a model that `kg-edit patch "
        "merge` wrote"
    )


def _read_prompts(prompts: Path | None, *, language: str, chat: bool) -> Sequence[AskedPrompt]:
    """Return the prompts of a file, or the packaged ones in a language; with ``chat`` each is asked in chat form."""
    from kg_edit.reports.prompts import join_repeats, packaged_prompts, read_prompts

    entries = packaged_prompts(language=language)
    if prompts:
        entries = join_repeats(read_prompts(prompts))
    if chat:
        entries = tuple(entry.model_copy(update={"chat": True}) for entry in entries)
    return entries


def _as_json(differences: Sequence[PromptDifference], *, model: str) -> str:
    """Return the counts, and each prompt with both texts, as JSON; ``model`` is the name of the unedited one."""
    answered = [row for row in differences if row.answered]
    rows = []
    for row in differences:
        asked = row.asked.model_dump(mode="json")
        texts = row.model_dump(mode="json", exclude={"asked"})
        rows.append({**asked, **texts})
    content = {
        "model": model,
        "unchanged": sum(row.unchanged for row in answered),
        "prompts": len(differences),
        "unanswered": len(differences) - len(answered),
        "differences": rows,
    }
    return json.dumps(content, ensure_ascii=False, indent=2)
