"""What else did an edit change? Ask prompts on the unedited and on the edited model, and compare their texts.

*Unchanged*: if the unedited model's text begins with one of the prompt's answers, the edited model's text begins with
this answer too. Otherwise the first five tokens of both greedy texts are the same. In chat form, the first sentence has
to mention the answer, or has to be the same.

How this compares with the metrics of `kg-edit evaluate`, for a prompt

- whose answer the unedited model gives: it is unchanged if `locality.unchanged` is 1, which means that the most
  probable token is the same at each position of the answer
- whose answer the unedited model does not give: `locality.unchanged` may say something else. It reads the tokens that
  the models predict after the answer's earlier tokens, which neither model writes here, and not their greedy texts
- without an answer: it is unchanged if `locality.same_text` is 1
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from kg_edit.errors import KgEditError, PromptError, describe
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.patches.base import Patch, as_patch
from kg_edit.patches.provenance import read_merged_provenance
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.differences import PromptDifference
from kg_edit.reports.probes import show_if
from kg_edit.reports.prompts import AskedPrompt
from kg_edit.scoring.asking import ask, check_requests
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.generation import compared_text
from kg_edit.scoring.judging import generates, tidy_text
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.requests import COMPARED
from kg_edit.scoring.text_start import with_start


def compare_prompts(
    model: LanguageModel | str | Path,
    patch: Patch | LanguageModel | str | Path,
    prompts: AskedPrompt | str | Sequence[AskedPrompt | str],
    *,
    tokens: int = COMPARED,
    progress: bool = False,
) -> tuple[PromptDifference, ...]:
    """Ask each prompt on the unedited and on the edited model.

    A prompt in plain text that begins with an edited subject which the model would not read there gets a line break in
    front, as in `kg-edit generate`.

    Args:
        model: the unedited model, or its name.
        patch: the change, or its path; it is removed again at the end. Or the edited model itself, from the folder that
            `kg-edit patch merge` wrote.
        prompts: one prompt or several; a text is a prompt without an answer.
        tokens: number of tokens to compare; a text is longer where an answer has more tokens, and in chat form.
        progress: show a progress bar on a terminal.

    Raises:
        PromptError: a prompt is not a text, or its end and an answer can't be separated.
        ModelError: the edited model's output is not finite, or a prompt does not fit into the model's positions.
        ChatTemplateError: a prompt is in chat form, and the tokenizer has no chat template.
        PatchError: the patch can't be read, or another one is applied to the model.
        PatchMismatchError: the patch is for another model.
    """
    model = as_model(model)
    records: Patch  # of the edits, by which `_put_line_breaks` knows the edited subjects
    edited_context: AbstractContextManager[LanguageModel]  # yields the edited model
    if isinstance(patch, LanguageModel):  # the edited model itself: its name is its folder, where its records are
        records = WeightPatch(factors={}, provenance=read_merged_provenance(patch.name))  # changes nothing
        edited_context = nullcontext(patch)
    else:
        records = as_patch(patch)
        edited_context = records.applied(model)
    entries = _put_line_breaks(model, _as_prompts(prompts), records)
    check_prompts(model, entries, tokens=tokens)
    requests = [entry.requests(tokens=tokens) for entry in entries]
    old_answers = ask(model, requests, progress=show_if(progress, "unedited"))
    with edited_context as edited_model:
        new_answers = ask(edited_model, requests, progress=show_if(progress, "edited"))
    differences = []
    for entry, old, new in zip(entries, old_answers, new_answers, strict=True):
        differences.append(_compare(model, entry, old, new, tokens=tokens))
    return tuple(differences)


def _compare(
    model: LanguageModel, prompt: AskedPrompt, old: Evidence, new: Evidence, *, tokens: int
) -> PromptDifference:
    """Compare what the unedited and the edited model answered to one prompt."""
    unedited = tidy_text(old.texts[prompt.text])
    edited = tidy_text(new.texts[prompt.text])
    pairs = [Pair(prompt.text, answer) for answer in prompt.answer]
    return PromptDifference(
        asked=prompt,
        unchanged=is_unchanged(model, prompt, unedited, edited, tokens=tokens),
        unedited=unedited,
        edited=edited,
        unedited_probabilities=tuple(old.scores[pair].probability for pair in pairs),
        edited_probabilities=tuple(new.scores[pair].probability for pair in pairs),
        walk=new.walks.get(prompt.text),
    )


def _as_prompts(prompts: AskedPrompt | str | Sequence[AskedPrompt | str]) -> list[AskedPrompt]:
    """Return one prompt or several as a list; a text is a prompt without an answer."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        prompts = [prompts]
    entries = []
    for prompt in prompts:
        if isinstance(prompt, str):
            entries.append(AskedPrompt(prompt=prompt))
        elif isinstance(prompt, AskedPrompt):
            entries.append(prompt)
        else:
            raise PromptError(f"found {describe(prompt)} in the place of a prompt; give a text or an AskedPrompt")
    return entries


def _put_line_breaks(model: LanguageModel, entries: Sequence[AskedPrompt], records: Patch) -> list[AskedPrompt]:
    """Return the prompts, with a line break before those in plain text that need one after the edits of ``records``."""
    plain = tuple(dict.fromkeys(entry.prompt for entry in entries if not entry.chat))
    texts = with_start(model, plain, patch=records).texts
    started = dict(zip(plain, texts, strict=True))
    prompts = []
    for entry in entries:
        if entry.chat:
            prompts.append(entry)
        else:
            prompts.append(entry.model_copy(update={"prompt": started[entry.prompt]}))
    return prompts


def is_unchanged(
    model: LanguageModel, prompt: AskedPrompt, unedited: str, edited: str, *, tokens: int = COMPARED
) -> bool:
    """Return whether the edited model gives the unedited model's answer, as the module's description defines it.

    ``unedited`` and ``edited`` are the two models' texts after the prompt.
    """
    answers_before = [answer for answer in prompt.answer if generates(unedited, answer, chat=prompt.chat)]
    if answers_before:
        return any(generates(edited, answer, chat=prompt.chat) for answer in answers_before)
    old = compared_text(model, unedited, tokens=tokens, chat=prompt.chat)
    new = compared_text(model, edited, tokens=tokens, chat=prompt.chat)
    return old == new


def check_prompts(model: LanguageModel, prompts: Sequence[AskedPrompt], *, tokens: int = COMPARED) -> None:
    """Encode each prompt, to find one that can't be asked before an edit is computed or a prompt is asked."""
    for entry in prompts:
        try:
            check_requests(model, [entry.requests(tokens=tokens)])
        except KgEditError as error:
            note = f"in the prompt {entry.prompt!r}"
            if entry.edit:
                note += f" of the edit {entry.edit!r}"
            error.add_note(note)
            raise
